"""Vector quantization with a codebook that is learnt by gradient.

van den Oord et al. 2017, equation 3: codewords go to the latents that chose them, by
the loss (sg(z) - e)^2, and latents to their codewords, by the commitment. Codes start
by k-means++. With ``estimator='diveq'`` both losses go and codewords learn from the
decoder alone, see `ops.straight_through.diveq`.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.quantize import base
from codax.quantize.ops import kmeans, revive
from codax.quantize.ops.straight_through import straight_through


class Config(NamedTuple):
  """Configuration of the quantizer.

  Attributes:
    num_codes: number of codewords, K.
    decay: factor of the averaged code frequencies per batch, in [0, 1).
    commitment: weight of mean (z - e)^2, codeword held fixed.
    codebook_loss: weight of mean (z - e)^2, latent held fixed.
    kmeans_iterations: number of Lloyd steps after the k-means++ seeding.
  """

  num_codes: int = 256
  decay: float = 0.99
  commitment: float = 0.25
  codebook_loss: float = 1.0
  kmeans_iterations: int = 10


@flax.struct.dataclass
class State:
  """State of the quantizer.

  Attributes:
    counts: average of the code frequencies [1, K].
  """

  counts: averages.Average


def _quantize(cfg, params, state, z, *, train, rng=None, step=0):
  del rng, step
  flat, codebook = base.split_groups(z, 1), params['codebook']
  codes = jax.vmap(kmeans.nearest)(*jax.lax.stop_gradient((flat, codebook)))
  picked = jax.vmap(lambda book, c: book[c])(codebook, codes)
  values = base.merge_groups(picked, z.shape)
  held_z, held = jax.lax.stop_gradient((z, values))
  bits = base.code_bits(averages.value(state.counts), codes)
  if train:
    use = jax.nn.one_hot(codes, cfg.num_codes).mean(1)
    state = State(averages.update(state.counts, use, cfg.decay))
  return base.Quantized(
    values=straight_through(z, held),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses={
      'commitment': cfg.commitment * jnp.mean((z - held) ** 2),
      'codebook': cfg.codebook_loss * jnp.mean((held_z - values) ** 2),
    },
    stats={'rate_bits': bits},
    state=state,
  )


def _relocate(params, state, moves, codebook):
  """Installs a codebook with revived codes and splits the mass of each pair."""
  counts = state.counts._replace(total=revive.split_mass(state.counts.total, moves))
  moved = jnp.broadcast_to(moves.dead[..., None], codebook.shape)
  return {**params, 'codebook': codebook}, State(counts), {'codebook': moved}


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values)
  base.check_numbers(
    cfg,
    positive=('num_codes',),
    not_negative=('commitment', 'codebook_loss', 'kmeans_iterations'),
    fractions=('decay',),
  )

  def init(rng, sample):
    z = base.split_groups(sample, 1)
    fit = lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
    codebook = jax.vmap(fit)(jax.random.split(rng, 1), z)
    uniform = jnp.full(codebook.shape[:2], 1.0 / cfg.num_codes, jnp.float32)
    return {'codebook': codebook}, State(averages.from_value(uniform, cfg.decay))

  return base.Quantizer(
    init=init,
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    code_prior=lambda state: base.normalize(averages.value(state.counts)),
    **base.explicit_codebook(lambda params, state: params['codebook']),
    num_codes=(cfg.num_codes,),
    relocation=base.Relocation(
      usage=lambda state: averages.value(state.counts),
      scale=lambda state: None,
      apply=_relocate,
    ),
  )

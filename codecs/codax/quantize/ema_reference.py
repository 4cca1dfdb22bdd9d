"""The codebook of running averages as its source describes it, faults included.

van den Oord et al. 2017, appendix A.1, without the repairs of `vq_ema`. The faults, all
of them on purpose:

1. Sizes of clusters start at 0 while sums start at the codewords, and every code moves
   in every step. A code that the first batch leaves out is thrown to its start divided
   by about epsilon.
2. Codes start uniform in +-1/K, whatever the latents are.
3. No dead code is moved.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax.quantize import base
from codax.quantize.ops import kmeans
from codax.quantize.ops.straight_through import straight_through


class Config(NamedTuple):
  """Configuration of the description.

  Attributes:
    num_codes: number of codewords, K.
    decay: factor of the averages per batch, in [0, 1).
    epsilon: Laplace smoothing of the cluster sizes, in vectors.
    commitment: weight of mean (z - e)^2, codeword held fixed.
  """

  num_codes: int = 512
  decay: float = 0.99
  epsilon: float = 1e-5
  commitment: float = 0.25


@flax.struct.dataclass
class State:
  """State of the quantizer; arrays lead with a group axis of length 1.

  Attributes:
    codebook: float32 [1, K, d].
    sizes: float32 [1, K], averaged number of vectors of a batch; starts at 0.
    sums: float32 [1, K, d], averaged sums of these vectors; starts at the codebook.
  """

  codebook: jax.Array
  sizes: jax.Array
  sums: jax.Array


def _smooth(cfg: Config, sizes: jax.Array) -> jax.Array:
  """Returns the cluster sizes [1, K] after Laplace smoothing; the sum stays."""
  total = sizes.sum(-1, keepdims=True)
  return (sizes + cfg.epsilon) / (total + cfg.num_codes * cfg.epsilon) * total


def _next_state(cfg: Config, state: State, z: jax.Array, codes: jax.Array) -> State:
  """Makes the source's update from a batch z [1, N, d]; every code moves."""
  one_hot = jax.nn.one_hot(codes, cfg.num_codes, dtype=z.dtype)
  batch = jnp.einsum('gnk,gnd->gkd', one_hot, z, precision='highest')
  fold = lambda average, x: cfg.decay * average + (1 - cfg.decay) * x
  sizes, sums = fold(state.sizes, one_hot.sum(1)), fold(state.sums, batch)
  # without smoothing the source divides by 0; a state has to be finite
  size = jnp.maximum(_smooth(cfg, sizes), 1e-20)
  return State(sums / size[..., None], sizes, sums)


def _nearest(z: jax.Array, codebook: jax.Array) -> jax.Array:
  """Returns the indices [N] of the nearest of codewords [K, d]; ties: the lowest.

  About the origin and not, as `kmeans.nearest`, about the codewords' mean: thrown codes
  take that far away, and the digits of the others with it.
  """
  scores = 2 * kmeans.products(z, codebook) - jnp.sum(codebook**2, -1)[None]
  return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _quantize(cfg, params, state, z, *, train, rng=None, step=0):
  del params, rng, step
  flat = jax.lax.stop_gradient(base.split_groups(z, 1))
  codes = jax.vmap(_nearest)(flat, state.codebook)
  picked = jax.vmap(lambda book, c: book[c])(state.codebook, codes)
  values = base.merge_groups(picked, z.shape)
  return base.Quantized(
    values=straight_through(z, values),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses={'commitment': cfg.commitment * jnp.mean((z - values) ** 2)},
    stats={'rate_bits': base.code_bits(_prior(state), codes)},
    state=_next_state(cfg, state, flat, codes) if train else state,
  )


def _prior(state: State) -> jax.Array:
  """Returns the shares of the codes [1, K]; they are alike before the first batch."""
  total = state.sizes.sum(-1, keepdims=True)
  alike = jnp.full_like(state.sizes, 1.0 / state.sizes.shape[-1])
  return jnp.where(total > 0, state.sizes / jnp.where(total > 0, total, 1.0), alike)


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values)
  base.check_numbers(
    cfg,
    positive=('num_codes',),
    not_negative=('epsilon', 'commitment'),
    fractions=('decay',),
  )

  def init(rng, sample):
    dim = base.split_groups(sample, 1).shape[-1]
    bound, shape = 1.0 / cfg.num_codes, (1, cfg.num_codes, dim)
    codebook = jax.random.uniform(rng, shape, jnp.float32, minval=-bound, maxval=bound)
    return {}, State(codebook, jnp.zeros(shape[:2], jnp.float32), codebook)

  return base.Quantizer(
    init=init,
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    code_prior=_prior,
    **base.explicit_codebook(lambda params, state: state.codebook),
    num_codes=(cfg.num_codes,),
  )

"""Vector quantization with a codebook of running averages.

van den Oord et al. 2017, appendix A.1, with two repairs: the averages are debiased, so
that a code nobody has used yet keeps its place, and codes start by k-means++.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.quantize import base
from codax.quantize.ops import kmeans, revive
from codax.quantize.ops.straight_through import straight_through

RENAMED = {'start': 'quantizer.init'}


class Config(NamedTuple):
  """Configuration of the quantizer.

  Attributes:
    num_codes: number of codewords, K.
    decay: factor of the averages per batch, in [0, 1).
    epsilon: Laplace smoothing of the cluster sizes, in vectors of a batch.
    commitment: weight of mean (z - e)^2, codeword held fixed.
    init: initial codebook, 'kmeans' or 'uniform' (in +-1/K, the original's).
    kmeans_iterations: number of Lloyd steps after the k-means++ seeding.
  """

  num_codes: int = 256
  decay: float = 0.99
  epsilon: float = 1e-5
  commitment: float = 0.25
  init: str = 'kmeans'
  kmeans_iterations: int = 10


@flax.struct.dataclass
class State:
  """State of the quantizer; arrays lead with a group axis of length 1.

  Attributes:
    codebook: float32 [1, K, d].
    clusters: average of (use [1, K], sums [1, K, d]).
  """

  codebook: jax.Array
  clusters: averages.Average


def _init(cfg, rng, sample):
  z = base.split_groups(sample, 1)
  if cfg.init == 'kmeans':
    codebook = jax.vmap(
      lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
    )(jax.random.split(rng, 1), z)
  else:
    shape = (1, cfg.num_codes, z.shape[-1])
    bound = 1.0 / cfg.num_codes
    codebook = jax.random.uniform(rng, shape, jnp.float32, minval=-bound, maxval=bound)
  use = jnp.full(codebook.shape[:2], 1.0 / cfg.num_codes, jnp.float32)
  clusters = averages.from_value((use, codebook * use[..., None]), cfg.decay)
  return {}, State(codebook, clusters)


def _next_state(cfg, state, z, codes):
  """Folds a batch z [1, N, d] into the averages; only codes that it used move."""
  one_hot = jax.nn.one_hot(codes, cfg.num_codes, dtype=z.dtype)
  use = one_hot.mean(1)
  sums = jnp.einsum('gnk,gnd->gkd', one_hot, z, precision='highest') / z.shape[1]
  clusters = averages.update(state.clusters, (use, sums), cfg.decay)
  size, total = averages.value(clusters)
  # Laplace smoothing, epsilon in vectors of a batch; the total mass stays 1
  epsilon = cfg.epsilon / z.shape[1]
  smooth = (size + epsilon) / (1 + cfg.num_codes * epsilon)
  moved = total / jnp.maximum(smooth, 1e-30)[..., None]
  return State(jnp.where(use[..., None] > 0, moved, state.codebook), clusters)


def _quantize(cfg, params, state, z, *, train, rng=None, step=0):
  del params, rng, step
  flat = jax.lax.stop_gradient(base.split_groups(z, 1))
  codes = jax.vmap(kmeans.nearest)(flat, state.codebook)
  picked = jax.vmap(lambda book, c: book[c])(state.codebook, codes)
  values = base.merge_groups(picked, z.shape)
  prior = averages.value(state.clusters)[0]
  return base.Quantized(
    values=straight_through(z, values),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses={'commitment': cfg.commitment * jnp.mean((z - values) ** 2)},
    stats={'rate_bits': base.code_bits(prior, codes)},
    state=_next_state(cfg, state, flat, codes) if train else state,
  )


def _relocate(params, state, moves, codebook):
  """Installs a codebook with revived codes and splits the mass of each pair."""
  use, sums = state.clusters.total
  use = revive.split_mass(use, moves)
  touched = (moves.dead | moves.donors)[..., None]
  sums = jnp.where(touched, codebook * use[..., None], sums)
  clusters = state.clusters._replace(total=(use, sums))
  return params, State(codebook, clusters), {}


def _usage(state):
  use, _ = state.clusters.total
  return use / jnp.maximum(state.clusters.weight, 1e-20)


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values, RENAMED)
  base.check_choices(cfg, {'init': ('kmeans', 'uniform')})
  base.check_numbers(
    cfg,
    positive=('num_codes',),
    not_negative=('epsilon', 'commitment', 'kmeans_iterations'),
    fractions=('decay',),
  )

  def code_prior(state):
    return base.normalize(averages.value(state.clusters)[0])

  return base.Quantizer(
    init=lambda rng, sample: _init(cfg, rng, sample),
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    code_prior=code_prior,
    **base.explicit_codebook(lambda params, state: state.codebook),
    num_codes=(cfg.num_codes,),
    relocation=base.Relocation(_usage, lambda state: None, _relocate),
  )

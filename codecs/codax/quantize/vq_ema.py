"""Vector quantisation with a codebook of running averages.

van den Oord et al. 2017, appendix A.1, with two repairs: the averages are debiased, so
that a code nobody has used yet keeps its place, and codes start by k-means++.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.quantize import base, kmeans, revive
from codax.quantize.straight_through import ESTIMATORS


class Config(NamedTuple):
  """Knobs of the quantiser.

  Attributes:
    num_codes: K.
    groups: latents are cut into this many parts with a codebook each.
    decay: of the averages.
    epsilon: Laplace smoothing of the cluster sizes.
    commitment: weight of mean (z - e)^2, codeword held fixed.
    estimator: 'straight_through' or 'rotation'.
    start: 'kmeans' or 'uniform' (in +-1/K, the original's).
    kmeans_iterations: Lloyd steps after the k-means++ start.
    revive_below: a code used less than this times 1/K takes half of the most used
      code's place; 0 (the original) moves none.
  """

  num_codes: int = 256
  groups: int = 1
  decay: float = 0.99
  epsilon: float = 1e-5
  commitment: float = 0.25
  estimator: str = 'straight_through'
  start: str = 'kmeans'
  kmeans_iterations: int = 10
  revive_below: float = 0.0


@flax.struct.dataclass
class State:
  """Codebook [G, K, d] and averages of (use [G, K], sums [G, K, d])."""

  codebook: jax.Array
  clusters: averages.Average


def _init(cfg, rng, sample):
  z = base.split_groups(sample, cfg.groups)
  keys = jax.random.split(rng, cfg.groups)
  if cfg.start == 'kmeans':
    codebook = jax.vmap(
      lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
    )(keys, z)
  else:
    shape = (cfg.groups, cfg.num_codes, z.shape[-1])
    bound = 1.0 / cfg.num_codes
    codebook = jax.random.uniform(rng, shape, jnp.float32, minval=-bound, maxval=bound)
  use = jnp.full(codebook.shape[:2], 1.0 / cfg.num_codes, jnp.float32)
  clusters = averages.from_value((use, codebook * use[..., None]), cfg.decay)
  return {}, State(codebook, clusters)


def _next_state(cfg, state, z, codes):
  """Folds a batch z [G, N, d] into the averages; only codes that it used move."""
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
  groups = jax.lax.stop_gradient(base.split_groups(z, cfg.groups))
  codes = jax.vmap(kmeans.nearest)(groups, state.codebook)
  picked = jax.vmap(lambda book, c: book[c])(state.codebook, codes)
  values = base.merge_groups(picked, z.shape)
  prior = averages.value(state.clusters)[0]
  bits = -jnp.log2(jnp.maximum(jnp.take_along_axis(prior, codes, 1), 1e-9)).mean()
  return base.Quantized(
    values=base.estimate(ESTIMATORS[cfg.estimator], z, values, cfg.groups),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses={'commitment': cfg.commitment * jnp.mean((z - values) ** 2)},
    stats={'rate_bits': bits},
    state=_next_state(cfg, state, groups, codes) if train else state,
  )


def _revive(cfg, params, state, rng):
  if cfg.revive_below <= 0:
    return params, state, {}
  use, sums = state.clusters.total
  weight = jnp.maximum(state.clusters.weight, 1e-20)
  moves = revive.plan(use / weight, cfg.revive_below)
  book = revive.split(rng, state.codebook, moves)
  use = revive.share(use, moves)
  touched = (moves.dead | moves.given)[..., None]
  sums = jnp.where(touched, book * use[..., None], sums)
  clusters = state.clusters._replace(total=(use, sums))
  return params, State(book, clusters), {}


def make(**knobs: Any) -> base.Quantizer:
  """The quantiser with `Config` knobs given by name; unknown ones are errors."""
  cfg = base.config(Config, knobs)
  base.check_choices(cfg, {'estimator': ESTIMATORS, 'start': ('kmeans', 'uniform')})
  base.check_numbers(
    cfg,
    positive=('num_codes', 'groups'),
    not_negative=('epsilon', 'commitment', 'kmeans_iterations'),
    fractions=('decay', 'revive_below'),
  )

  def code_prior(state):
    return base.normalised(averages.value(state.clusters)[0])

  return base.Quantizer(
    init=lambda rng, sample: _init(cfg, rng, sample),
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    decode=lambda params, state, codes: base.look_up(state.codebook, codes),
    code_prior=code_prior,
    revive=lambda params, state, rng: _revive(cfg, params, state, rng),
  )

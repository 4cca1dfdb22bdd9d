"""Composition of quantizers: each function takes a quantizer and returns another.

  q = grouped(with_revival(vq_ema.make(num_codes=512), below=0.02), groups=2)
  q = residual(q, stages=4)

The order from the inside out is `with_revival`, `grouped`, `residual`,
`with_estimator`; `quantize.get` applies them in that order.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax.errors import CodaxError
from codax.quantize import base
from codax.quantize.ops import revive
from codax.quantize.ops.straight_through import (
  ESTIMATORS,
  NOISY,
  estimate,
  straight_through,
)

# ----------------------------------------------------------------------------- Revival


class Revival(NamedTuple):
  """Configuration of `with_revival`.

  Attributes:
    below: codes used less than this share of 1/K are dead, in [0, 1); 0 moves none.
    to: new place of a dead code, 'split' (beside the most used code) or 'data' (a
      recent latent).
  """

  below: float = 0.02
  to: str = 'split'


@flax.struct.dataclass
class RecentLatents:
  """State of a quantizer whose dead codes move to data.

  Attributes:
    inner: state of the quantizer.
    recent: float [G, R, d], latents of the last batch.
  """

  inner: Any
  recent: jax.Array


def check_revival(values: Mapping[str, Any]) -> Revival:
  """Returns `values` by name as a `Revival`; unknown and bad ones are errors."""
  config = base.make_config(Revival, values, prefix='revival.')
  base.check_numbers(config, fractions=('below',), prefix='revival.')
  base.check_choices(config, {'to': ('split', 'data')}, prefix='revival.')
  return config


def _sample_latents(z: jax.Array, count: int) -> jax.Array:
  """Returns up to `count` of z [G, N, d], evenly spaced: neighbours are alike."""
  count = min(count, z.shape[1])
  return z[:, :: z.shape[1] // count][:, :count]


def with_revival(
  inner: base.Quantizer, below: float = 0.02, to: str = 'split'
) -> base.Quantizer:
  """Moves codes that are hardly used, after each optimizer step.

  Args:
    inner: quantizer with codewords.
    below: see `Revival`.
    to: see `Revival`.
  """
  check_revival({'below': below, 'to': to})
  if not below:
    return inner
  if inner.relocation is None:
    raise CodaxError('quantizer.revival.below > 0 needs a quantizer with codewords')
  hooks, codes = inner.relocation, inner.num_codes[0]

  def revive_split(params, state, rng):
    moves = revive.pair(hooks.usage(state), below)
    codebook = inner.codebook(params, state)
    scale = hooks.scale(state)
    return hooks.apply(
      params, state, moves, revive.split_codewords(rng, codebook, moves, scale)
    )

  if to == 'split':
    return inner._replace(revive=revive_split)

  def init(rng, sample):
    params, state = inner.init(rng, sample)
    z = base.split_groups(sample, inner.groups)
    return params, RecentLatents(state, _sample_latents(z, codes))

  def quantize(params, state, z, *, train, **kw):
    out = inner.quantize(params, state.inner, z, train=train, **kw)
    recent = state.recent
    if train:
      groups = jax.lax.stop_gradient(base.split_groups(z, inner.groups))
      new = _sample_latents(groups, codes)[:, : recent.shape[1]]
      recent = recent.at[:, : new.shape[1]].set(new)
    return out._replace(state=RecentLatents(out.state, recent))

  def revive_data(params, state, rng):
    moves = revive.pair(hooks.usage(state.inner), below)
    pool = jax.random.permutation(rng, state.recent, axis=1)
    target = pool[:, jnp.arange(codes) % pool.shape[1]]
    codebook = inner.codebook(params, state.inner)
    codebook = jnp.where(moves.dead[..., None], target, codebook)
    params, new, moved = hooks.apply(params, state.inner, moves, codebook)
    return params, RecentLatents(new, state.recent), moved

  return _over_state(inner, lambda state: state.inner)._replace(
    init=init, quantize=quantize, revive=revive_data
  )


def _over_state(inner: base.Quantizer, unwrap: Any) -> base.Quantizer:
  """Adapts the functions that only read the state to a state around the inner one."""
  reads = ('decode', 'export', 'code_vectors', 'codebook')

  def adapt(function):
    return lambda params, state, *args: function(params, unwrap(state), *args)

  return inner._replace(
    code_prior=lambda state: inner.code_prior(unwrap(state)),
    relocation=None,
    **{name: adapt(getattr(inner, name)) for name in reads},
  )


# --------------------------------------------------------------------------- Estimator


def with_estimator(inner: base.Quantizer, name: str) -> base.Quantizer:
  """Replaces the gradient to the latents by that of a straight-through estimator.

  Args:
    inner: quantizer.
    name: key of `straight_through.ESTIMATORS` or `straight_through.NOISY`; works on
      each group of channels alone. The latter also send a gradient to codewords that
      are parameters, in place of all losses of the inner quantizer.
  """
  base.check_choices(_Estimator(name), {'estimator': (*ESTIMATORS, *NOISY)})
  groups = inner.groups // inner.stages
  if name in NOISY:
    return inner._replace(
      quantize=functools.partial(_quantize_noisily, inner, NOISY[name], groups)
    )

  def quantize(params, state, z, **kw):
    out = inner.quantize(params, state, z, **kw)
    values = jax.lax.stop_gradient(out.values)
    values = estimate(ESTIMATORS[name], inner.project(z), values, groups)
    return out._replace(values=values)

  return inner._replace(quantize=quantize)


def _quantize_noisily(
  inner, estimator, groups, params, state, z, *, train, rng=None, **kw
):
  inner_rng = noise_rng = None
  if rng is not None:
    inner_rng, noise_rng = jax.random.split(rng)
  out = inner.quantize(params, state, z, train=train, rng=inner_rng, **kw)
  if not train:
    return out
  values = inner.decode(params, state, out.codes)
  with_key = lambda z, values: estimator(z, values, noise_rng)
  values = estimate(with_key, inner.project(z), values, groups)
  return out._replace(values=values, losses={})


class _Estimator(NamedTuple):
  estimator: str


# ------------------------------------------------------------------------------ Groups


def grouped(inner: base.Quantizer, groups: int) -> base.Quantizer:
  """Cuts the channels into `groups` slices with a quantizer of their own each.

  Params and state are those of the inner quantizer, stacked along a new leading axis.
  Losses and stats are means over the groups.

  Args:
    inner: quantizer with one stage.
    groups: number of slices, >= 1.
  """
  if groups < 1:
    raise CodaxError(f'quantizer.groups = {groups} must be positive')
  if groups == 1:
    return inner
  if inner.stages > 1:
    raise ValueError('apply `residual` to `grouped`, not the other way round')
  slices = functools.partial(_slice_channels, groups=groups)

  def by_group(function):
    """Maps functions of (params, state) to arrays [G, ...]; None stays None."""
    return lambda *trees: jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(function)(*trees)
    )

  def init(rng, sample):
    return jax.vmap(inner.init)(jax.random.split(rng, groups), slices(sample))

  def decode(params, state, codes):
    return _merge_channels(jax.vmap(inner.decode)(params, state, slices(codes)))

  def revive_groups(params, state, rng):
    return jax.vmap(inner.revive)(params, state, jax.random.split(rng, groups))

  return inner._replace(
    init=init,
    quantize=functools.partial(_quantize_groups, inner, groups),
    decode=decode,
    code_prior=by_group(inner.code_prior),
    export=by_group(inner.export),
    code_vectors=by_group(inner.code_vectors),
    codebook=by_group(inner.codebook),
    num_codes=inner.num_codes * groups,
    project=lambda z: _merge_channels(jax.vmap(inner.project)(slices(z))),
    revive=revive_groups,
    relocation=None,
  )


def _quantize_groups(
  inner, groups, params, state, z, *, train, rng=None, step=0, log_prior=None
):
  keys = None if rng is None else jax.random.split(rng, groups)
  if log_prior is not None:
    shape = (*log_prior.shape[:-2], groups, -1, log_prior.shape[-1])
    log_prior = jnp.moveaxis(log_prior.reshape(shape), -3, 0)

  def quantize(params, state, z, key, log_prior):
    more = {} if log_prior is None else {'log_prior': log_prior}
    return inner.quantize(params, state, z, train=train, rng=key, step=step, **more)

  slices = _slice_channels(z, groups)
  out = jax.vmap(quantize)(params, state, slices, keys, log_prior)
  mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
  return base.Quantized(
    values=_merge_channels(out.values),
    codes=_merge_channels(out.codes),
    losses=mean(out.losses),
    stats=mean(out.stats),
    state=out.state,
  )


def _slice_channels(x: jax.Array, groups: int) -> jax.Array:
  """Reshapes [..., G * d] to [G, ..., d]."""
  if x.shape[-1] % groups:
    raise CodaxError(
      f'latent dimension {x.shape[-1]} is not a multiple of groups = {groups}'
    )
  return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)


def _merge_channels(x: jax.Array) -> jax.Array:
  """Reshapes [G, ..., d] to [..., G * d]."""
  x = jnp.moveaxis(x, 0, -2)
  return x.reshape(*x.shape[:-2], -1)


# ----------------------------------------------------------------------------- Stages


def residual(inner: base.Quantizer, stages: int) -> base.Quantizer:
  """Sums the values of `stages` quantizers, each of the residual of those before it.

  Juang & Gray 1982; Zeghidour et al. 2021 (SoundStream). Codes are ordered stage by
  stage. Losses and stats are means over the stages. Params are a dict by stage, state
  is a tuple.

  Args:
    inner: quantizer with a codebook.
    stages: number of stages, >= 1.
  """
  if stages < 1:
    raise CodaxError(f'quantizer.stages = {stages} must be positive')
  if stages == 1:
    return inner
  names = [f'stage_{i}' for i in range(stages)]

  def map_stages(function, params, state):
    return [function(params[name], now) for name, now in zip(names, state)]

  def decode(params, state, codes):
    parts = jnp.split(codes, stages, axis=-1)
    values = [inner.decode(params[n], s, c) for n, s, c in zip(names, state, parts)]
    return sum(values[1:], values[0])

  def export(params, state):
    arrays = map_stages(inner.export, params, state)
    return {f'residual/{i}/{k}': a for i, d in enumerate(arrays) for k, a in d.items()}

  def revive_stages(params, state, rng):
    keys = jax.random.split(rng, stages)
    new = [inner.revive(params[n], s, k) for n, s, k in zip(names, state, keys)]
    new_params, new_state, moved = zip(*new)
    return dict(zip(names, new_params)), new_state, dict(zip(names, moved))

  return inner._replace(
    init=functools.partial(_init_stages, inner, names),
    quantize=functools.partial(_quantize_stages, inner, names),
    decode=decode,
    code_prior=lambda state: jnp.concatenate([inner.code_prior(s) for s in state]),
    export=export,
    code_vectors=lambda *trees: jnp.concatenate(map_stages(inner.code_vectors, *trees)),
    codebook=base.no_codebook,
    num_codes=inner.num_codes * stages,
    revive=revive_stages,
    stages=stages,
    relocation=None,
  )


def _init_stages(inner, names, rng, sample):
  params, state, rest = {}, [], sample
  for name, key in zip(names, jax.random.split(rng, len(names))):
    params[name], now = inner.init(key, rest)
    if inner.codebook(params[name], now) is None:
      raise CodaxError('quantizer.stages > 1 needs a quantizer with a codebook')
    rest = rest - inner.quantize(params[name], now, rest, train=False).values
    state.append(now)
  return params, tuple(state)


def _quantize_stages(
  inner, names, params, state, z, *, train, rng=None, step=0, log_prior=None
):
  stages = len(names)
  keys = [None] * stages if rng is None else jax.random.split(rng, stages)
  priors = [{}] * stages
  if log_prior is not None:
    priors = [{'log_prior': p} for p in jnp.split(log_prior, stages, axis=-2)]
  total, outs = jnp.zeros_like(z), []
  for name, now, key, prior in zip(names, state, keys, priors):
    out = inner.quantize(
      params[name], now, z - total, train=train, rng=key, step=step, **prior
    )
    total = total + jax.lax.stop_gradient(out.values)
    outs.append(out)
  mean = lambda trees: jax.tree.map(lambda *x: sum(x) / stages, *trees)
  return base.Quantized(
    values=straight_through(z, total),
    codes=jnp.concatenate([out.codes for out in outs], axis=-1),
    losses=mean([out.losses for out in outs]),
    stats=mean([out.stats for out in outs]),
    state=tuple(out.state for out in outs),
  )

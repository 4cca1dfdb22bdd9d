"""Composition of quantizers: each function takes a quantizer and returns another.

  q = grouped(with_revival(vq_ema.make(num_codes=512), below=0.02), groups=2)
  q = residual(q, stages=4)

The order from the inside out is `with_revival`, `grouped`, `residual`,
`with_estimator`; `quantize.get` applies them in that order.
"""

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
    name: key of `straight_through.ESTIMATORS`; works on each group of channels alone.
  """
  base.check_choices(_Estimator(name), {'estimator': ESTIMATORS})
  groups = inner.groups // inner.stages

  def quantize(params, state, z, **kw):
    out = inner.quantize(params, state, z, **kw)
    values = jax.lax.stop_gradient(out.values)
    values = estimate(ESTIMATORS[name], inner.project(z), values, groups)
    return out._replace(values=values)

  return inner._replace(quantize=quantize)


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

  def slices(x):
    """[..., G * d] to [G, ..., d]."""
    if x.shape[-1] % groups:
      raise CodaxError(
        f'latent dimension {x.shape[-1]} is not a multiple of groups = {groups}'
      )
    return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 0)

  def init(rng, sample):
    return jax.vmap(inner.init)(jax.random.split(rng, groups), slices(sample))

  def quantize(params, state, z, *, train, rng=None, step=0, log_prior=None):
    keys = None if rng is None else jax.random.split(rng, groups)
    if log_prior is not None:
      shape = (*log_prior.shape[:-2], groups, -1, log_prior.shape[-1])
      log_prior = jnp.moveaxis(log_prior.reshape(shape), -3, 0)

    def one(params, state, z, key, log_prior):
      kw = {} if log_prior is None else {'log_prior': log_prior}
      return inner.quantize(params, state, z, train=train, rng=key, step=step, **kw)

    out = jax.vmap(one)(params, state, slices(z), keys, log_prior)
    mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
    return base.Quantized(
      values=_merge_channels(out.values),
      codes=_merge_channels(out.codes),
      losses=mean(out.losses),
      stats=mean(out.stats),
      state=out.state,
    )

  def decode(params, state, codes):
    return _merge_channels(jax.vmap(inner.decode)(params, state, slices(codes)))

  def by_group(function):
    """Maps (params, state) -> arrays [G, ...]; None stays None."""
    return lambda params, state: jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(function)(params, state)
    )

  def code_prior(state):
    prior = jax.vmap(inner.code_prior)(state)
    return prior.reshape(-1, prior.shape[-1])

  def project(z):
    return _merge_channels(jax.vmap(inner.project)(slices(z)))

  def revive_groups(params, state, rng):
    return jax.vmap(inner.revive)(params, state, jax.random.split(rng, groups))

  return inner._replace(
    init=init,
    quantize=quantize,
    decode=decode,
    code_prior=code_prior,
    export=by_group(inner.export),
    code_vectors=by_group(inner.code_vectors),
    codebook=by_group(inner.codebook),
    num_codes=inner.num_codes * groups,
    project=project,
    revive=revive_groups,
    relocation=None,
  )


def _merge_channels(x: jax.Array) -> jax.Array:
  """Reshapes [G, ..., d] to [..., G * d]."""
  x = jnp.moveaxis(x, 0, -2)
  return x.reshape(*x.shape[:-2], -1)


# ----------------------------------------------------------------------------- Stages


def residual(inner: base.Quantizer, stages: int) -> base.Quantizer:
  """Sums the values of `stages` quantizers, each of the residual of those before it.

  Juang & Gray 1982; Zeghidour et al. 2021 (SoundStream). Codes are ordered stage by
  stage. Losses are means over the stages; `rate_bits` and other stats too.

  Args:
    inner: quantizer with a codebook.
    stages: number of stages, >= 1.
  """
  if stages < 1:
    raise CodaxError(f'quantizer.stages = {stages} must be positive')
  if stages == 1:
    return inner
  names = [f'stage_{i}' for i in range(stages)]
  width = inner.groups

  def init(rng, sample):
    params, state, rest = {}, [], sample
    for name, key in zip(names, jax.random.split(rng, stages)):
      params[name], now = inner.init(key, rest)
      if inner.codebook(params[name], now) is None:
        raise CodaxError('quantizer.stages > 1 needs a quantizer with a codebook')
      out = inner.quantize(params[name], now, rest, train=False)
      rest = rest - out.values
      state.append(now)
    return params, tuple(state)

  def quantize(params, state, z, *, train, rng=None, step=0, log_prior=None):
    keys = [None] * stages if rng is None else jax.random.split(rng, stages)
    total, outs = jnp.zeros_like(z), []
    for i, name in enumerate(names):
      kw = {}
      if log_prior is not None:
        kw['log_prior'] = log_prior[..., i * width : (i + 1) * width, :]
      out = inner.quantize(
        params[name], state[i], z - total, train=train, rng=keys[i], step=step, **kw
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

  def decode(params, state, codes):
    parts = jnp.split(codes, stages, axis=-1)
    values = [inner.decode(params[n], s, c) for n, s, c in zip(names, state, parts)]
    return sum(values[1:], values[0])

  def export(params, state):
    stage = [inner.export(params[n], s) for n, s in zip(names, state)]
    return {f'residual/{i}/{k}': a for i, d in enumerate(stage) for k, a in d.items()}

  def code_vectors(params, state):
    vectors = [inner.code_vectors(params[n], s) for n, s in zip(names, state)]
    return jnp.concatenate(vectors)

  def revive_stages(params, state, rng):
    moved, new_params, new_state = {}, {}, []
    for name, now, key in zip(names, state, jax.random.split(rng, stages)):
      new_params[name], now, moved[name] = inner.revive(params[name], now, key)
      new_state.append(now)
    return new_params, tuple(new_state), moved

  return inner._replace(
    init=init,
    quantize=quantize,
    decode=decode,
    code_prior=lambda state: jnp.concatenate([inner.code_prior(s) for s in state]),
    export=export,
    code_vectors=code_vectors,
    codebook=base.no_codebook,
    num_codes=inner.num_codes * stages,
    revive=revive_stages,
    stages=stages,
    relocation=None,
  )

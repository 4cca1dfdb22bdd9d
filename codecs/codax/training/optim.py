"""Optimisers from a configuration.

The pieces are optax's, in AdamW's order (Loshchilov and Hutter 2019): clip the
gradient, scale it, add the decoupled weight decay, multiply by the learning rate of the
group that the parameter belongs to.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from codax import config as config_lib
from codax import errors

Schedule = Callable[[Any], Any]

# Options of each optimiser beside the common ones, and their defaults.
_OWN: dict[str, dict[str, Any]] = {
  'adam': {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8},
  'adamw': {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8},
  'rmsprop': {'decay': 0.9, 'eps': 1e-8, 'momentum': 0.0, 'centered': False},
  'sgd': {'momentum': 0.0, 'nesterov': False},
}
_COMMON: dict[str, Any] = {
  'name': 'adamw',
  'learning_rate': 3e-4,
  'schedule': 'constant',
  'warmup_steps': 0,
  'end_factor': 0.0,
  'weight_decay': 0.0,
  'decay_pattern': None,
  'clip_norm': 0.0,
  'groups': (),
}
_RANGES = {
  key: (0, None)
  for key in (
    'learning_rate',
    'warmup_steps',
    'end_factor',
    'weight_decay',
    'clip_norm',
  )
}
_SCHEDULES = ('constant', 'cosine', 'linear')
BASE = 'base'


def make(
  config: Mapping[str, Any], total_steps: int, params: Any
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
  """Makes an optimiser.

  Args:
    config: any of these, None or absent meaning the default:
      name: 'adamw', 'adam', 'sgd' or 'rmsprop' (adam and adamw differ in nothing but
        the name: weight decay is decoupled for all, and 0 unless given).
      learning_rate: the peak, after warm-up.
      schedule: 'constant', 'cosine' or 'linear', from the end of warm-up to the last
        step, down to ``learning_rate * end_factor``.
      warmup_steps: linear rise; the first step already has 1 / warmup_steps of it.
      weight_decay: times the learning rate, on arrays of two or more axes, or, with
        `decay_pattern`, on the parameters whose path the regular expression matches.
      clip_norm: greatest global norm of the gradient; 0 means no clipping.
      groups: ((regular expression, multiplier), ...); the first that matches
        anywhere in a parameter's path, 'a/b/c', multiplies its learning rate.
      b1, b2, eps (adam, adamw); momentum, nesterov (sgd); decay, eps, momentum,
        centered (rmsprop; centered divides by the gradient's standard deviation).
    total_steps: length of the schedule.
    params: pytree to be optimised; its paths and shapes are used.

  Returns:
    The gradient transformation, and the learning rate schedule of each group: name ->
    function of the step (that of the update, from 0). The group of all parameters that
    no expression matches is ``'base'``, the others are named by their expressions.

  Raises:
    CodaxError: unknown name or option, a number out of range, or an expression that
      matches nothing.
  """
  config = _options(config)
  base = _schedule(config, total_steps)
  labels, rates = _groups(config['groups'], params, base)
  parts = []
  if config['clip_norm'] > 0:
    parts.append(optax.clip_by_global_norm(config['clip_norm']))
  parts.append(_scale(config))
  if config['weight_decay'] > 0:
    mask = _decay_mask(config['decay_pattern'], params)
    parts.append(optax.add_decayed_weights(config['weight_decay'], mask))
  steps = {name: optax.scale_by_learning_rate(rate) for name, rate in rates.items()}
  parts.append(optax.multi_transform(steps, labels) if len(rates) > 1 else steps[BASE])
  return optax.chain(*parts), rates


def make_each(
  configs: Mapping[str, Mapping[str, Any]], total_steps: int, params: Mapping[str, Any]
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
  """Makes one optimiser for each component of the parameters.

  Args:
    configs: options by component, see `make`; each clips the gradient of its own
      component.
    total_steps: length of the schedules.
    params: pytrees by component, those of `configs`.

  Returns:
    The gradient transformation of the whole, its state a dict by component, and the
    learning rate schedules: 'COMPONENT', or 'COMPONENT/EXPRESSION' of a group.

  Raises:
    CodaxError: see `make`; the message begins with the component.
  """
  parts, rates = {}, {}
  for name in params:
    try:
      parts[name], own = make(configs[name], total_steps, params[name])
    except errors.CodaxError as e:
      raise errors.CodaxError(f'optimizers.{name}: {e}') from e
    rates |= {name if k == BASE else f'{name}/{k}': rate for k, rate in own.items()}

  def init(params: Any) -> dict[str, Any]:
    return {name: tx.init(params[name]) for name, tx in parts.items()}

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    pairs = {
      name: tx.update(updates[name], state[name], params and params[name])
      for name, tx in parts.items()
    }
    return tuple({name: pair[i] for name, pair in pairs.items()} for i in range(2))

  return optax.GradientTransformation(init, update), rates


def restart_schedules(opt_state: Any) -> Any:
  """Sets the learning rate schedules of an optimiser's state to their first step."""
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
  restart = lambda x: x._replace(count=jnp.zeros_like(x.count)) if is_schedule(x) else x
  return jax.tree.map(restart, opt_state, is_leaf=is_schedule)


def rate_metrics(rates: Mapping[str, Schedule], step: Any) -> dict[str, Any]:
  """Returns the learning rate of every group at `step`, as metrics.

  Args:
    rates: schedules that `make` returned.
    step: index of the next step, from 0.

  Returns:
    'learning_rate' for the base group, 'learning_rate/NAME' for the others.
  """
  return {
    'learning_rate' if name == BASE else f'learning_rate/{name}': jnp.asarray(
      rate(step), jnp.float32
    )
    for name, rate in rates.items()
  }


def reset_rows(
  opt_state: Any, path: str, rows: jax.Array, has_same_scale: bool = False
) -> Any:
  """Resets an optimiser's moments to 0 for some rows of one parameter.

  Used for codewords that were moved by hand: their moments belong to the old place.

  Args:
    opt_state: state of the optimiser.
    path: name of the parameter, 'a/b/c'.
    rows: bool [rows] or a bool array that broadcasts to the parameter's leading axes.
    has_same_scale: whether gradients will be as large as before. Second moments stay
      then: if they began at 0 they would be too small, as their bias is corrected by
      the number of all steps, and updates up to four times the learning rate.

  Returns:
    The state with every array kept per element of that parameter set to 0 there.
  """

  chex.assert_type(rows, bool)

  def reset(key: Any, leaf: Any) -> Any:
    name = path_name(key)
    if jnp.ndim(leaf) < rows.ndim or not (name == path or name.endswith('/' + path)):
      return leaf
    if has_same_scale and 'nu' in name.removesuffix(path).split('/'):
      return leaf
    mask = rows.reshape(rows.shape + (1,) * (leaf.ndim - rows.ndim))
    return jnp.where(mask, jnp.zeros((), leaf.dtype), leaf)

  return jax.tree_util.tree_map_with_path(reset, opt_state)


def path_name(path: Any) -> str:
  """Returns a pytree path as 'a/b/c'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Defaults filled in, every name and number checked."""
  overrides = {key: value for key, value in dict(config).items() if value is not None}
  name = overrides.get('name', _COMMON['name'])
  if name not in _OWN:
    raise errors.unknown('optimiser', name, _OWN)
  options = {**_COMMON, **_OWN[name]}
  for key in overrides:
    if key not in options:
      raise errors.unknown(f'option of the optimiser {name}', key, options)
  options.update(
    config_lib.check_values(overrides, options, 'optimizer', ranges=_RANGES)
  )
  if options['schedule'] not in _SCHEDULES:
    raise errors.unknown('schedule', options['schedule'], _SCHEDULES)
  pattern = options['decay_pattern']
  if not isinstance(pattern, str | None):
    raise errors.CodaxError(
      f'optimizer.decay_pattern is {pattern!r}; valid: a regular expression or None'
    )
  for key in ('b1', 'b2', 'decay', 'momentum'):
    if not 0 <= options.get(key, 0) < 1:
      raise errors.CodaxError(
        f'optimizer.{key} must be in [0, 1), it is {options[key]}'
      )
  return options


def _schedule(config: Mapping[str, Any], total_steps: int) -> Schedule:
  """Returns the learning rate of each step: warm-up, then the named decay."""
  peak, warmup = config['learning_rate'], int(config['warmup_steps'])
  end = peak * config['end_factor']
  rest = max(total_steps - warmup, 1)
  if config['schedule'] == 'constant':
    after = optax.constant_schedule(peak)
  elif config['schedule'] == 'linear':
    after = optax.linear_schedule(peak, end, rest)
  elif peak == 0:
    after = optax.constant_schedule(0.0)
  else:
    after = optax.cosine_decay_schedule(peak, rest, config['end_factor'])
  if not warmup:
    return after
  # A rise from 0 would make the first step do nothing.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def _scale(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """Returns the part that turns a gradient into a direction."""
  if config['name'] in ('adam', 'adamw'):
    return optax.scale_by_adam(config['b1'], config['b2'], config['eps'])
  parts = []
  if config['name'] == 'rmsprop':
    scale = _scale_by_deviation if config['centered'] else optax.scale_by_rms
    parts.append(scale(config['decay'], config['eps']))
  if config['momentum'] > 0:
    parts.append(optax.trace(config['momentum'], config.get('nesterov', False)))
  return optax.chain(*parts) if parts else optax.identity()


def _scale_by_deviation(decay: float, eps: float) -> optax.GradientTransformation:
  """Divides by the running standard deviation: RMSprop, centered (Graves 2013).

  Rounding can make the variance of a gradient that hardly changes negative; it is 0
  then, where `optax.scale_by_stddev` gives NaN.
  """

  def init(params: Any) -> optax.ScaleByRStdDevState:
    zeros = optax.tree.zeros_like(params)
    return optax.ScaleByRStdDevState(mu=zeros, nu=zeros)

  def update(
    updates: Any, state: optax.ScaleByRStdDevState, params: Any = None
  ) -> tuple[Any, optax.ScaleByRStdDevState]:
    del params
    mu = optax.tree.update_moment(updates, state.mu, decay, 1)
    nu = optax.tree.update_moment(updates, state.nu, decay, 2)
    scaled = lambda g, m, n: g * jax.lax.rsqrt(jnp.maximum(n - m * m, 0.0) + eps)
    updates = jax.tree.map(scaled, updates, mu, nu)
    return updates, optax.ScaleByRStdDevState(mu=mu, nu=nu)

  return optax.GradientTransformation(init, update)


def _decay_mask(pattern: str | None, params: Any) -> Any:
  """Marks the parameters that weight decay acts on, by True."""
  if pattern is None:
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)
  expression = _compile('decay_pattern', pattern)
  mask = jax.tree_util.tree_map_with_path(
    lambda path, _: bool(expression.search(path_name(path))), params
  )
  if not any(jax.tree.leaves(mask)):
    raise _matches_nothing('decay_pattern', pattern, params)
  return mask


def _groups(
  groups: Any, params: Any, base: Schedule
) -> tuple[Any, dict[str, Schedule]]:
  """Returns the group of each parameter, and each group's schedule."""
  rates = {BASE: base}
  expressions = []
  for entry in groups:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
      raise errors.CodaxError(
        f'optimizer.groups holds (regular expression, multiplier) pairs, not {entry!r}'
      )
    pattern, factor = entry
    config_lib.check_range(f'optimizer.groups multiplier of {pattern!r}', factor, 0)
    expressions.append((pattern, _compile('groups', pattern)))
    rates[pattern] = _times(base, factor)

  def label(path: Any, _: Any) -> str:
    name = path_name(path)
    return next((p for p, e in expressions if e.search(name)), BASE)

  labels = jax.tree_util.tree_map_with_path(label, params)
  used = set(jax.tree.leaves(labels))
  for pattern, _ in expressions:
    if pattern not in used:
      raise _matches_nothing('groups', pattern, params)
  return labels, rates


def _times(schedule: Schedule, factor: float) -> Schedule:
  return lambda step: factor * schedule(step)


def _compile(key: str, pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except (re.error, TypeError) as e:
    raise errors.CodaxError(
      f'optimizer.{key}: {pattern!r} is not a regular expression: {e}'
    ) from e


def _matches_nothing(key: str, pattern: str, params: Any) -> errors.CodaxError:
  paths = [path_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
  shown = ', '.join(paths[:8]) + (', ...' if len(paths) > 8 else '')
  return errors.CodaxError(
    f'optimizer.{key}: {pattern!r} matches no parameter that an earlier expression '
    f'leaves (parameters: {shown})'
  )

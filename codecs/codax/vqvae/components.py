"""Components of the VQ-VAE: networks, quantizer, context model, optimizer."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax import averages, quantize
from codax.config import check_keys, check_present, parse, renamed_in
from codax.entropy import context
from codax.errors import CodaxError
from codax.quantize import Quantizer
from codax.training import optim, settings
from codax.vqvae import model, warm_up
from codax.vqvae.defaults import RENAMED

_SECTIONS = ('data', 'model', 'quantizer', 'context', 'optimizer')


class _Training(NamedTuple):
  """Keys of `config` that are in no section, beside those of the loop."""

  average_decay: float = 0.0
  revive_steps: int = 0
  lmbda: float = 0.0
  quantize_from: float = 0.0
  quantize_when: str = 'share'


class _ContextTraining(NamedTuple):
  """Keys of `config.context` that training reads, beside those of the model's shape."""

  enabled: bool = True
  weight: float = 1.0
  lr_factor: float = 1.0
  weight_decay: float = 0.0
  context_cost_from: float = 1.0


_CONTEXT_TRAINING = frozenset(_ContextTraining._fields)
_RANGES = {
  'revive_steps': (0, None),
  'lmbda': (0, None),
  'quantize_from': (0, 0.9),
  'weight': (0, None),
  'lr_factor': (0, None),
  'weight_decay': (0, None),
  'context_cost_from': (0, 1),
}


_CHOICES = {'quantize_when': warm_up.RULES}


class Components(NamedTuple):
  """Networks, quantizer and optimizer of a checked configuration.

  Attributes:
    config: whole configuration.
    model: architecture of the networks.
    encoder: network from images to latents.
    decoder: network from latents to images.
    quantizer: quantizer of the latents.
    context: sizes of the context model, or None if it is off.
    optimizer: params -> (optax transformation, learning rate schedules by group).
    num_codes: number of values of a code, K.
    groups: number of codes at a position, G.
  """

  config: Any
  model: model.ModelConfig
  encoder: model.Encoder
  decoder: model.Decoder
  quantizer: Quantizer
  context: context.ContextConfig | None
  optimizer: Callable[..., Any]
  num_codes: int
  groups: int

  def init_warm_up(self, dim: int) -> warm_up.WarmUp | None:
    """Returns the state of the warm-up for latents of `dim` channels, or None."""
    get = self.config.get
    share, rule = get('quantize_from', 0.0), get('quantize_when', 'share')
    return warm_up.init(share, rule, self.config.total_steps, dim)

  def update_warm_up(self, state: Any, z: jax.Array, step: jax.Array) -> Any:
    """Returns the state of the warm-up after a step whose latents are z."""
    bits = sum(math.log2(k) for k in self.quantizer.num_codes)
    return warm_up.update(state, z, step, bits, self.config.total_steps)


def make(config: Any) -> Components:
  """Makes the components; `CodaxError` for an unknown key or a value out of range."""
  _check_training(config)
  cfg, quantizer = model_config(config), make_quantizer(config)
  ctx = context_config(config, quantizer)
  if ctx is not None and config.context.get('context_cost_from', 1.0) < 1:
    _check_rate_aware(config, quantizer)
  if config.data.crop % cfg.factor:
    raise CodaxError(
      f'data.crop = {config.data.crop} is not a multiple of model.factor = {cfg.factor}'
    )
  options = _optimizer_config(config, ctx is not None)
  return Components(
    config=config,
    model=cfg,
    encoder=model.Encoder(cfg),
    decoder=model.Decoder(cfg),
    quantizer=quantizer,
    context=ctx,
    optimizer=lambda params: optim.make(options, config.total_steps, params),
    num_codes=quantizer.num_codes[0],
    groups=quantizer.groups,
  )


def _check_training(config: Any) -> None:
  """Checks the keys that `config` has, and those that only training reads."""
  settings.check_keys(config, (*_SECTIONS, *_Training._fields))
  check_present(config, (*_SECTIONS, 'total_steps', 'revive_steps'))
  for section, record, path in (
    (config, _Training, 'config'), (config.context, _ContextTraining, 'config.context')
  ):  # fmt: skip
    values = {key: section[key] for key in record._fields if key in section}
    parse(values, record, path, choices=_CHOICES, ranges=_RANGES)
  start = warm_up.first_step(config.get('quantize_from', 0.0), config.total_steps)
  wait = config.get('patience', 0) * config.get('eval_every', 0) if start else 0
  if 0 < wait < start:
    raise CodaxError(
      f'config.patience ends a run {wait} steps after its best evaluation, and '
      f'config.quantize_from has none with the quantizer before step {start}; valid: '
      'more patience, or a smaller fraction'
    )
  averages.check_decay(config.get('average_decay', 0.0))


def _check_rate_aware(config: Any, quantizer: Quantizer) -> None:
  """Raises `CodaxError` unless codes can be selected at the context model's costs."""
  if not quantizer.is_rate_aware:
    raise CodaxError(
      'context.context_cost_from < 1 needs quantizer.name = blahut_arimoto or another '
      f'rate-aware quantizer, not {config.quantizer.name}'
    )
  if config.quantizer.get('chunk', 0):
    raise CodaxError(
      'context.context_cost_from < 1 and quantizer.chunk exclude each other'
    )


def model_config(config: Any) -> model.ModelConfig:
  """Returns `config.model` as a `ModelConfig`; refuses unknown keys and bad values."""
  return model.check(parse(config.model, model.ModelConfig, 'config.model'))


def context_config(config: Any, quantizer: Quantizer) -> context.ContextConfig | None:
  """Returns `config.context` as a `ContextConfig`; None when `enabled` is false."""
  section = dict(config.context)
  if not section.get('enabled', True):
    return None
  derived = {'codes': quantizer.num_codes[0], 'groups': quantizer.groups}
  keys = set(context.ContextConfig._fields) | _CONTEXT_TRAINING
  renames = renamed_in(RENAMED, 'context')
  check_keys(section, keys - set(derived), 'config.context', renames)
  return context.check_config(
    parse(
      {**section, **derived},
      context.ContextConfig,
      'config.context',
      nested={'offsets': lambda value, _: tuple(tuple(o) for o in value)},
      ignored=_CONTEXT_TRAINING,
    )
  )


def make_quantizer(config: Any) -> Quantizer:
  """Makes the quantizer that `config.quantizer` (name and values) describes.

  Raises:
    CodaxError: an unknown name or key, or codes of a position that differ in number.
  """
  values = _spread_epochs(dict(config.quantizer), config)
  quantizer = quantize.get(values.pop('name'), **values)
  if len(set(quantizer.num_codes)) > 1:
    raise CodaxError(
      f'the codes of a position have {quantizer.num_codes} values; valid: all alike'
    )
  return quantizer


def _spread_epochs(values: dict[str, Any], config: Any) -> dict[str, Any]:
  """Spreads `epochs` over the whole run where `epoch_steps` is 0.

  The last epoch may be shorter. A run of fewer steps than epochs has one a step.
  """
  if values.get('epoch_steps') != 0 or not isinstance(values.get('epochs'), int):
    return values
  total = config.total_steps
  total -= warm_up.first_step(config.get('quantize_from', 0.0), total)
  size = max(total // max(values['epochs'], 1), 1)
  return values | {'epoch_steps': size, 'epochs': -(-total // size)}


def _optimizer_config(config: Any, with_context: bool) -> dict[str, Any]:
  """Returns `config.optimizer` with the context model's learning rate and decay.

  The context model sees few codes and has many weights, so it wants a higher learning
  rate and a decay that would harm the networks.
  """
  options = dict(config.optimizer)
  groups = options.get('groups', ())
  if not isinstance(groups, list | tuple):
    raise CodaxError(f'optimizer.groups is {groups!r}; valid: a tuple of pairs')
  if not with_context:
    return options
  factor = config.context.get('lr_factor', 1.0)
  decay = config.context.get('weight_decay', 0.0)
  if factor != 1.0:
    options['groups'] = (*groups, ('^context/', factor))
  if decay:
    if options.get('weight_decay'):
      raise CodaxError(
        'optimizer.weight_decay and context.weight_decay are both set: give one'
      )
    options |= {'weight_decay': decay, 'decay_pattern': '^context/.*kernel'}
  return options


def code_vectors(components: Components, params: Any, q_state: Any) -> jax.Array:
  """Returns one vector a code, [G, K, e], from the parameters of all components."""
  return components.quantizer.code_vectors(params['quantizer'], q_state)


def context_params(params: Any, vectors: jax.Array) -> Any:
  """Adds code vectors to the learnt embedding of the context model's parameters.

  Codes whose vectors are close are close for the context model too, before it has
  seen either; it learns faster and overfits less than from a table of its own.

  Args:
    params: learnt; 'embed' is float32 [G, K+1, e], a correction to the vectors.
    vectors: float32 [G, K, d]; its first e columns are used, at unit variance.
  """
  held = jax.lax.stop_gradient(jnp.asarray(vectors))
  held = held - held.mean(1, keepdims=True)
  held = held / jnp.maximum(jnp.sqrt((held**2).mean((1, 2), keepdims=True)), 1e-6)
  learnt = params['embed']
  width = min(held.shape[-1], learnt.shape[-1])
  extra = (0, 0), (0, 1), (0, learnt.shape[-1] - width)
  return {**params, 'embed': learnt + jnp.pad(held[..., :width], extra)}

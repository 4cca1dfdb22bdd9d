"""From a configuration to the pieces that the VQ-VAE's steps are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax.entropy import context
from codax.errors import CodaxError, unknown
from codax.quantize import Quantizer
from codax.quantize import get as get_quantizer
from codax.training import optim
from codax.vqvae import model


class Parts(NamedTuple):
  """What a configuration describes, checked.

  Attributes:
    config: the whole configuration.
    model: shape of the networks.
    encoder, decoder: the networks.
    quantizer: the quantiser.
    context: shape of the context model, or None if it is off.
    optimizer: params -> (optax transformation, learning rate schedules by group).
    num_codes: K.
    groups: G.
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


def make(config: Any) -> Parts:
  """The parts; `CodaxError` for an unknown key or a value out of range."""
  cfg, ctx = model_config(config), context_config(config)
  if ctx is not None and config.context.get('price_from', 1.0) < 1:
    _check_priced(config)
  if config.data.crop % cfg.factor:
    raise CodaxError(
      f'data.crop = {config.data.crop} is not a multiple of model.factor = {cfg.factor}'
    )
  options = _optimizer_config(config, ctx is not None)
  return Parts(
    config=config,
    model=cfg,
    encoder=model.Encoder(cfg),
    decoder=model.Decoder(cfg),
    quantizer=quantizer(config),
    context=ctx,
    optimizer=lambda params: optim.make(options, config.total_steps, params),
    num_codes=config.quantizer.num_codes,
    groups=config.quantizer.get('groups', 1),
  )


def _check_priced(config: Any) -> None:
  """`context.price_from` needs a quantiser that prices its codes."""
  if config.quantizer.name != 'blahut_arimoto':
    raise CodaxError(
      f'context.price_from < 1 needs quantizer.name = blahut_arimoto, not '
      f'{config.quantizer.name}, which puts no price on codes'
    )
  if config.quantizer.get('chunk', 0):
    raise CodaxError('context.price_from < 1 and quantizer.chunk exclude each other')


def model_config(config: Any) -> model.ModelConfig:
  """`config.model` as a `ModelConfig`, unknown keys and bad values refused."""
  given = dict(config.model)
  for key in given:
    if key not in model.ModelConfig._fields:
      raise unknown('config key in model:', key, model.ModelConfig._fields)
  return model.check(model.ModelConfig(**given))


def context_config(config: Any) -> context.ContextConfig | None:
  """`config.context` as a `ContextConfig`; None when `enabled` is false."""
  given = dict(config.context)
  if not given.pop('enabled', True):
    return None
  own = ('weight', 'rate', 'weight_decay', 'price_from')
  given = {key: value for key, value in given.items() if key not in own}
  valid = set(context.ContextConfig._fields) - {'codes', 'groups'}
  for key in given:
    if key not in valid:
      raise unknown('config key in context:', key, valid | {'enabled', *own})
  if 'layers' in given:
    given['layers'] = tuple(given['layers'])
  if 'offsets' in given:
    given['offsets'] = tuple(tuple(o) for o in given['offsets'])
  groups = config.quantizer.get('groups', 1)
  return context.check_config(
    context.ContextConfig(codes=config.quantizer.num_codes, groups=groups, **given)
  )


def quantizer(config: Any):
  """The quantiser that `config.quantizer` (name and knobs) describes."""
  knobs = dict(config.quantizer)
  return get_quantizer(knobs.pop('name'), **knobs)


def _optimizer_config(config: Any, with_context: bool) -> dict[str, Any]:
  """`config.optimizer` with the context model's own rate and weight decay.

  The context model sees few codes and has many weights, so it wants a higher rate and
  a decay that would harm the networks.
  """
  options = dict(config.optimizer)
  if not with_context:
    return options
  rate = config.context.get('rate', 1.0)
  decay = config.context.get('weight_decay', 0.0)
  if rate != 1.0:
    options['groups'] = (*options.get('groups', ()), ('^context/', rate))
  if decay:
    if options.get('weight_decay'):
      raise CodaxError(
        'optimizer.weight_decay and context.weight_decay are both set: give one'
      )
    options |= {'weight_decay': decay, 'decay_pattern': '^context/.*kernel'}
  return options


def codebook_of(parts: Parts, params: Any, q_state: Any) -> jax.Array:
  """The codebook [G, K, d], read through `decode` so that any quantiser will do."""
  codes = jnp.arange(parts.num_codes)
  codes = jnp.broadcast_to(codes[:, None], (len(codes), parts.groups))
  vectors = parts.quantizer.decode(params['quantizer'], q_state, codes)
  return jnp.moveaxis(vectors.reshape(len(codes), parts.groups, -1), 1, 0)


def context_params(params: Any, codebook: jax.Array) -> Any:
  """The context model's parameters with codewords added to the learnt embedding.

  Codes whose codewords are close are close for the context model too, before it has
  seen either; it learns faster and overfits less than from a table of its own.

  Args:
    params: learnt; 'embed' is float32 [G, K+1, e], a correction to the codewords.
    codebook: float32 [G, K, d]; its first e columns are used, at unit variance.
  """
  held = jax.lax.stop_gradient(codebook)
  held = held - held.mean(1, keepdims=True)
  held = held / jnp.maximum(jnp.sqrt((held**2).mean((1, 2), keepdims=True)), 1e-6)
  learnt = params['embed']
  width = min(held.shape[-1], learnt.shape[-1])
  extra = (0, 0), (0, 1), (0, learnt.shape[-1] - width)
  return {**params, 'embed': learnt + jnp.pad(held[..., :width], extra)}

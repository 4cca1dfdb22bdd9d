"""Components of the convolutional VAE: networks, distortion, optimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax import config as configs
from codax.config import check_present, parse
from codax.errors import CodaxError
from codax.training import optim, settings
from codax.vae import arch, model

_SECTIONS = ('data', 'model', 'kl', 'loss', 'optimizers')
_OPTIMIZED = ('vae', 'prior')


class Training(NamedTuple):
  """Keys of `config` that are in no section, beside those of the loop.

  Attributes:
    objective: 'kl'.
    average_decay: decay of the averaged weights, 0 (none) to below 1.
    accumulate: number of parts of a batch; divides its size.
    preserve_lr: whether the learning rates of a resumed run go on.
  """

  objective: str = 'kl'
  average_decay: float = 0.0
  accumulate: int = 1
  preserve_lr: bool = True


class KlConfig(NamedTuple):
  """Keys of `config.kl`.

  Attributes:
    weight: weight of the divergence in nats a position.
    warmup_steps: number of steps in which it rises from 0.
    free_bits: nats a dimension without cost.
  """

  weight: float = 1e-4
  warmup_steps: int = 600
  free_bits: float = 0.0


class LossConfig(NamedTuple):
  """Keys of `config.loss`: weights of the distortions.

  Attributes:
    l1: weight of the mean absolute error, colors from -1 to 1.
    mse: weight of the mean squared error, likewise.
    lpips: weight of LPIPS.
    lpips_weights: file with the weights of LPIPS.
  """

  l1: float = 0.0
  mse: float = 1.0
  lpips: float = 0.0
  lpips_weights: str = ''


class Components(NamedTuple):
  """Networks, losses and optimizers of a checked configuration.

  Attributes:
    config: whole configuration.
    training: keys in no section.
    model: architecture.
    compressor: network from images to laws of latents.
    expander: network from latents to images.
    kl: keys of the divergence.
    distortion: (x, y) -> weighted losses by name.
    perceptual: (x, y) -> metrics of an evaluation by name; none without LPIPS.
    optimizer: params -> (optax transformation, learning rate schedules by component).
    clip_norm: greatest norm of the networks' gradient; 0 is no clipping.
  """

  config: Any
  training: Training
  model: arch.ModelConfig
  compressor: model.Compressor
  expander: model.Expander
  kl: KlConfig
  distortion: Callable[..., dict[str, jax.Array]]
  perceptual: Callable[..., dict[str, jax.Array]]
  optimizer: Callable[..., Any]
  clip_norm: float


def make(config: Any) -> Components:
  """Makes the components; `CodaxError` for an unknown key or a value out of range."""
  settings.check_keys(config, (*_SECTIONS, *Training._fields))
  check_present(config, (*_SECTIONS, 'total_steps'))
  training = _training(config)
  cfg = arch.from_section(config.model)
  if config.data.crop % cfg.factor:
    raise CodaxError(
      f'data.crop = {config.data.crop} is not a multiple of {cfg.factor}, the pixels '
      'of a latent position (model.patch and model.stages)'
    )
  from_0 = (0, None)
  loss = parse(
    config.loss, LossConfig, 'config.loss',
    ranges={'l1': from_0, 'mse': from_0, 'lpips': from_0},
  )  # fmt: skip
  if not (loss.l1 or loss.mse or loss.lpips):
    raise CodaxError('loss.l1, loss.mse and loss.lpips are all 0: nothing is learned')
  configs.check_keys(config.optimizers, _OPTIMIZED, 'config.optimizers')
  check_present(config.optimizers, _OPTIMIZED)
  distortion, perceptual = _make_distortion(loss)
  sections = {name: dict(config.optimizers[name]) for name in _OPTIMIZED}
  return Components(
    config=config,
    training=training,
    model=cfg,
    compressor=model.Compressor(cfg),
    expander=model.Expander(cfg),
    kl=parse(
      config.kl, KlConfig, 'config.kl',
      ranges={'weight': from_0, 'warmup_steps': from_0, 'free_bits': from_0},
    ),
    distortion=distortion,
    perceptual=perceptual,
    optimizer=lambda params: optim.make_each(sections, config.total_steps, params),
    clip_norm=float(sections['vae'].get('clip_norm') or 0.0),
  )  # fmt: skip


def _training(config: Any) -> Training:
  """Returns the keys that are in no section, checked."""
  values = {key: config[key] for key in Training._fields if key in config}
  training = parse(
    values, Training, 'config',
    choices={'objective': ('kl',)},
    ranges={'average_decay': (0, 1), 'accumulate': (1, None)},
  )  # fmt: skip
  if training.average_decay == 1:
    raise CodaxError('config.average_decay is 1; valid: 0 to below 1')
  if config.data.batch_size % training.accumulate:
    raise CodaxError(
      f'config.accumulate = {training.accumulate} does not divide data.batch_size = '
      f'{config.data.batch_size}'
    )
  return training


def _make_distortion(loss: LossConfig) -> tuple[Callable, Callable]:
  """Makes the losses of training and the further metrics of an evaluation."""
  weights = None
  if loss.lpips:
    from codax.metrics import lpips

    weights = lpips.load(loss.lpips_weights)

  def distortion(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    losses = {}
    if loss.l1:
      losses['l1'] = loss.l1 * jnp.mean(jnp.abs(y - x))
    if loss.mse:
      losses['mse'] = loss.mse * jnp.mean((y - x) ** 2)
    if weights is not None:
      losses['lpips'] = loss.lpips * lpips.distance(weights, y, x).mean()
    return losses

  def perceptual(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    if weights is None:
      return {}
    return {'lpips': lpips.distance(weights, jnp.clip(y, -1, 1), x).mean()}

  return distortion, perceptual

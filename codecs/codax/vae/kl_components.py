"""Components of the convolutional VAE: networks, distortion, optimizers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from codax import averages
from codax import config as configs
from codax.config import check_present, parse
from codax.errors import CodaxError
from codax.layers import patch_gan
from codax.metrics import lpips
from codax.training import optim, settings
from codax.vae import arch, model

_SECTIONS = ('data', 'model', 'kl', 'loss', 'optimizers')
_OPTIMIZED = ('vae', 'prior', 'discriminator')

_RANGES = {
  name: (0, None)
  for name in (
    'l1',
    'mse',
    'lpips',
    'gan',
    'gan_start',
    'gan_max_weight',
    'weight',
    'warmup_steps',
    'free_bits',
  )
} | {'gan_width': (1, 1024), 'gan_depth': (1, 6)}


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
    gan: pull of the discriminator on the last layer, that of the distortion being 1; 0
      is no discriminator.
    gan_start: step from which on the discriminator learns and judges.
    gan_max_weight: greatest weight of its loss.
    gan_width: number of channels of its first layer.
    gan_depth: number of its layers of stride 2.
  """

  l1: float = 0.0
  mse: float = 1.0
  lpips: float = 0.0
  lpips_weights: str = ''
  gan: float = 0.0
  gan_start: int = 0
  gan_max_weight: float = patch_gan.MAX_WEIGHT
  gan_width: int = 64
  gan_depth: int = 3


class Components(NamedTuple):
  """Networks, losses and optimizers of a checked configuration.

  Attributes:
    config: whole configuration.
    training: keys in no section.
    model: architecture.
    compressor: network from images to laws of latents.
    expander: network from latents to images.
    kl: keys of the divergence.
    loss: weights of the distortions.
    lpips: weights of LPIPS, or None.
    discriminator: network that judges patches, or None.
    optimizer: params -> (optax transformation, learning rate schedules by component).
    clip_norm: greatest norm of the networks' gradient; 0 is no clipping.
  """

  config: Any
  training: Training
  model: arch.ModelConfig
  compressor: model.Compressor
  expander: model.Expander
  kl: KlConfig
  loss: LossConfig
  lpips: lpips.Weights | None
  discriminator: patch_gan.PatchGan | None
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
  configs.check_keys(config.optimizers, _OPTIMIZED, 'config.optimizers')
  check_present(config.optimizers, _OPTIMIZED)
  loss = _loss(config)
  sections = {name: dict(config.optimizers[name]) for name in _OPTIMIZED}
  return Components(
    config=config,
    training=training,
    model=cfg,
    compressor=model.Compressor(cfg),
    expander=model.Expander(cfg),
    kl=parse(config.kl, KlConfig, 'config.kl', ranges=_RANGES),
    loss=loss,
    # named weights are for measuring too, where no loss has them
    lpips=lpips.load(loss.lpips_weights) if loss.lpips_weights else None,
    discriminator=patch_gan.PatchGan(loss.gan_width, loss.gan_depth)
    if loss.gan
    else None,
    optimizer=lambda params: optim.make_each(sections, config.total_steps, params),
    clip_norm=float(sections['vae'].get('clip_norm') or 0.0),
  )


def _loss(config: Any) -> LossConfig:
  """Returns the weights of the distortions and checks that images can be judged."""
  loss = parse(config.loss, LossConfig, 'config.loss', ranges=_RANGES)
  if not (loss.l1 or loss.mse or loss.lpips):
    raise CodaxError('loss.l1, loss.mse and loss.lpips are all 0: nothing is learned')
  if loss.lpips and not loss.lpips_weights:
    raise CodaxError(
      'loss.lpips is above 0 and loss.lpips_weights names no file with its weights'
    )
  least = {'lpips': lpips.MIN_SIDE, 'gan': patch_gan.min_side(loss.gan_depth)}
  for name, side in least.items():
    if getattr(loss, name) and config.data.crop < side:
      raise CodaxError(
        f'loss.{name} needs a data.crop of {side} or more, not {config.data.crop}'
      )
  return loss


def _training(config: Any) -> Training:
  """Returns the keys that are in no section, checked."""
  values = {key: config[key] for key in Training._fields if key in config}
  training = parse(
    values, Training, 'config',
    choices={'objective': ('kl',)},
    ranges={'accumulate': (1, None)},
  )  # fmt: skip
  averages.check_decay(training.average_decay)
  if config.data.batch_size % training.accumulate:
    raise CodaxError(
      f'config.accumulate = {training.accumulate} does not divide data.batch_size = '
      f'{config.data.batch_size}'
    )
  return training

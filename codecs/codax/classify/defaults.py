"""Configurations of classifiers: the guide's models and settings, and small ones."""

from typing import Any

from ml_collections import ConfigDict

from codax.classify import architecture
from codax.classify.task import TrainingConfig
from codax.data.defaults import DEFAULTS, SOURCE_DEFAULTS
from codax.errors import CodaxError, unknown
from codax.training import settings

RENAMED: dict[str, str] = {}
CIFAR10 = 50_000  # training images
DIGITS = 1_437

OPTIMIZER: dict[str, Any] = {
  'name': 'adamw',
  'learning_rate': 3e-3,
  'schedule': 'cosine',
  'warmup_steps': 0,
  'end_factor': 0.0,
  'weight_decay': 0.01,
  'decay_pattern': None,
  'clip_norm': 1.0,
  'groups': (),
}
# Learning rates by group, as the guide has them: front, KAN layers, all else.
GROUPS = (('^front', 1.0), ('^kan', 3.0), ('.', 1.5))
# Of each model in the guide: epochs, images in a batch, learning rate.
GUIDE = {
  'rapid_kan': (50, 32, 3e-3),
  'rapid_kan_lite': (50, 64, 4e-3),
  'rapid_kan_power': (75, 16, 2.5e-3),
  'memory_safe_kan': (50, 32, 5e-3),
  'fast_exact_kan': (50, 16, 3e-3),
  'standard_kan': (100, 32, 1e-3),
  'mlp': (50, 32, 3e-3),
  'cnn': (50, 32, 3e-3),
}
WARMUP_EPOCHS = 5
# Keys of the loop for networks that make images.
_OF_IMAGES = (
  'keep_images',
  'report_images',
  *(f'outside_{key}' for key in ('image', 'every', 'size')),
)


def _base(
  variant: str, images: int, epochs: int, batch_size: int, val_fraction: float
) -> ConfigDict:
  """Returns a configuration that evaluates and logs once an epoch.

  An epoch is as many images as there are for training: they are drawn with replacement
  where they live on the device.
  """
  epoch = -(-round(images * (1 - val_fraction)) // batch_size)
  loop = settings.defaults(
    total_steps=epochs * epoch,
    steps_per_call=min(epoch, 50),
    log_every=epoch,
    eval_every=epoch,
    checkpoint_every=epoch,
    patience=15,
  )
  loop = {key: value for key, value in loop.items() if key not in _OF_IMAGES}
  config = ConfigDict({'family': 'classify', **loop})
  config.data = ConfigDict(DEFAULTS | SOURCE_DEFAULTS)
  config.data.batch_size = batch_size
  config.data.area_power = 0.0  # all images alike
  config.data.val_fraction = val_fraction  # for finding the best state
  config.model = ConfigDict(architecture.get(variant)._asdict())
  config.training = ConfigDict(TrainingConfig()._asdict())
  config.optimizer = ConfigDict(OPTIMIZER)
  config.optimizer.warmup_steps = WARMUP_EPOCHS * epoch
  if config.model.front == 'conv':
    has_kan = config.model.head == 'kan'
    config.optimizer.groups = tuple(g for g in GROUPS if has_kan or g[0] != '^kan')
  return config


def digits() -> ConfigDict:
  """Returns the small one: scikit-learn's digits, a minute on two CPU cores."""
  config = _base('digits', DIGITS, 40, 64, 0.0)
  config.data.name = 'digits'
  config.data.crop = 8
  config.data.flip = False
  config.patience = 0  # the state at the end counts
  config.training.shift = 1
  return config


def cifar10(variant: str) -> ConfigDict:
  """Returns a model of the guide on CIFAR-10, at the guide's settings."""
  epochs, batch_size, learning_rate = GUIDE[variant]
  config = _base(variant, CIFAR10, epochs, batch_size, 0.1)
  config.optimizer.learning_rate = learning_rate
  config.data.name = 'tfds'
  config.data.dataset = 'cifar10'
  config.data.crop = 32
  config.training.shift = 4
  return config


def get(argument: str = '') -> ConfigDict:
  """Returns the configuration of a file's sub-argument.

  Args:
    argument: '' for digits, or 'variant=NAME' for a model of the guide on CIFAR-10.

  Raises:
    CodaxError: an unknown part.
  """
  if not argument:
    return digits()
  key, _, name = argument.partition('=')
  if key != 'variant':
    raise CodaxError(
      f'configuration argument {argument!r}; valid: variant=NAME, one of '
      f'{", ".join(GUIDE)}'
    )
  if name not in GUIDE:
    raise unknown('variant', name, GUIDE)
  return cifar10(name)

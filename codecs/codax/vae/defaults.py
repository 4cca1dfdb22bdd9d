"""Configurations that `configs/vae_bezier.py` starts from; every key of the family.

`get` takes the file's sub-argument: parts with commas between, in any order::

  act=NAME        activation, see `codax.layers.activations`
  photos          embedded photographs (the default)
  folder          a directory of images, --config.data.path=DIR
  tfds:NAME       an image data set through TFDS
  reference       the report's model and training in place of the compact one
"""

from typing import Any

from ml_collections import ConfigDict

from codax.data.defaults import DEFAULTS, SOURCE_DEFAULTS
from codax.errors import CodaxError, unknown
from codax.vae import arch

RENAMED: dict[str, str] = {}

OBJECTIVES = ('kl', 'rate')
DATA_SETS = ('photos', 'folder', 'tfds:NAME')

KL = {
  'weight': 1e-4,  # of the divergence in nats, summed over the channels of a position
  'warmup_steps': 600,  # in which the weight rises from 0; 0 is no warm-up
  'free_bits': 0.0,  # nats of each dimension (mean over the batch) that cost nothing
}
LOSS = {
  'l1': 0.0,  # weight of the mean absolute error, colors from -1 to 1
  'mse': 1.0,  # weight of the mean squared error, likewise
  'lpips': 0.0,  # weight of LPIPS
  'lpips_weights': '',  # file with the weights of LPIPS
  'gan': 0.0,  # pull of a patch discriminator, that of the distortion being 1
  'gan_start': 0,  # step from which on there is one
  'gan_max_weight': 100.0,  # of its loss, which adapts to the gradients
  'gan_width': 64,  # channels of its first layer
  'gan_depth': 3,  # its layers of stride 2
}
OPTIMIZER = {
  'name': 'adamw',  # or 'adam', 'sgd', 'rmsprop'
  'learning_rate': 2e-3,
  'schedule': 'cosine',
  'warmup_steps': 100,
  'end_factor': 0.001,
  'weight_decay': 0.0,
  'decay_pattern': None,
  'clip_norm': 1.0,  # of the component's whole gradient; 0 is no clipping
  'groups': (),
  'b1': None,  # None is the optimiser's own default
  'b2': None,
  'eps': None,
  'decay': None,  # rmsprop
  'momentum': None,  # rmsprop, sgd
  'centered': None,  # rmsprop
  'nesterov': None,  # sgd
}
# The running fit of the factorized prior, beside the networks.
PRIOR_OPTIMIZER = OPTIMIZER | {'learning_rate': 1e-2, 'clip_norm': 0.0}
GAN_OPTIMIZER = OPTIMIZER | {'learning_rate': 1e-4, 'b1': 0.5, 'clip_norm': 0.0}


def compact() -> ConfigDict:
  """Returns the compact one: embedded photographs, minutes on two CPU cores."""
  config = ConfigDict()
  config.family = 'vae'
  config.objective = 'kl'
  config.seed = 0
  config.total_steps = 2000
  config.steps_per_call = 20
  config.log_every = 100
  config.eval_every = 500
  config.checkpoint_every = 500
  config.keep_checkpoints = 2
  config.keep_images = 8
  config.max_seconds = 0.0
  config.report_images = 24
  # Beside metrics.jsonl: 'tensorboard' and 'wandb' (Weights & Biases).
  config.writers = ('tensorboard',)
  # (first step, number of steps) to trace with JAX's profiler; (0, 0) is none.
  config.profile_steps = (0, 0)
  config.average_decay = 0.99  # of the averaged weights that are evaluated; 0 is none
  config.accumulate = 1  # parts of a batch whose gradients are made one by one
  # False starts the learning rates' schedules again whenever a run is resumed.
  config.preserve_lr = True

  config.data = ConfigDict(DEFAULTS | SOURCE_DEFAULTS)
  config.data.name = 'photos'
  config.data.batch_size = 16
  config.data.crop = 64
  config.data.scales = (1.0, 0.5)
  # five images hold few colors: without these, unseen ones cost decibels
  config.data.permute_channels = 0.5
  config.data.jitter = 0.3

  config.model = ConfigDict(arch.ARCHS['compact']._asdict())
  config.kl = ConfigDict(KL)
  config.loss = ConfigDict(LOSS)
  config.optimizers = ConfigDict(
    {'vae': OPTIMIZER, 'prior': PRIOR_OPTIMIZER, 'discriminator': GAN_OPTIMIZER}
  )
  return config


def reference() -> ConfigDict:
  """Returns the report's model and training; an accelerator's job."""
  config = compact()
  config.total_steps = 100_000
  config.log_every = 500
  config.eval_every = 5000
  config.checkpoint_every = 5000
  config.average_decay = 0.999
  config.data.batch_size = 4
  config.data.crop = 256
  config.data.scales = (1.0,)
  config.model.update(arch.ARCHS['reference']._asdict())
  config.model.dtype = 'bfloat16'
  config.model.remat = True
  config.kl.update({'weight': 1e-4, 'warmup_steps': 5000})
  config.loss.update({'l1': 1.0, 'mse': 0.0})
  config.optimizers.vae.update(
    {
      'name': 'rmsprop',
      'learning_rate': 1e-5,
      'decay': 0.95,
      'momentum': 0.9,
      'centered': True,
      'warmup_steps': 0,
    }
  )
  return config


def get(argument: str = '') -> ConfigDict:
  """Returns the configuration of a file's sub-argument.

  Args:
    argument: parts with commas between, see the module's docstring.

  Raises:
    CodaxError: an unknown part, or two of one kind.
  """
  parts = [part for part in argument.split(',') if part]
  kinds = {part: _kind(part) for part in parts}
  for kind in set(kinds.values()):
    same = [part for part in parts if kinds[part] == kind]
    if len(same) > 1:
      raise CodaxError(f'configuration arguments exclude each other: {same}')
  config = reference() if 'reference' in parts else compact()
  for part, kind in kinds.items():
    if kind == 'act':
      config.model.act = part.removeprefix('act=')
    elif kind == 'data':
      _set_data(config.data, part)
  return config


def _kind(part: str) -> str:
  """Returns the kind of a part of the sub-argument; `CodaxError` if it has none."""
  if part.startswith('act='):
    return 'act'
  if part in ('photos', 'folder') or (part.startswith('tfds:') and part != 'tfds:'):
    return 'data'
  if part == 'reference':
    return part
  valid = ('act=NAME', *DATA_SETS, 'reference')
  raise unknown('configuration argument', part, valid)


def _set_data(data: Any, part: str) -> None:
  """Sets the source of the images; the colors of many images need no help."""
  name, _, dataset = part.partition(':')
  data.name = name
  if name != 'photos':
    data.permute_channels, data.jitter = 0.0, 0.0
  if dataset:
    data.dataset = dataset

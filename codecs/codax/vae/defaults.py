"""Configurations that `configs/vae_bezier.py` starts from; every key of the family.

`get` takes the file's sub-argument: parts with commas between, in any order::

  act=NAME        activation, see `codax.layers.activations`
  photos          embedded photographs (the default)
  folder          a directory of images, --config.data.path=DIR
  tfds:NAME       an image data set through TFDS
  reference       the report's model and training in place of the compact one
  codec           the transform codec, trained on distortion and bits
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from codax.data.defaults import PHOTOS
from codax.errors import CodaxError, unknown
from codax.training import settings
from codax.vae import arch, transform

RENAMED: dict[str, str] = {}

OBJECTIVES = ('kl', 'rate')
DATA_SETS = ('photos', 'folder', 'tfds:NAME')

KL = {
  'weight': 1e-4,  # of the divergence in nats, summed over the channels of a position
  'warmup_steps': 400,  # in which the weight rises from 0; 0 is no warm-up
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
  'clip_norm': 1.0,  # of the component's whole gradient; 0 is no clipping
  'groups': (),
}
# Further keys, most of single optimizers; None is an optimizer's own default.
_OWN = {
  'decay_pattern': str,
  'b1': float,  # adam, adamw
  'b2': float,
  'eps': float,  # adam, adamw, rmsprop
  'decay': float,  # rmsprop
  'momentum': float,  # rmsprop, sgd
  'centered': bool,  # rmsprop
  'nesterov': bool,  # sgd
}


def optimizer(**changes: Any) -> ConfigDict:
  """Returns the section of an optimizer with every key that one can have.

  Args:
    **changes: values that differ from `OPTIMIZER`.
  """
  own = {key: placeholder(kind) for key, kind in _OWN.items()}
  return ConfigDict({**OPTIMIZER, **own, **changes})


def compact() -> ConfigDict:
  """Returns the compact one: embedded photographs, minutes on two CPU cores."""
  loop = settings.defaults(
    total_steps=2400,
    steps_per_call=20,
    log_every=40,
    eval_every=200,
    checkpoint_every=600,
    outside_image='astronaut',  # outside the training set
  )
  config = ConfigDict({'family': 'vae', 'objective': 'kl', **loop})
  config.average_decay = 0.99  # of the averaged weights that are evaluated; 0 is none
  config.accumulate = 1  # parts of a batch whose gradients are made one by one
  # False starts the learning rates' schedules again whenever a run is resumed.
  config.preserve_lr = True
  config.data = ConfigDict(PHOTOS)
  config.model = ConfigDict(arch.ARCHS['compact']._asdict())
  config.kl = ConfigDict(KL)
  config.loss = ConfigDict(LOSS)
  config.optimizers = ConfigDict()
  config.optimizers.vae = optimizer()
  # the running fit of the factorized prior, beside the networks
  config.optimizers.prior = optimizer(learning_rate=1e-2, clip_norm=0.0)
  config.optimizers.discriminator = optimizer(learning_rate=1e-4, b1=0.5, clip_norm=0.0)
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


def codec() -> ConfigDict:
  """Returns the transform codec, one model for all rates."""
  config = compact()
  for key in ('kl', 'loss', 'optimizers', 'accumulate', 'preserve_lr'):
    del config[key]
  config.objective = 'rate'
  config.total_steps = 3000
  config.average_decay = 0.999
  config.data.batch_size = 8
  config.data.crop = 128
  model = transform.TransformConfig(lapped=True, width=192, blocks=3, scale_context=96)
  config.model = ConfigDict(model._asdict())
  config.optimizer = optimizer(
    name='adam',
    b2=0.95,
    learning_rate=7e-4,
    end_factor=0.0,
    clip_norm=1.0,
    groups=(
      ('klt|lapped', 0.02),
    ),  # the transform that training starts from moves slowly
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
  size = next((part for part in parts if kinds[part] == 'size'), '')
  config = {'': compact, 'reference': reference, 'codec': codec}[size]()
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
  if part in ('reference', 'codec'):
    return 'size'
  valid = ('act=NAME', *DATA_SETS, 'reference', 'codec')
  raise unknown('configuration argument', part, valid)


def _set_data(data: Any, part: str) -> None:
  """Sets the source of the images; the colors of many images need no help."""
  name, _, dataset = part.partition(':')
  data.name = name
  if name != 'photos':
    data.permute_channels, data.jitter = 0.0, 0.0
  if dataset:
    data.dataset = dataset

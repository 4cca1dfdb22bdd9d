"""Configurations that the files in `configs/` start from; every key of the family."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from codax.data.defaults import PHOTOS
from codax.errors import unknown
from codax.training import settings

# Keys of earlier versions and their names today.
RENAMED = {
  'context.price_from': 'context.context_cost_from',
  'context.rate': 'context.lr_factor',
  'quantizer.revive_below': 'quantizer.revival.below',
  'quantizer.revive_to': 'quantizer.revival.to',
  'quantizer.start': 'quantizer.init',
  'quantizer.servo_gain': 'quantizer.rate_controller_gain',
  'quantizer.codes': 'quantizer.stochastic_steps',
  'quantizer.codebook_weight': 'optimizer.groups',
}

VARIANTS = ('', 'cifar10', 'reference')


CONTEXT = {
  'enabled': True,
  'hidden': 64,
  'layers': (),
  'embed': 16,
  'weight': 0.01,  # code lengths are ~100 times the MSE; keeps a clip norm fair
  'lr_factor': 3.0,  # times the learning rate
  'weight_decay': 0.1,
  # share of the steps after which codes are selected at the context model's costs,
  # as when a file is written (rate-aware quantizers only); 1 is never
  'context_cost_from': 1.0,
}
OPTIMIZER = {
  'name': 'adam',
  'learning_rate': 1e-3,
  'schedule': 'cosine',
  'warmup_steps': 50,
  'end_factor': 0.0,
  'weight_decay': 0.0,
  'decay_pattern': None,
  'clip_norm': 0.0,
  'groups': (),
}


def small() -> ConfigDict:
  """Returns the small one: photographs, codes at 1/4 resolution, minutes on a CPU."""
  loop = settings.defaults(
    total_steps=2400,
    steps_per_call=20,
    log_every=100,
    eval_every=600,
    checkpoint_every=600,
  )
  config = ConfigDict({'family': 'vqvae', **loop})
  config.average_decay = 0.0
  config.revive_steps = 1000
  # Share of the steps without the quantizer, and whether the latents' spectrum may end
  # them earlier.
  config.quantize_from = 0.0
  config.quantize_when = 'share'
  # Weight of one bit when a file is written, in typical quantization errors.
  config.lmbda = 0.1
  config.data = ConfigDict(PHOTOS)
  config.model = ConfigDict(
    {
      'resample': 'patch',
      'factor': 4,
      'hidden': 64,
      'latent_dim': 16,
      'encoder_blocks': 1,
      'decoder_blocks': 3,
      'activation': 'relu',
    }
  )
  config.context = ConfigDict(CONTEXT)
  config.optimizer = ConfigDict(OPTIMIZER)
  return config


def quantizer(name: str, values: Mapping[str, Any], below: float = 0.02) -> ConfigDict:
  """Returns the section of a quantizer with every key of its composition.

  Args:
    name: name in `codax.quantize.registry`.
    values: values of the quantizer's own `Config`.
    below: `revival.below`; 0 moves no codes.
  """
  composition = {
    'groups': 1,
    'stages': 1,
    'estimator': 'straight_through',
    'revival': {'below': below, 'to': 'split'},
  }
  return ConfigDict({'name': name, **values, **composition})


def cifar10() -> ConfigDict:
  """Returns the full-size model on CIFAR-10: 100 epochs of batches of 256."""
  config = small()
  config.total_steps = 19_500  # 195 a epoch
  config.log_every = 195
  config.eval_every = 195
  config.checkpoint_every = 1950
  config.revive_steps = 10_000
  config.data.name = 'tfds'
  config.data.dataset = 'cifar10'
  config.data.batch_size = 256
  config.data.crop = 32
  config.data.scales = (1.0,)
  config.data.permute_channels = 0.0
  config.data.jitter = 0.0
  config.model.update(
    {
      'resample': 'strided',
      'factor': 4,
      'hidden': 256,
      'latent_dim': 256,
      'encoder_blocks': 2,
      'decoder_blocks': 2,
    }
  )
  config.optimizer.update(
    {
      'name': 'adamw',
      'learning_rate': 3e-4,
      'schedule': 'cosine',
      'warmup_steps': 200,
    }
  )
  return config


def reference() -> ConfigDict:
  """Returns the source's: constant learning rate, no context model, no averages.

  Images are neither mirrored nor cropped, and come once an epoch each.
  """
  config = cifar10()
  config.data.flip = False
  config.data.epochs = True
  config.lmbda = 0.0
  config.context.enabled = False
  config.optimizer.update(
    {
      'schedule': 'constant',
      'warmup_steps': 0,
      'weight_decay': 0.01,
    }
  )
  return config


def get(variant: str) -> ConfigDict:
  """Returns the configuration of a file's sub-argument ('' is the small one)."""
  if variant not in VARIANTS:
    raise unknown('configuration argument', variant, [v for v in VARIANTS if v])
  return {'': small, 'cifar10': cifar10, 'reference': reference}[variant]()

"""Configurations that the files in `configs/` start from; every key of the family."""

from ml_collections import ConfigDict

from codax.data.defaults import DEFAULTS, SOURCE_DEFAULTS
from codax.errors import unknown

VARIANTS = ('', 'cifar10', 'reference')


# New names of configuration keys by old ones, below ``config``.
RENAMED: dict[str, str] = {}


def small() -> ConfigDict:
  """Embedded photographs, 1/4 resolution codes, minutes on two CPU cores."""
  config = ConfigDict()
  config.family = 'vqvae'
  config.seed = 0
  config.total_steps = 2400
  config.steps_per_call = 20
  config.log_every = 100
  config.eval_every = 600
  config.checkpoint_every = 600
  config.keep_checkpoints = 2
  config.keep_images = 8
  config.max_seconds = 0.0
  config.report_images = 24
  # Beside metrics.jsonl: 'tensorboard' and 'wandb' (Weights & Biases).
  config.writers = ('tensorboard',)
  # (first step, number of steps) to trace with JAX's profiler; (0, 0) is none.
  config.profile_steps = (0, 0)
  config.average_decay = 0.0
  config.revive_steps = 1000
  # What one bit is worth when a file is written, in typical quantisation errors.
  config.lmbda = 0.1

  config.data = ConfigDict(DEFAULTS | SOURCE_DEFAULTS)
  config.data.name = 'photos'
  config.data.batch_size = 16
  config.data.crop = 64
  config.data.scales = (1.0, 0.5)
  # five pictures hold few colours: without these, unseen ones cost up to 4 dB
  config.data.permute_channels = 0.5
  config.data.jitter = 0.3

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
  config.context = ConfigDict(
    {
      'enabled': True,
      'hidden': 64,
      'layers': (),
      'embed': 16,
      'weight': 0.01,  # code lengths are ~100 times the MSE; keeps a clip norm fair
      'rate': 3.0,  # times the learning rate
      'weight_decay': 0.1,
      # share of the steps after which codes are chosen at the context model's prices,
      # as when a file is written (blahut_arimoto only); 1 is never
      'price_from': 1.0,
    }
  )
  config.optimizer = ConfigDict(
    {
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
  )
  return config


def cifar10() -> ConfigDict:
  """The full-size model on CIFAR-10: 100 epochs of batches of 256."""
  config = small()
  config.total_steps = 19_500  # 195 a epoch
  config.log_every = 195
  config.eval_every = 1950
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
  """As the source describes it: constant rate, no context model, nothing averaged."""
  config = cifar10()
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
  """The configuration for a file's sub-argument ('' is the small one)."""
  if variant not in VARIANTS:
    raise unknown('configuration argument', variant, [v for v in VARIANTS if v])
  return {'': small, 'cifar10': cifar10, 'reference': reference}[variant]()

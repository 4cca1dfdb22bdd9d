"""Configurations that the files in `configs/` start from; every key of the family."""

from ml_collections import ConfigDict

from codax.data.images import DATA
from codax.errors import unknown
from codax.overfit.format import arch as archs

# Argument of a configuration -> (total_steps, hard_steps)
PRESETS = {'fast': (1000, 100), 'medium': (10_000, 500), 'full': (110_000, 10_000)}


# New names of configuration keys by old ones, below ``config``.
RENAMED: dict[str, str] = {'at_once': 'max_batch'}


def get(preset: str, arch: archs.Arch) -> ConfigDict:
  """The configuration for a file's sub-argument ('' is 'fast')."""
  preset = preset or 'fast'
  if preset not in PRESETS:
    raise unknown('configuration argument', preset, PRESETS)
  config = ConfigDict()
  config.family = 'overfit'
  config.seed = 0
  config.total_steps, config.hard_steps = PRESETS[preset]
  config.steps_per_call = 25
  config.log_every = 50
  config.eval_every = 250
  config.checkpoint_every = 250
  config.keep_checkpoints = 1
  config.keep_images = 4
  config.max_seconds = 0.0
  # Beside metrics.jsonl: 'tensorboard' and 'wandb' (Weights & Biases).
  config.writers = ('tensorboard',)
  # (first step, number of steps) to trace with JAX's profiler; (0, 0) is none.
  config.profile_steps = (0, 0)
  # Whether networks start from those that the package has for a shape (see `start`);
  # without, or for a shape that has none, they start at random.
  config.start = True
  # So many starts are trained for so many steps, and the best goes on (see `warm`).
  config.candidates, config.warm_steps = 1, 50
  # Whether networks' weights are rounded together (see `refine`), or each by itself.
  config.refine = True
  # Every picture is encoded with each: more is a smaller file.
  config.lmbdas = (1e-3,)
  # Problems (a picture with a lambda) of one shape that train together at most; 0 is
  # all. Memory is what bounds it: about 0.3 GB for one of 768 x 512 on a GPU.
  config.max_batch = 0
  config.data = ConfigDict(DATA)
  fields = arch._asdict()
  for name in ('synthesis_kan', 'entropy_kan'):
    if fields[name] is not None:  # as a dict, so that its keys can be overridden
      fields[name] = fields[name]._asdict()
  config.arch = ConfigDict(fields)
  config.recipe = ConfigDict(
    {
      'learning_rate': 1e-2,
      'hard_rate': 1e-3,
      'clip_norm': 0.1,
      'clip': 'networks',
      'temperature': (0.35, 0.08),
      'law': 'gaussian',
      'noise': (0.22, 0.15),
      'optimizer': 'soap',
      'refresh': 10,
    }
  )
  return config

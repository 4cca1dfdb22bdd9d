"""Configurations that the files in `configs/` start from; every key of the family."""

from ml_collections import ConfigDict

from codax.data.images import DATA
from codax.overfit import presets
from codax.overfit.format.arch import Arch

# New names of configuration keys by old ones, below ``config``.
RENAMED: dict[str, str] = {
  'at_once': 'max_batch',
  'hard_steps': 'stage2_steps',
  'refine': 'weight_rounding',
  'start': 'pretrained_init',
  'arch.linear': 'arch.linear_skip',
  'arch.parents': 'arch.inter_grid_context',
  'recipe.hard_rate': 'recipe.stage2_lr',
  'recipe.law': 'recipe.noise_distribution',
}
# New values by old ones, by key.
RENAMED_VALUES = {'arch.upsampling': {'learnt': 'learned'}}


def get(preset: str = '', arch: Arch | None = None) -> ConfigDict:
  """Makes the configuration for a file's sub-argument.

  Args:
    preset: a name in `presets.PRESETS`; '' is 'fast'.
    arch: architecture; None is the preset's.
  """
  found = presets.find_preset(preset)
  config = ConfigDict()
  config.family = 'overfit'
  config.seed = 0
  config.update(presets.RunConfig()._asdict())
  config.total_steps = found.steps.total
  config.stage2_steps = found.steps.ste
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
  # Problems (an image with a lambda) of one size that train together at most; 0 is no
  # limit. Memory bounds it: about 0.3 GB for one of 768 x 512 on a GPU.
  config.max_batch = 0
  config.data = ConfigDict(DATA)
  fields = (arch or found.arch)._asdict()
  for name in ('synthesis_kan', 'entropy_kan'):
    if fields[name] is not None:  # as a dict, so that its keys can be overridden
      fields[name] = fields[name]._asdict()
  config.arch = ConfigDict(fields)
  config.recipe = ConfigDict(presets.TrainConfig()._asdict())
  return config

"""Configurations that the files in `configs/` start from; every key of the family."""

from ml_collections import ConfigDict

from codax.data.images import DATA
from codax.errors import unknown
from codax.splat import encode
from codax.splat.recipe import Recipe

# New names of configuration keys by old ones, below ``config``.
RENAMED: dict[str, str] = {'at_once': 'max_batch'}


def get(preset: str) -> ConfigDict:
  """The configuration for a file's sub-argument ('' is 'fast')."""
  preset = preset or 'fast'
  if preset not in encode.TOTAL_STEPS:
    raise unknown('configuration argument', preset, encode.TOTAL_STEPS)
  config = ConfigDict()
  config.family = 'splat'
  config.seed = 0
  config.total_steps = encode.TOTAL_STEPS[preset]
  # Every picture is encoded with each, one file a number: of Gaussians, or bits per
  # pixel. Without any a picture gets as many Gaussians as its detail asks for.
  config.counts = ()
  config.bpps = ()
  # Images of one size, with about as many Gaussians, that one program fits; 0 is all.
  # It pays on accelerators, several of which share a bucket. Only images fitted one by
  # one leave images of stages.
  config.max_batch = 1
  # Steps; everything happens between calls of `recipe.every` steps.
  config.log_every = 100
  config.checkpoint_every = 500
  config.keep_checkpoints = 1
  config.max_seconds = 0.0
  config.data = ConfigDict(DATA)
  recipe = Recipe()._asdict()
  recipe['steps'] = ConfigDict(recipe['steps']._asdict())
  config.recipe = ConfigDict(recipe)
  return config

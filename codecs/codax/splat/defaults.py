"""Defaults of the configurations in ``configs/``; every key of the family."""

from ml_collections import ConfigDict

from codax.data.images import DATA
from codax.errors import unknown
from codax.splat.fit_config import RDO_SWEEPS, TOTAL_STEPS, FitConfig

# New names of configuration keys by old ones, below ``config``.
RENAMED: dict[str, str] = {
  'at_once': 'max_batch',
  'recipe.kind': 'recipe.covariance',
  'recipe.how': 'recipe.blend',
  'recipe.steps': 'recipe.q_steps',
  'recipe.steps.log': 'recipe.q_steps.log',
  'recipe.steps.third': 'recipe.q_steps.third',
  'recipe.steps.luma': 'recipe.q_steps.luma',
  'recipe.steps.chroma': 'recipe.q_steps.chroma',
  'recipe.steps.fine': 'recipe.q_steps.fine',
  'recipe.adapted': 'recipe.adaptive_steps',
  'recipe.stages': 'recipe.rvq_stages',
  'recipe.entries': 'recipe.codebook_size',
  'recipe.position_rate': 'recipe.position_lr',
  'recipe.shape_rate': 'recipe.covariance_lr',
  'recipe.colour_rate': 'recipe.color_lr',
  'recipe.last_rate': 'recipe.final_lr_factor',
  'recipe.quantised_from': 'recipe.qat_start',
  'recipe.rate': 'recipe.rate_weight',
  'recipe.layers': 'recipe.quality_layers',
  'recipe.layer_weight': 'recipe.quality_layer_weight',
  'recipe.solved': 'recipe.cg_iterations',
  'recipe.first': 'recipe.initial_fraction',
  'recipe.grown': 'recipe.growth_end',
  'recipe.growths': 'recipe.num_growths',
  'recipe.spread': 'recipe.init_scale',
  'recipe.evenly': 'recipe.uniform_fraction',
  'recipe.least': 'recipe.min_scale',
  'recipe.every': 'recipe.rebin_every',
  'recipe.margin': 'recipe.bin_margin',
}


def get(preset: str) -> ConfigDict:
  """Returns the configuration for a file's sub-argument ('' is 'fast')."""
  preset = preset or 'fast'
  if preset not in TOTAL_STEPS:
    raise unknown('configuration argument', preset, TOTAL_STEPS)
  config = ConfigDict()
  config.family = 'splat'
  config.seed = 0
  config.total_steps = TOTAL_STEPS[preset]
  # Targets, one file of every image for each: numbers of Gaussians, or bits per pixel.
  # Without any, an image's detail decides the number of its Gaussians.
  config.counts = ()
  config.bpps = ()
  # Largest number of images that one program fits, of one size and about as many
  # Gaussians; 0 is unlimited. More than one pays on accelerators, several of which
  # share a bucket. Only images fitted one by one have snapshots of their stages.
  config.max_batch = 1
  # Steps; everything happens between calls of `recipe.rebin_every` steps.
  config.log_every = 100
  config.checkpoint_every = 500
  config.keep_checkpoints = 1
  config.max_seconds = 0.0
  # Beside metrics.jsonl: 'tensorboard' and 'wandb' (Weights & Biases).
  config.writers = ('tensorboard',)
  config.data = ConfigDict(DATA)
  recipe = FitConfig()._asdict()
  recipe['q_steps'] = ConfigDict(recipe['q_steps']._asdict())
  recipe['rdo_sweeps'] = RDO_SWEEPS[preset]
  config.recipe = ConfigDict(recipe)
  return config

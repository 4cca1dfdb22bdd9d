"""Pictures as 2D Gaussians: each picture gets Gaussians of its own.

  python launch/train.py --config=configs/splat.py --config.data.crop=256
      The middles of the embedded held-out photographs; their files, metrics (JSON and
      CSV) and pictures are in runs/splat.

  python launch/train.py --config=configs/splat.py:medium \
      --config.data.name=folder --config.data.path=DIR --config.data.split=all \
      --config.bpps='(0.15,0.3,0.6)'
      A folder at three sizes (or --config.counts='(1000,4000)' Gaussians).

  ... --config.recipe.coding=vector --config.recipe.entries=48 \
      --config.recipe.steps.log=3 --config.recipe.steps.third=3 \
      --config.recipe.steps.luma=6 --config.recipe.steps.chroma=8
      Shapes and colours by residual codebooks (of 48 entries, 2 stages), as LGI and
      GaussianImage have it; entries are whole steps, hence the finer ones.

  ... --config.data.name=folder --config.data.path=DIR --config.data.split=all \
      --config.counts='(1500,3000,4500,7000,10500)' --config.max_batch=0
      On an accelerator: pictures of one size are fitted by one program. buckets/ in the
      work directory has what files are made of; copy it, and another machine goes on.

  ... --config.recipe.layers=2
      Files whose first half of the Gaussians is a picture too (--prefix of `codax
      decode`).

Arguments: fast (1,500 steps, the default), medium (5,000), full (20,000).
"""

from ml_collections import ConfigDict

from codax.splat import defaults


def get_config(preset: str = '') -> ConfigDict:
  return defaults.get(preset)

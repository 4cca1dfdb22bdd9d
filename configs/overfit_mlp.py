"""Overfitted codec: each picture gets latents and tiny networks of its own.

  python launch/train.py --config=configs/overfit_mlp.py --config.data.crop=256
      The middles of the embedded held-out photographs; their files, report sheets,
      pictures and plots are in runs/overfit_mlp.

  python launch/train.py --config=configs/overfit_mlp.py:medium \
      --config.data.name=folder --config.data.path=DIR --config.data.split=all \
      --config.lmbdas='(4e-3,1e-3,3e-4)'
      A folder with three lambdas; pictures of one size and all lambdas are one program.

Arguments: fast (1,000 steps, the default), medium (10,000), full (110,000).
"""

from ml_collections import ConfigDict

from codax.overfit import defaults
from codax.overfit.format import arch


def get_config(preset: str = '') -> ConfigDict:
  return defaults.get(preset, arch.of_preset(preset))

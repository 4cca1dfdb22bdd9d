"""Overfitted codec with Kolmogorov-Arnold networks: a spline on every edge.

  python launch/train.py --config=configs/overfit_kan.py --config.data.crop=256
      As overfit_mlp.py, with few edges and coarse grids, so that the coefficients do
      not cost more than they save.

Everything but the networks is as in overfit_mlp.py, and so are the arguments.
"""

from ml_collections import ConfigDict

from codax.layers.kan_spec import Spec
from codax.overfit import arch, defaults


def get_config(preset: str = '') -> ConfigDict:
  # Edge functions of the entropy network are tables: hats on the integers -4 .. 4.
  tables = Spec(grid=8, degree=1, low=-4.0, high=4.0, base='relu')
  splines = Spec(grid=4, degree=3, low=-4.0, high=4.0, base='relu')
  shape = arch.Arch(
    entropy=(6,), synthesis=(8,), synthesis_kan=splines, entropy_kan=tables
  )
  return defaults.get(preset, shape)

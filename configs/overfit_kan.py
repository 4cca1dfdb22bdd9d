"""Overfitted codec with Kolmogorov-Arnold networks: a spline on every edge.

  python launch/train.py --config=configs/overfit_kan.py --config.data.crop=256
      As overfit_mlp.py, with few edges and coarse grids, so that the coefficients do
      not cost more than they save.

  python launch/train.py --config=configs/overfit_kan.py:fast-entropy ...
      Splines in the entropy network alone (or fast-synthesis: in the synthesis alone);
      the other network is that of overfit_mlp.py.

Everything but the networks is as in overfit_mlp.py, and so are the arguments before the
dash. README.md has both beside each other.
"""

from ml_collections import ConfigDict

from codax.errors import unknown
from codax.layers.kan_spec import Spec
from codax.overfit import defaults
from codax.overfit.format import arch


def get_config(argument: str = '') -> ConfigDict:
  preset, _, where = argument.partition('-')
  if where not in ('', *arch.MODULES):
    raise unknown('part of the codec', where, arch.MODULES)
  shape = arch.of_preset(preset)
  if where != 'synthesis':
    # Its inputs are whole numbers: edge functions of the first layer are tables.
    tables = Spec(grid=8, degree=1, low=-4.0, high=4.0, base='relu')
    shape = shape._replace(entropy=(6,), entropy_kan=tables)
  if where != 'entropy':
    splines = Spec(grid=4, degree=3, low=-4.0, high=4.0, base='relu')
    shape = shape._replace(synthesis=(8,), synthesis_kan=splines)
  return defaults.get(preset, shape)

"""Overfitted codec with one learnt piecewise linear activation a layer.

  python launch/train.py --config=configs/overfit_pwl.py --config.data.crop=256

What the sheet that this family starts from calls KAN: 10 knots on [-3, 3], shared by a
layer's units and constant outside, so that its gradient vanishes there. Kept to be
measured against overfit_mlp.py and overfit_kan.py; README.md has the table.

  python launch/train.py --config=configs/overfit_pwl.py:fast-reference ...
      Trained as the source does it: C3's shape and recipe (Kim et al. 2023), but for
      its second stage, in which latents move too.

Arguments before the dash are those of overfit_mlp.py.
"""

from ml_collections import ConfigDict

from codax.errors import unknown
from codax.overfit import defaults
from codax.overfit.format import arch


def get_config(argument: str = '') -> ConfigDict:
  preset, _, how = argument.partition('-')
  if how not in ('', 'reference'):
    raise unknown('way to train', how, ['reference'])
  shape = arch.C3 if how else arch.of_preset(preset)
  config = defaults.get(preset, shape._replace(activation='pwl'))
  if how:
    config.start = config.refine = False
    config.recipe.update(
      temperature=(0.3, 0.1), law='kumaraswamy', noise=(2.0, 1.0), clip='all',
      hard_rate=1e-4, optimizer='adam',
    )  # fmt: skip
  return config

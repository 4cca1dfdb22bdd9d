"""Overfitted codec with one learnt piecewise linear activation a layer.

  python launch/train.py --config=configs/overfit_pwl.py --config.data.crop=256

What the sheet that this family starts from calls KAN: 10 knots on [-3, 3], shared by a
layer's units and constant outside, so that its gradient vanishes there. Kept to be
measured against overfit_mlp.py and overfit_kan.py; README.md has the table.
"""

from ml_collections import ConfigDict

from codax.overfit import arch, defaults


def get_config(preset: str = '') -> ConfigDict:
  return defaults.get(preset, arch.of_preset(preset)._replace(activation='pwl'))

r"""Overfitted codec with Kolmogorov-Arnold networks: a spline on every edge.

  python launch/train.py --config=configs/overfit_kan.py --config.data.crop=256
      Splines in both networks, with few edges and coarse grids, so that coefficients
      cost fewer bits.

  python launch/train.py --config=configs/overfit_kan.py:fast-entropy ...
      Splines in the entropy network alone (or fast-synthesis: in the synthesis alone);
      the other network is that of overfit_mlp.py.

The schedule and the optimization are those of overfit_mlp.py, and so are the arguments
before the dash.

Command of the result: with --config.data.name=folder --config.data.path=DIR (kodim08
and kodim23) --config.data.split=all --config.data.crop=160
--config.pretrained_init=False --config.lmbdas='(5e-4,1e-3,2e-3,4e-3)'.

Cost: 235 ms for a step of one image on one CPU core, 153 ms for fast-entropy; 36 ms for
perceptrons.

Result (results/networks_kan.json, networks_kan_entropy.json against networks_mlp.json):
splines do not pay so far. Means over the eight files are 0.951 bpp at 33.32 dB, and
0.754 bpp at 34.08 dB for fast-entropy, against 0.640 bpp at 34.10 dB for perceptrons;
72 % and 21 % more bits at equal PSNR. Splines are rounded one by one; against
perceptrons rounded alike (networks_mlp_plain.json) fast-entropy is about even.
"""

from ml_collections import ConfigDict

from codax.errors import unknown
from codax.layers.kan_spec import Spec
from codax.overfit import defaults, presets
from codax.overfit.format import arch as archs


def get_config(argument: str = '') -> ConfigDict:
  preset, _, module = argument.partition('-')
  if module not in ('', *archs.MODULES):
    raise unknown('part of the codec', module, archs.MODULES)
  found = presets.find_preset(preset)
  arch = found.arch
  if module != 'synthesis':
    # Inputs are whole numbers: edge functions of the first layer are tables.
    tables = Spec(
      grid=8,  # intervals
      degree=1,  # piecewise linear
      low=-4.0,  # lower end of the grid, in quantization steps
      high=4.0,  # upper end
      base='relu',  # activation of the base branch after the first layer
    )
    arch = arch._replace(
      entropy=(6,),  # width of the hidden layer; 16, 16 of perceptrons
      entropy_kan=tables,
    )
  if module != 'entropy':
    splines = Spec(grid=4, degree=3, low=-4.0, high=4.0, base='relu')  # cubic
    arch = arch._replace(
      synthesis=(8,),  # width of the hidden layer; 24 or 48 of perceptrons
      synthesis_kan=splines,
    )
  config = defaults.get(preset, arch)
  config.total_steps = found.steps.total  # 1,000, 10,000 or 110,000
  config.stage2_steps = found.steps.ste  # the last 100, 500 or 10,000: latents rounded
  config.lmbdas = (1e-3,)  # loss is MSE + lambda * bpp; a file for each lambda
  config.pretrained_init = True  # no effect: the package has none of splines
  config.weight_rounding = True  # of dense networks; splines are rounded one by one
  config.recipe.optimizer = 'soap'
  config.recipe.learning_rate = 1e-2  # of stage 1, falls to 0 along a cosine
  config.recipe.stage2_lr = 1e-3  # of stage 2, likewise
  return config

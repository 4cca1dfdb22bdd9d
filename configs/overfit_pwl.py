r"""Overfitted codec with one learned piecewise linear activation a layer.

  python launch/train.py --config=configs/overfit_pwl.py --config.data.crop=256
      10 knots on [-3, 3], shared by a layer's units and constant outside, where the
      gradient vanishes. (Some call this a KAN.) For comparison with overfit_mlp.py and
      overfit_kan.py.

  python launch/train.py --config=configs/overfit_pwl.py:fast-reference ...
      C3's architecture and settings (Kim et al. 2023). Report sheets have the losses
      of both stages and the end of the plateau rule.

Arguments before the dash are those of overfit_mlp.py. The command of the result is that
of overfit_kan.py with this file.

Cost: 147 ms for a step of one image on one CPU core (36 ms for perceptrons); reference
133 ms.

Result (results/networks_pwl.json, networks_pwl_reference.json against
networks_mlp.json): means over the eight files are 0.666 bpp at 34.09 dB, and 0.888 bpp
at 33.13 dB for fast-reference, against 0.640 bpp at 34.10 dB for perceptrons; 5 % and
60 % more bits at equal PSNR. (That fast-reference had fixed latents in its second
stage; with this one: not measured yet.)
"""

from ml_collections import ConfigDict

from codax.errors import unknown
from codax.overfit import defaults, presets
from codax.overfit.format import arch as archs


def get_config(argument: str = '') -> ConfigDict:
  preset, _, variant = argument.partition('-')
  if variant not in ('', 'reference'):
    raise unknown('way to train', variant, ['reference'])
  found = presets.find_preset(preset)
  is_reference = variant == 'reference'
  arch = archs.C3 if is_reference else found.arch
  config = defaults.get(preset, arch._replace(activation='pwl'))
  config.total_steps = found.steps.total  # 1,000, 10,000 or 110,000
  config.stage2_steps = found.steps.ste  # the last 100, 500 or 10,000: latents rounded
  config.lmbdas = (1e-3,)  # loss is MSE + lambda * bpp; a file for each lambda
  if is_reference:
    config.pretrained_init = False  # random networks
    config.weight_rounding = False  # each weight to its nearest integer
    recipe = config.recipe
    recipe.optimizer = 'adam'  # of the networks, as of the latents
    recipe.learning_rate = 1e-2  # of stage 1, falls to 0 along a cosine
    recipe.stage2_lr = 1e-4  # of stage 2, at first
    recipe.stage2_latents = 'straight_through'  # they move in stage 2 too
    recipe.stage2_temperature = 1e-4  # of their derivative
    recipe.stage2_patience = 20  # steps without progress until the rate falls
    recipe.stage2_decay = 0.8  # by this factor
    recipe.stage2_min_lr = 1e-8  # below which training ends
    recipe.clip = 'all'  # the gradient of all parameters is clipped as one
    recipe.clip_norm = 0.1  # its largest norm
    recipe.temperature = (0.3, 0.1)  # of soft rounding, from start to end of stage 1
    recipe.noise_distribution = 'kumaraswamy'  # within half a quantization step
    recipe.noise = (2.0, 1.0)  # its parameter; uniform at 1
  return config

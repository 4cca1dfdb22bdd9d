r"""Overfitted codec: latents and two small perceptrons trained on each image.

  python launch/train.py --config=configs/overfit_mlp.py --config.data.crop=256
      The middles of the embedded held-out photographs; files, reports, images and plots
      go to runs/overfit_mlp.

  python launch/train.py --config=configs/overfit_mlp.py:medium \
      --config.data.name=folder --config.data.path=DIR --config.data.split=all \
      --config.lmbdas='(4e-3,1e-3,3e-4)'
      A folder with three lambdas; images of one size and all lambdas are one program.

Arguments: fast (1,000 steps, the default), medium (10,000), full (110,000).

Cost: a step of one 256 x 256 image takes 70 ms on two CPU cores, of one of 768 x 512
0.4 s (results/bench_overfit_cpu*.json); on one H200 the 24 Kodak images at five lambdas
with 5,050 steps took 5 minutes together.

Result (results/kodak_overfit.json, medium with 5,050 steps, means over Kodak): 30.46 dB
at 0.233 bpp, 34.19 dB at 0.522 bpp, 36.74 dB at 0.816 bpp; 10.2 % more bits than VTM at
equal PSNR. Each switch against this file's settings: results/overfit_switches.json.
"""

from ml_collections import ConfigDict

from codax.overfit import defaults, presets


def get_config(preset: str = '') -> ConfigDict:
  found = presets.find_preset(preset)
  config = defaults.get(preset)

  # --- schedule
  config.total_steps = found.steps.total  # 1,000, 10,000 or 110,000
  config.stage2_steps = found.steps.ste  # the last 100, 500 or 10,000: latents rounded
  config.lmbdas = (1e-3,)  # loss is MSE + lambda * bpp; a file for each lambda
  config.pretrained_init = True  # initial networks of photographs; only fast has some
  config.candidates = 1  # initializations of which the best of `warm_steps` goes on
  config.weight_rounding = True  # weights are rounded together; else J is 9 % higher

  # --- networks
  arch = config.arch
  arch.grids = 7  # latent grids of 1/1 ... 1/64 of the sides
  arch.context = 10  # causal neighbors that the entropy network sees
  arch.inter_grid_context = 4  # latents of coarser grids that it sees beside them
  arch.entropy = (16, 16)  # widths of its hidden layers
  arch.synthesis = found.arch.synthesis  # (24,), with medium and full (48,)
  arch.convs = 2  # residual 3 x 3 convolutions at the end of the synthesis
  arch.upsampling = found.arch.upsampling  # 'linear', with medium and full 'learned'

  # --- optimization
  recipe = config.recipe
  recipe.optimizer = 'soap'  # of the networks; the cost J is 6 % higher with Adam
  recipe.learning_rate = 1e-2  # of stage 1, falls to 0 along a cosine
  recipe.stage2_lr = 1e-3  # of stage 2, likewise
  recipe.temperature = (0.35, 0.08)  # of soft rounding, from start to end of stage 1
  recipe.noise_distribution = 'gaussian'  # J is 2.5 % higher with C3's
  recipe.noise = (0.22, 0.15)  # its standard deviation, from start to end of stage 1
  return config

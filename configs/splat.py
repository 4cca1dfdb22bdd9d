"""Images as 2D Gaussians: each image gets Gaussians of its own.

  python launch/train.py --config=configs/splat.py --config.data.crop=256
      Crops of the embedded held-out photographs; their files, metrics (JSON and CSV)
      and images are in runs/splat.

  python launch/train.py --config=configs/splat.py --config.data.name=folder \
      --config.data.path=out/kodak --config.data.split=all \
      --config.counts='(1500,3000,4500,7000,10500)' --config.max_batch=0
      The results below. On an accelerator images of one size are fitted by one program;
      buckets/ in the work directory has the fits: copy it, and another machine goes on.

Cost: a step of 768 x 512 pixels takes 71 to 102 ms with 2400 to 5000 Gaussians on two
CPU cores, so 1500 steps take two to three minutes; 0.4 ms an image in a bucket of 24 on
an H100 (results/bench_splat_*.json).

Result (means over Kodak, results/kodak_splat.json):

  Gaussians   1500   3000   4500   7000  10500
  bpp        0.132  0.269  0.411  0.650  1.015
  PSNR, dB   27.79  29.84  31.22  32.89  34.68

Variants:

  configs/splat.py:medium --config.bpps='(0.15,0.3,0.6)'
      5,000 steps (`full`: 20,000; `fast`, the default: 1,500), codes optimized after
      them; three sizes an image.

  --config.recipe.coding=vector --config.recipe.codebook_size=48 \
      --config.recipe.q_steps.log=3 --config.recipe.q_steps.third=3 \
      --config.recipe.q_steps.luma=6 --config.recipe.q_steps.chroma=8
      Shapes and colors by residual codebooks (of 48 entries, 2 stages), as LGI and
      GaussianImage have it; entries are whole steps, hence the finer ones.

  --config.recipe.quality_layers=2
      Files whose first half of the Gaussians is an image too (--prefix of `codax
      decode`).
"""

from ml_collections import ConfigDict

from codax.splat import defaults


def get_config(preset: str = '') -> ConfigDict:
  config = defaults.get(preset)  # every key; `preset` sets total_steps
  config.counts = ()  # numbers of Gaussians, a file for each; () is by detail
  config.bpps = ()  # or bits per pixel
  config.max_batch = 1  # images that one program fits; 0 is unlimited

  recipe = config.recipe
  recipe.covariance = 'cholesky'  # or 'rotation'
  recipe.blend = 'normalized'  # weighted mean; 'sum' adds up, as GaussianImage does
  # Learning rates, falling with a cosine: positions in pixels, log scales, levels.
  recipe.position_lr = 0.5
  recipe.covariance_lr = 0.05
  recipe.color_lr = 0.015
  # Half of the Gaussians exist from the start; others come four times in the first
  # 40 % of the steps, where the error is.
  recipe.initial_fraction = 0.5
  recipe.growth_end = 0.4
  recipe.num_growths = 4
  recipe.cg_iterations = 8  # of least-squares colors, with each growth; 0 is without
  # Quantization-aware training: Gaussians are quantized after half of the steps, and
  # the loss is log MSE + rate_weight log bits.
  recipe.qat_start = 0.5
  recipe.rate_weight = 1.0
  recipe.adaptive_steps = True  # finer quantization steps for images above 32 dB
  recipe.coding = 'scalar'  # or 'vector', with the next key
  recipe.codebook_size = 0  # entries; 0 is by the number of Gaussians
  # Sweeps that optimize the file's codes after the fit; `preset` sets it: 8 of medium
  # and full, which quality layers and codebooks exclude.
  recipe.rdo_sweeps = recipe.rdo_sweeps
  recipe.quality_layers = 1  # prefixes of a file that are images
  return config

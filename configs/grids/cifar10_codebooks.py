r"""Quantizer x number of codes on CIFAR-10: the source's experiment, at full size.

  python launch/sweep.py --grid=configs/grids/cifar10_codebooks.py
  python launch/tables.py --add=runs/sweep_cifar10_codebooks --name=cifar10_codebooks

The full-size model, 100 epochs of batches of 256, each image once an epoch: 60 runs, an
accelerator's job. ``cifar10_codebooks_reduced.py`` is the form for two CPU cores.
CIFAR-10 by TensorFlow Datasets is expected in ``data/tfds``, see
docs/troubleshooting.md. Not measured yet.

============  ======================================================================
ema           running averages, nearest codes: the usual VQ-VAE
ema_revive    the same with dead codes moved
ema_warm_up   the same with dead codes moved, after a fifth of the steps without it
ba            Blahut-Arimoto as configs/vqvae_ba.py has it, beta constant
ba_annealed   the same with beta falling from 1000 to 200 beta_c
============  ======================================================================

The question is the source's: has Blahut-Arimoto a higher perplexity than `ema` at the
same K, and a PSNR that is not worse?
"""

from collections.abc import Mapping
from typing import Any

from codax.sweeps import Grid, Setting

STEPS = 19_500
CODES = (256, 512, 1024, 2048)
SEEDS = (0, 1, 2)
COMMON = {
  'data.data_dir': 'data/tfds',
  'data.epochs': True,
  'context.enabled': False,  # codebooks alone; rates are those of a static table
  'report_images': 1,
  'writers': (),
}
WITH_REVIVAL = {'quantizer.revival.below': 0.02}
ANNEALED = {
  'quantizer.beta_schedule': 'exponential',
  'quantizer.beta_start': 1000.0,
  'quantizer.beta_end': 200.0,
  'quantizer.encoder_loss': 'free_energy',
}
# name -> configuration and what it changes
QUANTIZERS = {
  'ema': ('configs/vqvae_ema.py', {}),
  'ema_revive': ('configs/vqvae_ema.py', WITH_REVIVAL),
  'ema_warm_up': ('configs/vqvae_ema.py', WITH_REVIVAL | {'quantize_from': 0.2}),
  'ba': ('configs/vqvae_ba.py', {}),
  'ba_annealed': ('configs/vqvae_ba.py', ANNEALED),
}


def make(common: Mapping[str, Any], steps: int, argument: str = '') -> Grid:
  """Makes the grid with other sizes.

  Args:
    common: overrides of all settings, beside those for the number of codes.
    steps: length of a run.
    argument: sub-argument of the configurations, ':cifar10' or ''.
  """
  length = {'total_steps': steps, 'revive_steps': steps // 2}
  settings = []
  for name, (config, change) in QUANTIZERS.items():
    if change is ANNEALED:
      change = change | {'quantizer.beta_steps': steps * 6 // 10}
    for codes in CODES:
      values = {**common, **length, **change, 'quantizer.num_codes': codes}
      settings.append(Setting(f'{name}.K={codes}', config + argument, values))
  return Grid(settings=settings, seeds=SEEDS)


def get_grid() -> Grid:
  return make(COMMON, STEPS, ':cifar10')

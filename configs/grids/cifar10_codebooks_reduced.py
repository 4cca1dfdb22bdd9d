r"""Quantizer x number of codes on CIFAR-10, reduced for two CPU cores.

  python launch/sweep.py --grid=configs/grids/cifar10_codebooks_reduced.py
  python launch/tables.py --add=runs/sweep_cifar10_codebooks_reduced \
      --name=cifar10_codebooks_reduced

The settings of ``cifar10_codebooks.py`` with the small model (space-to-depth, 64
channels, 16 of them quantized: 8 x 8 codes an image), about 10,000 training images (the
others are set aside by `val_fraction`) and 800 steps of 64 images, 5 epochs: 60 runs of
2 to 3 minutes, about as many as those of ``vqvae_photos.py`` take. CIFAR-10 by
TensorFlow Datasets is expected in ``data/tfds``. Not measured yet.
"""

import runpy
from pathlib import Path

from codax.sweeps import Grid

_FULL = runpy.run_path(str(Path(__file__).with_name('cifar10_codebooks.py')))
STEPS = 800
COMMON = {
  **_FULL['COMMON'],
  'data.name': 'tfds',
  'data.dataset': 'cifar10',
  'data.batch_size': 64,
  'data.crop': 32,
  'data.scales': (1.0,),
  'data.permute_channels': 0.0,
  'data.jitter': 0.0,
  'data.val_fraction': 0.8,
  'data.eval_crops': 2048,
  'eval_every': STEPS // 5,  # an epoch
  'checkpoint_every': STEPS // 2,
}


def get_grid() -> Grid:
  return _FULL['make'](COMMON, STEPS)

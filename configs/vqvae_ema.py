"""VQ-VAE with a codebook of running averages: the baseline of Blahut–Arimoto.

  python launch/train.py --config=configs/vqvae_ema.py
      Embedded photographs, small model. 4 minutes on two CPU cores; then 27.6 dB at
      0.25 bpp of file on the held-out astronaut, where JPEG has 24.5 dB.

  python launch/train.py --config=configs/vqvae_ema.py:cifar10
      The full-size model on CIFAR-10 through TFDS, 100 epochs, k-means++ start.

  python launch/train.py --config=configs/vqvae_ema.py:reference
      The same with the original's start (uniform in +-1/K) and no context model.

Everything but the quantizer is as in vqvae_ba.py, so that the two can be compared.
Results are in README.md.
"""

from ml_collections import ConfigDict

from codax.quantize import vq_ema
from codax.vqvae import defaults


def get_config(variant: str = '') -> ConfigDict:
  config = defaults.get(variant)
  values = vq_ema.Config()._asdict()
  config.quantizer = defaults.quantizer('vq_ema', values, below=0.0)
  config.quantizer.num_codes = 512
  if variant == 'reference':
    config.quantizer.init = 'uniform'
  return config

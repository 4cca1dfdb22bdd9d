"""VQ-VAE with finite scalar quantization: no codebook to learn, none to collapse.

  python launch/train.py --config=configs/vqvae_fsq.py
      Embedded photographs, small model. 6 minutes on two busy CPU cores (8 steps/s);
      then 27.2 dB at 0.233 bpp of file on the held-out astronaut, where JPEG has
      24.5 dB and WebP 28.3 dB.

  python launch/train.py --config=configs/vqvae_fsq.py:cifar10
      The full-size model on CIFAR-10 through TFDS, 100 epochs.

Everything but the quantizer is as in vqvae_ba.py: three latent channels of 8 levels
make 512 codes.
"""

from ml_collections import ConfigDict

from codax.quantize import fsq
from codax.vqvae import defaults


def get_config(variant: str = '') -> ConfigDict:
  config = defaults.get(variant)
  if not variant:  # the experiment on photographs; the other variants have their own
    config.total_steps = 2400  # of 16 crops
    config.data.name = 'photos'  # five training photographs inside scikit-image's wheel
    config.data.crop, config.data.batch_size = 64, 16
    config.data.scales = (1.0, 0.5)  # half-size copies double the images
    # Five images hold few colors; without these two, unseen ones cost up to 4 dB.
    config.data.permute_channels, config.data.jitter = 0.5, 0.3
    config.model.factor = 4  # pixels a side of a latent step
    config.model.hidden = 64  # channels
    config.model.encoder_blocks, config.model.decoder_blocks = 1, 3
    config.optimizer.learning_rate = 1e-3  # Adam, cosine schedule
    config.context.weight = 0.01  # of the entropy model's code lengths in the loss
    config.lmbda = 0.1  # weight of a bit when a file is written, in typical errors
  values = fsq.Config()._asdict()
  config.quantizer = defaults.quantizer('fsq', values, below=0.0)
  config.quantizer.levels = (8, 8, 8)  # of the latent channels; their product is K
  config.model.latent_dim = len(config.quantizer.levels)
  return config

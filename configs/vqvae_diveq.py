"""VQ-VAE with DiVeQ: codewords learn from the decoder alone, without auxiliary losses.

  python launch/train.py --config=configs/vqvae_diveq.py
      Embedded photographs, small model. About 4 minutes on two CPU cores. Not measured
      yet.

  python launch/train.py --config=configs/vqvae_diveq.py:cifar10
      The full-size model on CIFAR-10 through TFDS, 100 epochs.

Vali, Bäckström and Solin, ICLR 2026. Everything but the quantizer is as in vqvae_ba.py;
``--config.quantizer.estimator=straight_through`` brings back the two losses of van den
Oord et al. 2017.
"""

from ml_collections import ConfigDict

from codax.quantize import vq
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
    config.model.hidden, config.model.latent_dim = 64, 16  # channels
    config.model.encoder_blocks, config.model.decoder_blocks = 1, 3
    config.optimizer.learning_rate = 1e-3  # Adam, cosine schedule
    config.context.weight = 0.01  # of the entropy model's code lengths in the loss
    config.lmbda = 0.1  # weight of a bit when a file is written, in typical errors
  config.quantizer = defaults.quantizer('vq', vq.Config()._asdict())
  config.quantizer.num_codes = 512
  config.quantizer.estimator = 'diveq'
  return config

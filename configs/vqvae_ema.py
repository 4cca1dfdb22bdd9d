"""VQ-VAE with a codebook of running averages: the baseline of Blahut–Arimoto.

  python launch/train.py --config=configs/vqvae_ema.py
      Embedded photographs, small model. 4 minutes on two CPU cores; then 27.6 dB at
      0.25 bpp of file on the held-out astronaut, where JPEG has 24.5 dB.

  python launch/train.py --config=configs/vqvae_ema.py:cifar10
      The full-size model on CIFAR-10 through TFDS, 100 epochs, k-means++ start.

  python launch/train.py --config=configs/vqvae_ema.py:reference
      As its source describes it, with the faults that `codax.quantize.ema_reference`
      lists: cluster sizes from 0, codes uniform in +-1/K. For comparison.

Everything but the quantizer is as in vqvae_ba.py, so that the two can be compared.
Results are in docs/families/vqvae.md.
"""

from ml_collections import ConfigDict

from codax.quantize import ema_reference, vq_ema
from codax.vqvae import defaults


def get_config(variant: str = '') -> ConfigDict:
  config = defaults.get(variant)
  if variant == 'reference':
    values = ema_reference.Config()._asdict()
    config.quantizer = defaults.quantizer('ema_reference', values, below=0.0)
    return config
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
  values = vq_ema.Config()._asdict()
  config.quantizer = defaults.quantizer('vq_ema', values, below=0.0)
  config.quantizer.num_codes = 512
  config.quantizer.decay = 0.99  # of the running averages
  return config

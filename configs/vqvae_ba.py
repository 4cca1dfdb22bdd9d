"""VQ-VAE with a Blahut–Arimoto codebook.

  python launch/train.py --config=configs/vqvae_ba.py
      Embedded photographs, small model. 4 minutes on two CPU cores; then 27.6 dB at
      0.26 bpp of file on the held-out astronaut, where JPEG has 25.3 dB.

  python launch/train.py --config=configs/vqvae_ba.py:cifar10
      The full-size model (6,962,179 parameters beside the codebook) on CIFAR-10
      through TFDS, 100 epochs. An accelerator's job: two CPU cores make 20-50 images/s.

  python launch/train.py --config=configs/vqvae_ba.py:reference
      As its source describes it, with the faults that `codax.quantize.ba_reference`
      lists. For comparison.

``--config.context.context_cost_from=0.3`` has codes selected at the context model's
costs. docs/families/vqvae.md has the results, also against EMA codebooks.
"""

from ml_collections import ConfigDict

from codax.quantize import ba_reference, blahut_arimoto
from codax.vqvae import defaults


def get_config(variant: str = '') -> ConfigDict:
  config = defaults.get(variant)
  if variant == 'reference':
    values = ba_reference.Config()._asdict()
    config.quantizer = defaults.quantizer('ba_reference', values, below=0.0)
    config.quantizer.epoch_steps = 0  # beta rises over the whole run, however long
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
  values = blahut_arimoto.Config()._asdict()
  config.quantizer = defaults.quantizer('blahut_arimoto', values)
  config.quantizer.num_codes = 512
  config.quantizer.balance = 0.0  # 0 is least rate, 1/2 soft k-means, 1 equal use
  config.quantizer.iterations = 1  # Blahut–Arimoto steps a batch
  config.quantizer.beta_schedule = 'constant'
  config.quantizer.beta_end = 100.0  # in units of the critical beta
  return config

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
costs. Results are in README.md.
"""

from ml_collections import ConfigDict

from codax.quantize import ba_reference, blahut_arimoto
from codax.vqvae import defaults


def get_config(variant: str = '') -> ConfigDict:
  config = defaults.get(variant)
  if variant == 'reference':
    values = ba_reference.Config()._asdict()
    config.quantizer = defaults.quantizer('ba_reference', values, below=0.0)
    return config
  values = blahut_arimoto.Config()._asdict()
  config.quantizer = defaults.quantizer('blahut_arimoto', values)
  config.quantizer.num_codes = 512
  config.quantizer.beta_schedule = 'constant'
  config.quantizer.beta_end = 100.0
  return config

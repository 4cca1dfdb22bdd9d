"""VAE with Bezier activations.

python launch/train.py --config=configs/vae_bezier.py
    Embedded photographs, compact model.
"""

from ml_collections import ConfigDict

from codax.vae import defaults


def get_config(argument: str = '') -> ConfigDict:
  return defaults.get(argument)

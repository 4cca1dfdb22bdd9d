"""The overfitted codec: trains networks on an image, and stores them in a `.cdx` file.

Decoding is NumPy on integers and imports no JAX.
"""

from typing import Any

import numpy as np

from codax.codec import Codec, Encoded, Option, Options
from codax.overfit.format.container import NAME, decode, pack, parse, synthesize, unpack

__all__ = ['NAME', 'OPTIONS', 'decode', 'make', 'pack', 'parse', 'synthesize']
__all__ += ['unpack']

# Names of `presets.with_networks`, which the decoder does without.
OPTIONS = (
  Option(
    'networks', str, 0, 0,
    "networks, splines ('kan') on every edge of both or of one (default: mlp)",
    choices=('mlp', 'kan', 'kan-entropy', 'kan-synthesis', 'pwl'),
  ),
)  # fmt: skip

# (compilation, steps per megapixel) in seconds on two CPU cores, by preset.
SECONDS = {'fast': (60, 1100), 'medium': (80, 16_000), 'full': (80, 180_000)}


def make(name: str, model: Any, options: Options) -> Codec:
  """Makes the codec of the registry."""
  del model

  def encode(image: np.ndarray, *, progress=None, should_stop=None) -> Encoded:
    from codax.overfit import encode as encoder

    config = encoder.make_config(options)
    return encoder.encode_image(image, config, progress, reason=should_stop)

  return Codec(name, encode, decode)

"""The Gaussian codec: images to `.cdx` files by fitting Gaussians, and back.

Decoding is NumPy on integers and imports no JAX.
"""

from typing import Any

import numpy as np

from codax.codec import Codec, Encoded, Option, Options
from codax.splat.fit_config import MAX_RDO_SWEEPS
from codax.splat.format.container import (
  NAME,
  decode,
  decode_prefix,
  decode_scaled,
  pack,
  parse,
  unpack,
)

__all__ = ['NAME', 'OPTIONS', 'decode', 'decode_prefix', 'make', 'pack', 'parse']
__all__ += ['unpack']

OPTIONS = (
  Option(
    'count', int, 1, 65535, 'number of Gaussians, at most one a pixel', is_target=True
  ),
  Option('layers', int, 1, 4, 'number of quality layers; each prefix is an image too'),
  Option(
    'rdo',
    int,
    0,
    MAX_RDO_SWEEPS,
    'sweeps of rate-distortion optimization after the fit, at most (8 with the presets '
    'medium and full); not with layers',
  ),
)

# (start, per megapixel) in seconds on two CPU cores by preset: compilation, then steps.
SECONDS = {'fast': (40, 370), 'medium': (40, 1200), 'full': (40, 4900)}


def make(name: str, model: Any, options: Options) -> Codec:
  """Makes the codec of the registry; `options` are those of `codax.codec.Options`."""
  del model

  def encode(image: np.ndarray, *, progress=None, should_stop=None) -> Encoded:
    from codax.splat import encode as encoder

    config = encoder.make_config(options)
    return encoder.encode_image(image, config, progress, reason=should_stop)

  return Codec(
    name, encode, decode, decode_prefix=decode_prefix, decode_scaled=decode_scaled
  )

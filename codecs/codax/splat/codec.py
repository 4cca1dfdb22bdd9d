"""The Gaussian codec: pictures to `.cdx` files by fitting Gaussians, and back.

Decoding is NumPy on integers and imports no JAX.
"""

from typing import Any

import numpy as np

from codax.codec import Codec, Encoded, Options
from codax.splat.format.container import NAME, decode, pack, parse, prefix, unpack

__all__ = ['NAME', 'decode', 'make', 'pack', 'parse', 'prefix', 'unpack']


def make(name: str, model: Any, options: Options) -> Codec:
  """The codec of the registry; `options` are those of `codax.codec.Options`."""
  del model

  def encode(image: np.ndarray, *, progress=None, should_stop=None) -> Encoded:
    from codax.splat import encode as encoder

    config = encoder.make_config(options)
    return encoder.encode_image(image, config, progress, reason=should_stop)

  return Codec(name, encode, decode, prefix=prefix)

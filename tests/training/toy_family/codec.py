"""The codec half of a toy family: pixels in steps of 16, packed by zlib."""

import zlib

import numpy as np

from codax import bitstream, bundle
from codax.codec import Codec, Encoded


def make(name, model, options):
  del options
  loaded = model if isinstance(model, bundle.Bundle) else bundle.load(model)

  def encode(image, *, progress=None, should_stop=None):
    del progress
    payload = zlib.compress((image // 16).tobytes())
    header = bitstream.Header(199, 1, *image.shape, bundle_id=loaded.id[:8])
    data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
    return Encoded(data, image // 16 * 16 + 8, 8.0 * len(data), {})

  def decode(data):
    header, sections = bitstream.read(data, known={bitstream.CODES})
    bundle.check_id(loaded, header.bundle_id)
    raw = np.frombuffer(zlib.decompress(sections[0].payload), np.uint8)
    return raw.reshape(header.height, header.width, header.channels) * 16 + 8

  return Codec(name, encode, decode)

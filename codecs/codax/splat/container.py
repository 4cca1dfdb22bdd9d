"""Files of the Gaussian codec. NumPy on integers, both ways; nothing imports JAX."""

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.codec import family, open_file
from codax.errors import CodaxError
from codax.splat import integer, stream

NAME = 'splat'
PROFILE = 0


def decode(data: bytes) -> np.ndarray:
  """A `.cdx` file of this family to its picture, uint8 [H, W, C]."""
  return integer.render(unpack(data))


def pack(picture: integer.Picture) -> tuple[bytes, stream.Bits]:
  """The file of a picture, and what the parts of its payload take."""
  payload, bits = stream.encode(picture)
  header = bitstream.Header(family(NAME).id, PROFILE, *picture.size)
  return bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)]), bits


def unpack(data: bytes) -> integer.Picture:
  """What a file holds; `BitstreamError` if it is unsound."""
  return stream.decode(*parse(data))


def prefix(data: bytes, count: int) -> np.ndarray:
  """What `count` of a file's Gaussians make of its picture, uint8 [H, W, C].

  Raises:
    BitstreamError: the file is unsound.
    CodaxError: none of its prefixes has so many.
  """
  picture, marks = stream.decode_marked(*parse(data))
  known = [n for n, _ in marks]
  if count not in known:
    raise CodaxError(
      f'no prefix has {count} Gaussians; valid: {", ".join(map(str, known))}'
    )
  return integer.prefix(picture, count)


def parse(data: bytes) -> tuple[bytes, tuple[int, int, int]]:
  """(payload, (H, W, C)) of a file.

  Raises:
    BitstreamError: it is unsound, or not of this family.
  """
  header, _, payload = open_file(NAME, data)
  if header.profile != PROFILE:
    raise BitstreamError(f'the file has an unknown profile {header.profile}')
  return payload, (header.height, header.width, header.channels)

"""Files of the Gaussian codec. NumPy on integers, both ways; nothing imports JAX."""

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.families import family, read_payload
from codax.splat.format import integer, quality_layers, stream

NAME = 'splat'
PLAIN, LAYERED = 0, 1  # profiles
# Sections of the layers after the first.
_MORE = range(0x40, 0x40 + quality_layers.MOST - 1)


def decode(data: bytes) -> np.ndarray:
  """A `.cdx` file of this family to its picture, uint8 [H, W, C]."""
  return integer.render(unpack(data))


def pack(picture: integer.Picture) -> tuple[bytes, stream.Bits]:
  """The file of a picture, and what the parts of its payloads take."""
  parts = quality_layers.split(picture)
  coded = [stream.encode(part, not n) for n, part in enumerate(parts)]
  profile = LAYERED if len(parts) > 1 else PLAIN
  header = bitstream.Header(family(NAME).id, profile, *picture.size)
  kinds = (bitstream.CODES, *_MORE)
  sections = [bitstream.Section(k, part) for k, (part, _) in zip(kinds, coded)]
  bits = [one for _, one in coded]
  return bitstream.write(header, sections), stream.total(bits)


def unpack(data: bytes) -> integer.Picture:
  """What a file holds; `BitstreamError` if it is unsound."""
  return _joined(*parse(data))


def _joined(payloads: list[bytes], size: tuple[int, int, int]) -> integer.Picture:
  parts = [stream.decode(payload, size, not n) for n, payload in enumerate(payloads)]
  return quality_layers.joined(parts)


def prefixes(
  payloads: list[bytes], size: tuple[int, int, int]
) -> tuple[integer.Picture, list[tuple[int, int]]]:
  """What a file holds, and (Gaussians, bytes of payloads) of each of its prefixes:
  of every layer, or of the passes of a file without layers.

  Args:
    payloads, size: from `parse`.

  Raises:
    BitstreamError: the file is unsound.
  """
  if len(payloads) == 1:
    return stream.decode_marked(payloads[0], size)
  picture = _joined(payloads, size)
  return picture, quality_layers.marks(picture, payloads)


def decode_prefix(data: bytes, count: int) -> np.ndarray:
  """What `count` of a file's Gaussians make of its picture, uint8 [H, W, C].

  Raises:
    BitstreamError: the file is unsound.
    CodaxError: none of its prefixes has so many.
  """
  picture, marks = prefixes(*parse(data))
  known = [n for n, _ in marks]
  if count not in known:
    raise CodaxError(
      f'no prefix has {count} Gaussians; valid: {", ".join(map(str, known))}'
    )
  if picture.layers is None:
    return integer.prefix(picture, count)
  return integer.render(quality_layers.first(picture, known.index(count) + 1))


def parse(data: bytes) -> tuple[list[bytes], tuple[int, int, int]]:
  """(payloads, (H, W, C)) of a file.

  Raises:
    BitstreamError: it is unsound, or not of this family.
  """
  known = frozenset({bitstream.CODES, *_MORE})
  header, sections, payload = read_payload(NAME, data, known)
  if header.profile not in (PLAIN, LAYERED):
    raise BitstreamError(f'the file has an unknown profile {header.profile}')
  more = [s for s in sections if s.kind in _MORE]
  if [s.kind for s in more] != list(_MORE[: len(more)]):
    raise BitstreamError('a layer is missing')
  if bool(more) != (header.profile == LAYERED):
    raise BitstreamError(
      f'{len(more)} more layers in a file of profile {header.profile}'
    )
  size = header.height, header.width, header.channels
  return [payload, *(s.payload for s in more)], size

"""Files of the Gaussian codec. NumPy on integers, both ways; nothing imports JAX."""

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.families import family, read_payload
from codax.splat.format import integer, quality_layers, stream

NAME = 'splat'
PLAIN, LAYERED = 0, 1  # profiles
SCALES = 1, 2, 4
MAX_SCALED = 1 << 28  # pixels of a scaled image
# Sections of the layers after the first.
_MORE = range(0x40, 0x40 + quality_layers.MAX_LAYERS - 1)


def decode(data: bytes) -> np.ndarray:
  """Decodes a `.cdx` file of this family to its image, uint8 [H, W, C]."""
  return integer.render(unpack(data))


def pack(payload: integer.Payload) -> tuple[bytes, stream.Bits]:
  """Returns the file of a payload, and the bits of its parts."""
  parts = quality_layers.split(payload)
  coded = [stream.encode(part, not n) for n, part in enumerate(parts)]
  profile = LAYERED if len(parts) > 1 else PLAIN
  header = bitstream.Header(family(NAME).id, profile, *payload.size)
  kinds = (bitstream.CODES, *_MORE)
  sections = [bitstream.Section(k, part) for k, (part, _) in zip(kinds, coded)]
  bits = [one for _, one in coded]
  return bitstream.write(header, sections), stream.add_bits(bits)


def unpack(data: bytes) -> integer.Payload:
  """Decodes the payload of a file.

  Raises:
    BitstreamError: the file is unsound.
  """
  return _decode_streams(*parse(data))


def _decode_streams(
  streams: list[bytes], size: tuple[int, int, int]
) -> integer.Payload:
  parts = [stream.decode(payload, size, not n) for n, payload in enumerate(streams)]
  return quality_layers.join(parts)


def prefixes(
  streams: list[bytes], size: tuple[int, int, int]
) -> tuple[integer.Payload, list[tuple[int, int]]]:
  """Decodes the payload of a file, and measures the file's prefixes.

  Args:
    streams, size: results of `parse`.

  Returns:
    The payload, and (Gaussians, bytes of streams) of each prefix: of every layer, or of
    the passes of a file without layers.

  Raises:
    BitstreamError: the file is unsound.
  """
  if len(streams) == 1:
    return stream.decode_with_marks(streams[0], size)
  payload = _decode_streams(streams, size)
  return payload, quality_layers.mark_ends(payload, streams)


def decode_prefix(data: bytes, count: int) -> np.ndarray:
  """Decodes the image of a file's first `count` Gaussians, uint8 [H, W, C].

  Raises:
    BitstreamError: the file is unsound.
    CodaxError: none of its prefixes has so many.
  """
  payload, marks = prefixes(*parse(data))
  known = [n for n, _ in marks]
  if count not in known:
    raise CodaxError(
      f'no prefix has {count} Gaussians; valid: {", ".join(map(str, known))}'
    )
  if payload.layers is None:
    return integer.render_prefix(payload, count)
  return integer.render(quality_layers.take_first(payload, known.index(count) + 1))


def decode_scaled(data: bytes, scale: int) -> np.ndarray:
  """Decodes the image of a file at a multiple of its size, uint8 [S H, S W, C].

  Args:
    data: the file.
    scale: S, one of SCALES.

  Raises:
    BitstreamError: the file is unsound.
    CodaxError: another scale, or more than MAX_SCALED pixels.
  """
  if scale not in SCALES:
    raise CodaxError(f'scale {scale}; valid: {", ".join(map(str, SCALES))}')
  payload = unpack(data)
  height, width = (scale * n for n in payload.size[:2])
  if height * width > MAX_SCALED:
    raise CodaxError(
      f'{width} x {height} pixels at scale {scale}; valid: up to {MAX_SCALED} pixels'
    )
  return integer.render(payload, scale=scale)


def parse(data: bytes) -> tuple[list[bytes], tuple[int, int, int]]:
  """Returns the coded streams of a file, one a layer, and (H, W, C).

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

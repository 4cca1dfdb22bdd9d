"""Repairs of files that lack nothing that a pixel depends on.

A JPEG file without its end marker (the last two bytes were lost) is whole if its pixels
do not depend on what follows. A PNG file whose texts are too long for Pillow (the
prompts of image generators, the histories of editors) is read without them.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ('JPEG', 'PNG')
_END = b'\xff\xd9'
# Bytes in place of lost ones: a decoder that still needs any sees different codes. Some
# can give the same pixels by chance, not all.
_PADDINGS = (b'', *(bytes([17 * i]) * 64 for i in range(15)), b'\xfe\x5b\xd2' * 21)
# Behind a restart marker; a decoder that waits for one skips what comes before it.
_RESTARTS = tuple(bytes([0xFF, 0xD0 + i]) + b'\xaa' * 64 for i in range(8))
_TEXTS = (b'tEXt', b'zTXt', b'iTXt')


def repair(data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
  """Repairs the bytes of a file that Pillow refused.

  Returns:
    The repaired file, and sentences for the user; None if it cannot be repaired.
  """
  if data.startswith(b'\xff\xd8'):
    return _end_jpeg(data)
  return _drop_texts(data)


# --- JPEG -----------------------------------------------------------------------------


def _end_jpeg(data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
  """Adds the end marker to a JPEG file whose scans are whole."""
  data = data.removesuffix(b'\xff')  # the first byte of the marker
  if not _has_all_scans(data):
    return None
  wanted = None
  has_restarts = any(marker == 0xDD for marker, _ in _jpeg_segments(data))
  for padding in _PADDINGS + has_restarts * _RESTARTS:
    try:
      with Image.open(io.BytesIO(data + padding + _END)) as im:
        pixels = np.asarray(im)
    except Exception:  # as for any damaged file
      return None
    if wanted is not None and not np.array_equal(pixels, wanted):
      return None
    wanted = pixels
  note = 'the end marker of the JPEG file is missing; the image is whole'
  return data + _END, (note,)


def _has_all_scans(data: bytes) -> bool:
  """Tells whether the scans of a JPEG file give every coefficient to its last bit.

  A progressive file that ends between two scans is no whole image.
  """
  components, left = (), {}
  for marker, body in _jpeg_segments(data):
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      components = tuple(body[6 + 3 * i] for i in range(body[5]))
      left = {(c, k) for c in components for k in range(64)}
    elif marker == 0xDA and left:
      count = body[0]
      first, last, bits = body[1 + 2 * count : 4 + 2 * count]
      if bits & 15 == 0:  # no lower bits follow in later scans
        scanned = [body[1 + 2 * i] for i in range(count)]
        left = left - {(c, k) for c in scanned for k in range(first, last + 1)}
  return bool(components) and not left


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Yields (marker, contents) of the segments; codes of a scan are skipped."""
  at = 2
  while 0 <= at < len(data) - 3:
    marker = data[at + 1]
    if data[at] != 0xFF or marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD7:
      at = data.find(b'\xff', at + 1)
      continue
    size = struct.unpack('>H', data[at + 2 : at + 4])[0]
    body = data[at + 4 : at + 2 + size]
    if len(body) < size - 2 or size < 8 and marker == 0xDA:
      return
    yield marker, body
    at += 2 + size


# --- PNG ------------------------------------------------------------------------------


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
  """Yields (kind, start, end) of the chunks of a PNG file, up to the first cut one."""
  at = 8
  while at + 12 <= len(data):
    size = struct.unpack('>I', data[at : at + 4])[0]
    end = at + 12 + size
    if end > len(data):
      return
    yield data[at + 4 : at + 8], at, end
    at = end


def _drop_texts(data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
  """Drops the texts of a PNG file, in which no pixel is."""
  texts = [(a, b) for kind, a, b in png_chunks(data) if kind in _TEXTS]
  if not texts:
    return None
  parts, at = [], 0
  for start, end in texts:
    parts.append(data[at:start])
    at = end
  return b''.join([*parts, data[at:]]), ()

"""Boxes of files that say something about colors, where Pillow does not read them.

AVIF (ISO/IEC 14496-12 and 23008-12): `meta` has `pitm`, the number of the image that is
shown, and `iprp` with the properties and their association to images; `colr` boxes of
type `nclx` have the codes of H.273. JPEG 2000 (ISO/IEC 15444-1): `jp2h` has `colr`.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_MAX_BOX = 2**24
_MAX_BOXES = 10_000


class Nclx(NamedTuple):
  """Primaries and transfer of H.273, and their place in the file, in bytes."""

  primaries: int
  transfer: int
  offset: int


def read_nclx(file: BinaryIO) -> Nclx | None:
  """Returns the codes of the image that an AVIF file shows, None if it has none."""
  start, meta = _read_box(file, b'meta')
  try:
    return _find(start, meta)
  except (IndexError, ValueError):  # a damaged box
    return None


def set_nclx(data: bytes, primaries: int, transfer: int) -> bytes | None:
  """Returns a copy of a file with other codes; None if it has no place for them."""
  found = read_nclx(io.BytesIO(data))
  if found is None:
    return None
  codes = primaries.to_bytes(2) + transfer.to_bytes(2)
  return data[: found.offset] + codes + data[found.offset + 4 :]


def read_jp2_profile(file: BinaryIO) -> bytes | None:
  """Returns the ICC profile of a JPEG 2000 file, None if it has none."""
  _, header = _read_box(file, b'jp2h')
  try:
    for kind, at, end in _boxes(header, 0, len(header)):
      if kind == b'colr' and header[at] == 2:  # a profile; others are by number
        return header[at + 3 : end]
  except (IndexError, ValueError):  # a damaged box
    pass
  return None


def _read_box(file: BinaryIO, wanted: bytes) -> tuple[int, bytes]:
  """Returns the place of the contents of a box of the file, and these."""
  file.seek(0)
  for _ in range(_MAX_BOXES):
    head = file.read(8)
    if len(head) < 8:
      break
    size, kind, header = int.from_bytes(head[:4]), head[4:], 8
    if size == 1:
      size, header = int.from_bytes(file.read(8)), 16
    if size < header:  # 0: up to the end of the file
      break
    if kind == wanted:
      start = file.tell()
      return start, file.read(size - header) if size <= _MAX_BOX else b''
    file.seek(size - header, 1)
  return 0, b''


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
  """Yields (kind, start, end of the contents) of the boxes between two places."""
  while start + 8 <= end:
    size, kind, header = (
      int.from_bytes(data[start : start + 4]),
      data[start + 4 :][:4],
      8,
    )
    if size == 1:
      size, header = int.from_bytes(data[start + 8 : start + 16]), 16
    if not header <= size <= end - start:
      raise ValueError('a box of a wrong size')
    yield kind, start + header, start + size
    start += size


def _find(start: int, meta: bytes) -> Nclx | None:
  """Finds the codes in the contents of `meta`, which begin at `start`."""
  shown, properties, links = None, [], {}
  for kind, at, end in _boxes(meta, 4, len(meta)):
    if kind == b'pitm':
      shown = int.from_bytes(meta[at + 4 : end])
    elif kind == b'iprp':
      for inner, at_inner, end_inner in _boxes(meta, at, end):
        if inner == b'ipco':
          properties = list(_boxes(meta, at_inner, end_inner))
        elif inner == b'ipma':
          links |= _read_links(meta[at_inner:end_inner])
  for number in links.get(shown, ()):
    kind, at, end = properties[number - 1]
    if number and kind == b'colr' and meta[at : at + 4] == b'nclx' and end - at >= 11:
      primaries, transfer = (int.from_bytes(meta[at + i : at + i + 2]) for i in (4, 6))
      return Nclx(primaries, transfer, start + at + 4)
  return None


def _read_links(box: bytes) -> dict[int, list[int]]:
  """Reads `ipma`: the numbers of the properties, from 1 on, of each image."""
  version, is_wide = box[0], box[3] & 1
  id_bytes, number_bytes = (2 if version < 1 else 4), (2 if is_wide else 1)
  links, at = {}, 8
  for _ in range(int.from_bytes(box[4:8])):
    if at + id_bytes >= len(box):
      raise ValueError('a box that is cut short')
    image, count = int.from_bytes(box[at : at + id_bytes]), box[at + id_bytes]
    at += id_bytes + 1
    mask = 0x7FFF if is_wide else 0x7F  # the high bit says whether it is essential
    links[image] = [
      int.from_bytes(box[at + i * number_bytes : at + (i + 1) * number_bytes]) & mask
      for i in range(count)
    ]
    at += count * number_bytes
  return links

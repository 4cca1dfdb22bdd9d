"""The `.cdx` container: header, sections, checksum, limits (docs/format/container.md).

A file is a short header, a list of typed sections and a CRC-32 over everything before
it. There is exactly one way to write a given content: numbers are canonical varints,
sections are sorted by kind, reserved bits are zero. So any change of one byte, any
missing byte and any extra byte is an error, and nothing is allocated on the word of a
number that has not been checked against `Limits`.

This module knows no family. Families parse their payloads with `Reader`.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codax.arguments import as_bytes
from codax.errors import CodaxError

MAGIC = b'\xc3DX\n'
VERSION = 1

# Critical sections: a decoder that does not know the kind must refuse the file.
CODES = 0x01
CONTEXT = 0x02
ALPHA = 0x03  # in files of any family, see `codax.alpha`
# Ancillary sections (high bit set): a decoder that does not know them skips them.
ANCILLARY = 0x80
ICC = 0x81
ORIENTATION = 0x82
COLOR = 0x83
ICC_COMPRESSED = 0x84

SECTION_NAMES = {
  CODES: 'codes',
  CONTEXT: 'context',
  ALPHA: 'alpha',
  ICC: 'icc',
  ORIENTATION: 'orientation',
  COLOR: 'color',
  ICC_COMPRESSED: 'icc_compressed',
}

BUNDLE_ID_BYTES = 8
CHANNELS = (1, 3, 4)
MAX_VARINT = 2**63 - 1

_HAS_BUNDLE_ID = 0x01
_VARINT_BYTES = 9
_CRC_BYTES = 4


class BitstreamError(CodaxError):
  """A file that is damaged, truncated, extended, hostile or of another kind."""


class Limits(NamedTuple):
  """Upper limits of a reader, checked before anything is allocated.

  Attributes:
    max_side: largest height and largest width, in pixels.
    max_pixels: largest height * width.
    max_sections: largest number of sections.
    max_payload: largest payload of one section, in bytes.
  """

  max_side: int = 2**16 - 1
  max_pixels: int = 2**28
  max_sections: int = 64
  max_payload: int = 2**28 - 1


DEFAULT_LIMITS = Limits()


class Header(NamedTuple):
  """Fields of a file before its sections.

  Attributes:
    family: number of the codec family, 1..255.
    profile: variant within the family, 0..255; its meaning is the family's.
    height: rows, in pixels, >= 1.
    width: columns, in pixels, >= 1.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    flags: reserved bits; 0 in this version. (The bit that says whether a bundle id
      follows is not shown here: `bundle_id` is it.)
    bundle_id: first 8 bytes of the id of the trained bundle that the file needs, or
      None if it needs none.
  """

  family: int
  profile: int
  height: int
  width: int
  channels: int
  flags: int = 0
  bundle_id: bytes | None = None


class Section(NamedTuple):
  """One typed payload. Kinds with the high bit set are ancillary, others critical."""

  kind: int
  payload: bytes


class Reader:
  """A cursor over bytes that raises `BitstreamError` instead of reading past the end.

  Args:
    data: bytes to read.
    what: name of the bytes in messages.
  """

  def __init__(self, data: bytes, what: str = 'file'):
    self._data = memoryview(data)
    self._what = what
    self._at = 0

  @property
  def left(self) -> int:
    """Bytes not read yet."""
    return len(self._data) - self._at

  def u8(self) -> int:
    """Reads one byte, as an integer 0..255."""
    return self.bytes(1)[0]

  def bytes(self, n: int) -> bytes:
    """Reads the next `n` bytes; an error if fewer are left."""
    if not 0 <= n <= self.left:
      raise BitstreamError(
        f'{self._what} is cut short: {n} bytes wanted, {self.left} left'
      )
    self._at += n
    return self._data[self._at - n : self._at].tobytes()

  def varint(self, limit: int = MAX_VARINT) -> int:
    """Reads a canonical varint no larger than `limit` (see `put_varint`)."""
    value = 0
    for i in range(_VARINT_BYTES):
      byte = self.u8()
      if i == 0 and byte == 0x80:
        raise BitstreamError(f'{self._what} has a number with a leading zero')
      value = value << 7 | byte & 0x7F
      if value > limit:
        raise BitstreamError(f'{self._what} has a number over its limit of {limit}')
      if byte < 0x80:
        return value
    raise BitstreamError(f'{self._what} has a number of over {_VARINT_BYTES} bytes')

  def rest(self) -> bytes:
    """Reads the rest of the bytes, possibly none."""
    return self.bytes(self.left)

  def end(self) -> None:
    """Checks that everything was read."""
    if self.left:
      raise BitstreamError(f'{self._what} has {self.left} bytes too many')


def put_varint(value: int) -> bytes:
  """Writes a number in big-endian base 128, the high bit set on all bytes but the last.

  Args:
    value: 0 <= value < 2**63.

  Returns:
    1 to 9 bytes, the shortest form (the only one that readers accept).
  """
  if not 0 <= value <= MAX_VARINT:
    raise BitstreamError(f'a varint holds 0 to 2**63 - 1, not {value}')
  out = [value & 0x7F]
  while value := value >> 7:
    out.append(value & 0x7F | 0x80)
  return bytes(reversed(out))


def get_varint(data: bytes, start: int = 0, limit: int = MAX_VARINT) -> tuple[int, int]:
  """Reads the varint at `data[start:]`.

  Returns:
    (value, position after it).

  Raises:
    BitstreamError: cut short, not canonical, or over `limit`.
  """
  reader = Reader(memoryview(data)[start : start + _VARINT_BYTES], 'varint')
  before = reader.left
  value = reader.varint(limit)
  return value, start + before - reader.left


def write(
  header: Header, sections: Iterable[Section], *, limits: Limits = DEFAULT_LIMITS
) -> bytes:
  """Serialises a file. Sections are sorted by kind; their order means nothing.

  Args:
    header: every field is checked.
    sections: kinds must be distinct.
    limits: upper limits of the file; one over the default limits is refused by default
      readers.

  Returns:
    The file's bytes.

  Raises:
    BitstreamError: a field out of range.
  """
  _check_header(header, limits)
  flags = header.flags | (_HAS_BUNDLE_ID if header.bundle_id is not None else 0)
  parts = [
    MAGIC,
    bytes([VERSION, header.family, header.profile]),
    put_varint(header.height),
    put_varint(header.width),
    bytes([header.channels, flags]),
    header.bundle_id or b'',
  ]
  sections = sorted(sections, key=lambda s: s.kind)
  _check_kinds([s.kind for s in sections], limits)
  for kind, payload in sections:
    if len(payload) > limits.max_payload:
      raise BitstreamError(
        f'{section_name(kind)} has {len(payload)} bytes, over the '
        f'limit of {limits.max_payload}'
      )
    parts += [bytes([kind]), put_varint(len(payload)), bytes(payload)]
  body = b''.join(parts)
  return body + _crc(body)


def peek(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
  """Returns the header of a file whose magic, version, checksum and header are right.

  Raises:
    BitstreamError: something else than a sound `.cdx` file of this version.
  """
  return _read_header(_open(data), limits)


def read(
  data: bytes,
  *,
  limits: Limits = DEFAULT_LIMITS,
  known: frozenset[int] | None = frozenset({CODES}),
) -> tuple[Header, tuple[Section, ...]]:
  """Parses a whole file.

  Args:
    data: bytes of the file.
    limits: upper limits; a file over them is refused.
    known: critical kinds that the caller understands; any other critical section
      is an error. None, for tools that only list or copy sections, checks nothing.

  Returns:
    The header and all sections in ascending order of kind. Ancillary sections that
    the caller does not know are there too; it leaves them alone.

  Raises:
    BitstreamError: anything unsound.
  """
  reader = _open(data)
  header = _read_header(reader, limits)
  sections = []
  while reader.left:
    kind = reader.u8()
    sections.append(Section(kind, reader.bytes(reader.varint(limits.max_payload))))
    # Checked as they come, so that a file of a million empty sections stops early.
    _check_kinds([s.kind for s in sections[-2:]], limits)
    if len(sections) > limits.max_sections:
      raise BitstreamError(f'file has over {limits.max_sections} sections')
    if known is not None and not kind & ANCILLARY and kind not in known:
      raise BitstreamError(
        f'file has an unknown critical section ({kind}); a newer codax may read it'
      )
  return header, tuple(sections)


def add_sections(data: bytes, sections: Iterable[Section]) -> bytes:
  """Returns a copy of a file with more ancillary sections and a new checksum.

  Args:
    data: a sound file.
    sections: ancillary sections of kinds that the file does not have yet.

  Returns:
    The new file; the input itself if `sections` is empty.
  """
  header, old = read(data, known=None)
  new = tuple(sections)
  for section in new:
    if not section.kind & ANCILLARY:
      raise BitstreamError(
        f'{section_name(section.kind)} is critical: it cannot be '
        'added to a finished file'
      )
  return write(header, old + new) if new else bytes(data)


def find(sections: Iterable[Section], kind: int) -> bytes | None:
  """Returns the payload of the section of this kind, or None."""
  return next((s.payload for s in sections if s.kind == kind), None)


def orientation(sections: Iterable[Section]) -> int:
  """Returns the EXIF orientation 1..8 that the sections carry; 1 if they carry none."""
  payload = find(sections, ORIENTATION)
  if payload is None:
    return 1
  if len(payload) != 1 or not 1 <= payload[0] <= 8:
    raise BitstreamError('section orientation must be one byte, 1 to 8')
  return payload[0]


def orientation_sections(orientation: int) -> list[Section]:
  """Returns the section, none for upright images, that keeps an EXIF orientation."""
  return [] if orientation == 1 else [Section(ORIENTATION, bytes([orientation]))]


def section_name(kind: int) -> str:
  """Returns the name of a section in messages, for example ``'section codes'``."""
  return f'section {SECTION_NAMES.get(kind, kind)}'


def is_cdx(prefix: bytes) -> bool:
  """Returns whether these first bytes (4 or more) are those of a `.cdx` file."""
  return prefix[: len(MAGIC)] == MAGIC


def _crc(body: bytes | memoryview) -> bytes:
  return zlib.crc32(body).to_bytes(_CRC_BYTES, 'big')


def _open(data: bytes) -> Reader:
  """Checks magic, version and checksum; the reader stands at the family byte."""
  data = memoryview(as_bytes(data))
  if not is_cdx(bytes(data[: len(MAGIC)])):
    raise BitstreamError('not a .cdx file')
  if len(data) < len(MAGIC) + 1 + _CRC_BYTES:
    raise BitstreamError('file is cut short')
  version = data[len(MAGIC)]
  # Before the checksum: where a later version keeps its checksum is not ours to know.
  if version != VERSION:
    raise BitstreamError(
      f'file has format version {version}; this codax reads version {VERSION}'
    )
  body = data[:-_CRC_BYTES]
  if _crc(body) != bytes(data[-_CRC_BYTES:]):
    raise BitstreamError(
      'file is damaged, cut short or extended: its checksum does not match'
    )
  return Reader(body[len(MAGIC) + 1 :])


def _read_header(reader: Reader, limits: Limits) -> Header:
  family, profile = reader.u8(), reader.u8()
  height, width = reader.varint(limits.max_side), reader.varint(limits.max_side)
  channels, flags = reader.u8(), reader.u8()
  bundle_id = reader.bytes(BUNDLE_ID_BYTES) if flags & _HAS_BUNDLE_ID else None
  header = Header(
    family, profile, height, width, channels, flags & ~_HAS_BUNDLE_ID, bundle_id
  )
  _check_header(header, limits)
  return header


def _check_header(header: Header, limits: Limits) -> None:
  """Raises `BitstreamError` unless every field is in its range."""
  for name, lowest in (('family', 1), ('profile', 0)):
    value = getattr(header, name)
    if not lowest <= value <= 255:
      raise BitstreamError(f'{name} must be {lowest} to 255, not {value}')
  for name in ('height', 'width'):
    value = getattr(header, name)
    if not 1 <= value <= limits.max_side:
      raise BitstreamError(f'{name} must be 1 to {limits.max_side} pixels, not {value}')
  if header.height * header.width > limits.max_pixels:
    raise BitstreamError(
      f'{header.width} x {header.height} is over the limit of '
      f'{limits.max_pixels} pixels'
    )
  if header.channels not in CHANNELS:
    raise BitstreamError(f'channels must be 1, 3 or 4, not {header.channels}')
  if header.flags:
    raise BitstreamError(
      f'flags {header.flags:#04x} are reserved; a newer codax may read this file'
    )
  if header.bundle_id is not None and len(header.bundle_id) != BUNDLE_ID_BYTES:
    raise BitstreamError(
      f'bundle id must have {BUNDLE_ID_BYTES} bytes, not {len(header.bundle_id)}'
    )


def _check_kinds(kinds: Sequence[int], limits: Limits) -> None:
  """Kinds must be strictly ascending, in range, and not too many."""
  if len(kinds) > limits.max_sections:
    raise BitstreamError(f'file has over {limits.max_sections} sections')
  for i, kind in enumerate(kinds):
    # 0 and 0x80 stay unused, so that a run of zeros is never a list of sections.
    if not 0 < kind <= 255 or kind == ANCILLARY:
      raise BitstreamError(f'section kind {kind} is not valid')
    if i and kind == kinds[i - 1]:
      raise BitstreamError(f'{section_name(kind)} appears twice')
    if i and kind < kinds[i - 1]:
      raise BitstreamError('sections are not in ascending order of kind')

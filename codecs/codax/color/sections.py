"""Color spaces in and out of the sections of a `.cdx` file."""

from collections.abc import Iterable

from codax import bitstream
from codax.bitstream import BitstreamError, Section
from codax.color import compression, icc, recognition, spaces
from codax.color.spaces import ColorSpace

_KINDS = (bitstream.ICC, bitstream.COLOR, bitstream.ICC_COMPRESSED)
_MAX_CODE = 3


def make_sections(color: ColorSpace) -> list[Section]:
  """Returns the sections, none or one, that keep a color space."""
  if color.icc is None:
    return [Section(bitstream.COLOR, color.code)] if color.code else []
  packed = compression.compress(color.icc)
  if packed is None or len(packed) >= len(color.icc):
    return [Section(bitstream.ICC, color.icc)]
  return [Section(bitstream.ICC_COMPRESSED, packed)]


def read_sections(
  sections: Iterable[Section], channels: int
) -> tuple[ColorSpace, tuple[str, ...]]:
  """Returns the color space that the sections of a file keep, and notes.

  Args:
    sections: those of a file.
    channels: those of its image. A profile that does not fit them, or that is damaged,
      is left out with a note.

  Raises:
    BitstreamError: a section that the format does not allow.
  """
  found = [section for section in sections if section.kind in _KINDS]
  if len(found) > 1:
    names = ' and '.join(bitstream.section_name(section.kind) for section in found)
    raise BitstreamError(f'file has both {names}')
  if not found:
    return ColorSpace(), ()
  kind, payload = found[0]
  if kind == bitstream.COLOR:
    return ColorSpace(_check_code(payload)), ()
  if kind == bitstream.ICC_COMPRESSED:
    payload = compression.expand(payload)
  try:
    return ColorSpace(icc=icc.read(payload, icc.SPACES[channels]).data), ()
  except icc.ProfileError as e:
    return ColorSpace(), (f'the ICC profile was dropped: {e}',)


def identify(data: bytes, channels: int) -> ColorSpace:
  """Returns the color space of an ICC profile: the named one if it describes one.

  Args:
    data: profile; bytes behind its end are dropped.
    channels: those of the image, 1 or 3.

  Raises:
    icc.ProfileError: it is cut, is nonsense or describes other pixels.
  """
  profile = icc.read(data, icc.SPACES[channels])
  code = recognition.recognize(profile)
  return ColorSpace(icc=profile.data) if code is None else ColorSpace(code)


def name_space(color: ColorSpace, channels: int) -> str:
  """Names a color space for people."""
  if color.icc is None:
    return spaces.name_code(color.code, channels)
  size = f'({len(color.icc)} bytes)'
  try:
    same = identify(color.icc, channels)
  except icc.ProfileError:
    same = color
  if same.icc is None:
    return f'{spaces.name_code(same.code, channels)}, as an ICC profile {size}'
  return f'ICC profile "{icc.describe(color.icc)}" {size}'


def is_srgb(color: ColorSpace, channels: int) -> bool:
  """Tells whether a color space is sRGB, be it as a profile."""
  if color.icc is None:
    return color.code == spaces.SRGB
  try:
    return identify(color.icc, channels) == ColorSpace()
  except icc.ProfileError:
    return False


def _check_code(payload: bytes) -> bytes:
  """Checks a code; its values may be of a newer standard."""
  if not 1 <= len(payload) <= _MAX_CODE:
    raise BitstreamError('section color must have 1 to 3 bytes')
  if len(payload) == 1:
    if payload == b'\0':
      raise BitstreamError('section color has the number 0')
    return payload
  if payload[0] in spaces.UNDEFINED or payload[1] in spaces.UNDEFINED:
    raise BitstreamError('section color has a code without a meaning')
  if payload[2:] not in (b'', b'\0'):
    raise BitstreamError('section color has a wrong range')
  if payload == b'\x01\x0d':
    raise BitstreamError('section color names the default, sRGB')
  return payload

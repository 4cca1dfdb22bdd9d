"""ICC profiles read and checked: what is cut, nonsense or of other pixels is an error.

Only the parts that say what pixels mean are read: header, tag table, colorants and
curves (ICC.1:2001-04 and ICC.1:2022). Tables of many dimensions are checked for their
presence and type.
"""

import struct
from typing import NamedTuple

import numpy as np

from codax.errors import CodaxError

HEADER = 128
GREY, RGB, CMYK = b'GRAY', b'RGB ', b'CMYK'
SPACES = {1: GREY, 3: RGB, 4: RGB}  # by an image's channels; the fourth is alpha
_CLASSES = (b'scnr', b'mntr', b'prtr', b'spac')
_MATRIX = (b'rXYZ', b'gXYZ', b'bXYZ')
_CURVES = (b'rTRC', b'gTRC', b'bTRC')
# From device to connection space, by intent; a reader prefers them to colorants.
_TABLES = (b'A2B0', b'A2B1', b'A2B2', b'D2B0', b'D2B1', b'D2B2', b'D2B3')
_TABLE_TYPES = (b'mft1', b'mft2', b'mAB ', b'mpet')
_MAX_TAGS = 100
_PARAMETERS = (1, 3, 4, 5, 7)  # of a parametric curve, by its type
_LEVELS = np.arange(256) / 255


class ProfileError(CodaxError):
  """A profile that cannot be used; the message says why, to follow a colon."""


class Profile(NamedTuple):
  """A sound profile.

  Attributes:
    data: profile without bytes behind it.
    device_class: four letters, for example b'mntr'.
    space: four letters of the pixels' model: b'GRAY', b'RGB ' or b'CMYK'.
    connection: four letters of the connection space, b'XYZ ' or b'Lab '.
    tags: contents by signature.
    colorants: [3, 3], columns are XYZ of red, green and blue; None without them.
    curves: light at 256 even samples, [3 or 1, 256]; None without curves.
    has_tables: whether tables overrule colorants and curves.
  """

  data: bytes
  device_class: bytes
  space: bytes
  connection: bytes
  tags: dict[bytes, bytes]
  colorants: np.ndarray | None
  curves: np.ndarray | None
  has_tables: bool


def read(data: bytes, space: bytes) -> Profile:
  """Reads a profile.

  Args:
    data: profile; bytes behind its end are dropped.
    space: model of the pixels, `GREY`, `RGB` or `CMYK`.

  Raises:
    ProfileError: it is cut, is nonsense or describes other pixels.
  """
  data = _check_header(data)
  if data[16:20] != space:
    text = data[16:20].decode('latin-1').strip()
    name = text if text.isalnum() and text.isascii() else 'unknown'
    raise ProfileError(f'it is of another color space ({name})')
  tags = _read_tags(data)
  tables = [name for name in _TABLES if name in tags]
  for name in tables:
    if tags[name][:4] not in _TABLE_TYPES:
      raise ProfileError(f'its tag {name.decode()} is damaged')
  colorants = curves = None
  if space == RGB and any(name in tags for name in _MATRIX):
    colorants = np.stack([_read_xyz(tags, name) for name in _MATRIX], axis=1)
    curves = np.stack([_read_curve(tags, name) for name in _CURVES])
    if not 0.5 < colorants[1].sum() < 2 or abs(np.linalg.det(colorants)) < 1e-4:
      raise ProfileError('its colors make no space')
  elif space == GREY and b'kTRC' in tags:
    curves = _read_curve(tags, b'kTRC')[None]
  if curves is None and not tables:
    raise ProfileError('it says nothing about colors')
  return Profile(
    data, data[12:16], space, data[20:24], tags, colorants, curves, bool(tables)
  )


def describe(data: bytes) -> str:
  """Returns the name that a profile has for people, at most 60 plain letters."""
  try:
    tag = _read_tags(_check_header(data)).get(b'desc', b'')
  except ProfileError:
    return 'damaged'
  text = ''
  if tag[:4] == b'desc' and len(tag) >= 12:
    count = int.from_bytes(tag[8:12])
    text = tag[12 : 12 + count].split(b'\0')[0].decode('latin-1')
  elif tag[:4] == b'mluc' and len(tag) >= 28:
    length, offset = struct.unpack('>II', tag[20:28])
    text = tag[offset : offset + length].decode('utf-16-be', 'replace')
  text = ''.join(c for c in text if c.isprintable()).strip()
  return text[:60] or 'without a name'


def _check_header(data: bytes) -> bytes:
  """Checks the header; returns the profile without bytes behind it."""
  if len(data) < HEADER + 4:
    raise ProfileError('it is cut short')
  if data[36:40] != b'acsp':
    raise ProfileError('it does not start like one')
  size = int.from_bytes(data[:4])
  if size > len(data):
    raise ProfileError(f'it is cut short ({len(data)} of {size} bytes)')
  if size < HEADER + 4:
    raise ProfileError('its size is wrong')
  if not 2 <= data[8] <= 5:
    raise ProfileError(f'its version is {data[8]}')
  if data[12:16] not in _CLASSES:
    raise ProfileError('it describes no device')
  if data[20:24] not in (b'XYZ ', b'Lab '):
    raise ProfileError('its connection space is unknown')
  return bytes(data[:size])


def _read_tags(data: bytes) -> dict[bytes, bytes]:
  """Reads the table of tags; every tag lies in the profile."""
  count = int.from_bytes(data[HEADER : HEADER + 4])
  start = HEADER + 4
  if not 0 < count <= _MAX_TAGS or start + 12 * count > len(data):
    raise ProfileError('its table of contents is damaged')
  tags = {}
  for at in range(start, start + 12 * count, 12):
    name, offset, size = struct.unpack('>4sII', data[at : at + 12])
    if offset < start or size < 8 or offset + size > len(data) or name in tags:
      raise ProfileError('its table of contents is damaged')
    tags[name] = data[offset : offset + size]
  return tags


def _read_xyz(tags: dict[bytes, bytes], name: bytes) -> np.ndarray:
  """Reads the first XYZ of a tag."""
  tag = tags.get(name, b'')
  if tag[:4] != b'XYZ ' or len(tag) < 20:
    raise ProfileError(f'its tag {name.decode()} is damaged')
  return np.array(struct.unpack('>3i', tag[8:20])) / 65536


def read_white(profile: Profile) -> np.ndarray | None:
  """Returns XYZ of the media white; None without a sound one."""
  try:
    return _read_xyz(profile.tags, b'wtpt')
  except ProfileError:
    return None


def _read_curve(tags: dict[bytes, bytes], name: bytes) -> np.ndarray:
  """Reads a curve: its light at 256 even samples."""
  tag = tags.get(name, b'')
  if tag[:4] == b'curv' and len(tag) >= 12:
    light = _table(tag)
  elif tag[:4] == b'para' and len(tag) >= 16:
    light = _function(tag)
  else:
    light = None
  # A curve that never rises makes an image of one color.
  if light is None or not np.isfinite(light).all() or np.ptp(light) < 1 / 255:
    raise ProfileError(f'its tag {name.decode()} is damaged')
  return light


def _table(tag: bytes) -> np.ndarray | None:
  """Evaluates a `curv` tag: identity, one gamma or a table."""
  count = int.from_bytes(tag[8:12])
  if 12 + 2 * count > len(tag):
    return None
  values = np.frombuffer(tag, '>u2', count, 12)
  if count == 0:
    return _LEVELS
  if count == 1:
    return _LEVELS ** (values[0] / 256)
  return np.interp(_LEVELS, np.linspace(0, 1, count), values / 65535)


def _function(tag: bytes) -> np.ndarray | None:
  """Evaluates a `para` tag."""
  kind = int.from_bytes(tag[8:10])
  if kind >= len(_PARAMETERS) or 12 + 4 * _PARAMETERS[kind] > len(tag):
    return None
  values = np.frombuffer(tag, '>i4', _PARAMETERS[kind], 12) / 65536
  g, a, b, c, d, e, f = [*values, *[0.0] * (7 - len(values))]
  if kind == 0:
    a = 1.0
  elif kind in (1, 2):
    if a == 0:
      return None
    # above -b / a the power and an offset c, below it the offset alone
    c, d, e, f = 0.0, -b / a, c, c
  with np.errstate(all='ignore'):
    power = np.maximum(a * _LEVELS + b, 0.0) ** g + e
  return np.where(_LEVELS >= d, power, c * _LEVELS + f)

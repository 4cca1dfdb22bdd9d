"""Makes ICC profiles of version 4.4: of named spaces, and of PNG's gAMA and cHRM.

Numbers come from the standards: chromaticities of H.273 (or of the space's own),
adapted to D50 by the Bradford transform of ICC.1:2022, annex E.
"""

import functools
import struct

import numpy as np

from codax.color import icc, spaces

_CREATED = (2026, 1, 1, 0, 0, 0)
_LICENSE = 'CC0'


@functools.lru_cache(maxsize=64)
def make_profile(code: bytes, channels: int) -> bytes | None:
  """Makes the profile of a named space.

  Args:
    code: see `spaces`.
    channels: 1 or 3.

  Returns:
    The profile; None if ICC's functions cannot describe the space.
  """
  space = spaces.colorimetry(code)
  if space is None:
    return None
  named = spaces.to_h273(code) if channels == 3 else None
  return make(space, spaces.name_code(code, channels), channels, named and named[:2])


def make(
  space: spaces.Colorimetry,
  name: str,
  channels: int,
  h273: tuple[int, int] | None = None,
  curve: bytes | None = None,
) -> bytes:
  """Makes a profile.

  Args:
    space: colorants and curve.
    name: description for people.
    channels: 1 or 3.
    h273: primaries and transfer of H.273, to be named as well; None for none.
    curve: tag of another profile in place of the curve of `space`.
  """
  curve = curve or _curve(space.curve)
  tags = {b'desc': _text(name), b'cprt': _text(_LICENSE), b'wtpt': _xyz(spaces.D50)}
  if channels == 1:
    tags[b'kTRC'] = curve
  else:
    tags[b'chad'] = _fixed(b'sf32', spaces.adaptation(space.white).ravel())
    for letter, column in zip((b'r', b'g', b'b'), space.colorants.T):
      tags[letter + b'XYZ'] = _xyz(column)
    tags |= {b'rTRC': curve, b'gTRC': curve, b'bTRC': curve}
    if h273 is not None:
      tags[b'cicp'] = b'cicp\0\0\0\0' + bytes([*h273, 0, 1])
  return _assemble(tags, b'GRAY' if channels == 1 else b'RGB ')


def make_rgb_of_grey(grey: bytes) -> bytes | None:
  """Makes a profile for grey stored as RGB of three equal samples.

  Args:
    grey: sound profile of grey.

  Returns:
    A profile with its curve; None if it has tables in place of one.
  """
  profile = icc.read(grey, icc.GREY)
  if profile.curves is None or profile.has_tables or profile.connection != b'XYZ ':
    return None
  space = spaces.colorimetry(spaces.SRGB)
  return make(space, icc.describe(grey), 3, curve=profile.tags[b'kTRC'])


def _assemble(tags: dict[bytes, bytes], model: bytes) -> bytes:
  """Writes header, table and contents; equal contents are written once."""
  table, body, places = b'', b'', {}
  start = 128 + 4 + 12 * len(tags)
  for name, content in tags.items():
    if content not in places:
      places[content] = start + len(body)
      body += content + bytes(-len(content) % 4)
    table += struct.pack('>4sII', name, places[content], len(content))
  header = struct.pack(
    '>I4xI4s4s4s6H4s28x12s48x',
    start + len(body), 0x04400000, b'mntr', model, b'XYZ ', *_CREATED, b'acsp',
    _xyz(spaces.D50)[8:],
  )  # fmt: skip
  return header + struct.pack('>I', len(tags)) + table + body


def _curve(curve: spaces.Curve) -> bytes:
  """Writes a curve: a power alone as type 0, others as type 3."""
  is_power = curve[1:] == (1.0, 0.0, 0.0, 0.0)
  values = curve[:1] if is_power else curve
  kind = struct.pack('>4s4xH2x', b'para', 0 if is_power else 3)
  return kind + _fixed(b'', values)


def _text(text: str) -> bytes:
  """Writes a text in one language."""
  data = text.encode('utf-16-be')
  return struct.pack('>4s4xII4sII', b'mluc', 1, 12, b'enUS', len(data), 28) + data


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
  return _fixed(b'XYZ ', values)


def _fixed(kind: bytes, values: np.ndarray | tuple[float, ...]) -> bytes:
  """Writes numbers as signed 16.16, behind a type if there is one."""
  head = kind + bytes(4) if kind else b''
  return head + struct.pack(f'>{len(values)}i', *(round(v * 65536) for v in values))

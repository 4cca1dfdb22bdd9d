"""Color spaces that have a name, and their colorimetry.

A code is the payload of the section `color` (docs/format/container.md): two bytes are
the ColourPrimaries and TransferCharacteristics of ITU-T H.273, three of them a narrow
range, one byte is a number of this package's own, and none at all is sRGB.

Grey images have the transfer of a code and none of its primaries.
"""

import functools
from typing import NamedTuple

import numpy as np

SRGB = b''
ADOBE_RGB = b'\x01'
PROPHOTO_RGB = b'\x02'
DISPLAY_P3 = b'\x0c\x0d'
GAMMA_22 = b'\x01\x04'

# Codes of H.273 that describe nothing: reserved, unspecified, reserved.
UNDEFINED = (0, 2, 3)
# The white of the profile connection space of ICC profiles, as their header has it.
D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
  [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65 = (0.3127, 0.3290)
_D50_XY = (0.3457, 0.3585)
_C = (0.310, 0.316)


class ColorSpace(NamedTuple):
  """The meaning of an image's samples.

  Attributes:
    code: named space, 0 to 3 bytes (see the module); empty if there is a profile.
    icc: ICC profile of a space without a name, or None.
  """

  code: bytes = SRGB
  icc: bytes | None = None


class Primaries(NamedTuple):
  """Chromaticities (x, y) of the three colors and of white, each 0..1."""

  name: str
  red: tuple[float, float]
  green: tuple[float, float]
  blue: tuple[float, float]
  white: tuple[float, float]


class Curve(NamedTuple):
  """A transfer from samples x to light, both 0..1: the function of ICC's type 3.

  (a x + b)^g from d on, c x below.
  """

  g: float
  a: float = 1.0
  b: float = 0.0
  c: float = 0.0
  d: float = 0.0


class Transfer(NamedTuple):
  """A transfer of H.273; `curve` is None where ICC's functions cannot describe it."""

  name: str
  curve: Curve | None


class Colorimetry(NamedTuple):
  """A space of three colors and one curve.

  Attributes:
    colorants: [3, 3], columns are XYZ of red, green and blue, adapted to D50.
    curve: transfer of each channel.
    white: XYZ of the space's own white, Y = 1.
  """

  colorants: np.ndarray
  curve: Curve
  white: np.ndarray


# ITU-T H.273, table 2.
PRIMARIES = {
  1: Primaries('BT.709', (0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
  4: Primaries('BT.470 M', (0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
  5: Primaries('BT.470 B/G', (0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
  6: Primaries('BT.601', (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
  7: Primaries('ST 240', (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
  8: Primaries('film', (0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
  9: Primaries('BT.2020', (0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
  11: Primaries(
    'DCI P3', (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)
  ),
  12: Primaries('P3 D65', (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
  22: Primaries('EBU 3213', (0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_CAMERA = Curve(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# ITU-T H.273, table 3.
TRANSFERS = {
  1: Transfer('BT.709', _CAMERA),
  4: Transfer('gamma 2.2', Curve(2.2)),
  5: Transfer('gamma 2.8', Curve(2.8)),
  6: Transfer('BT.601', _CAMERA),
  7: Transfer(
    'ST 240', Curve(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 4 * 0.0228)
  ),
  8: Transfer('linear', Curve(1.0)),
  11: Transfer('IEC 61966-2-4', _CAMERA),
  13: Transfer('sRGB', SRGB_CURVE),
  14: Transfer('BT.2020 10-bit', _CAMERA),
  15: Transfer('BT.2020 12-bit', _CAMERA),
  16: Transfer('PQ', None),
  17: Transfer('ST 428', None),
  18: Transfer('HLG', None),
}
# Spaces that H.273 has no codes for, by this package's own numbers. Append only.
OWN = {
  # The gamma of Adobe RGB (1998) is 2 + 51/256.
  ADOBE_RGB: (
    Primaries('Adobe RGB', (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65),
    Transfer('gamma 2.2', Curve(2.19921875)),
  ),
  PROPHOTO_RGB: (
    Primaries('ROMM', (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), _D50_XY),
    Transfer('gamma 1.8', Curve(1.8)),
  ),
}
_NAMES = {
  SRGB: 'sRGB',
  ADOBE_RGB: 'Adobe RGB (1998)',
  PROPHOTO_RGB: 'ProPhoto RGB',
  DISPLAY_P3: 'Display P3',
  b'\x01\x01': 'BT.709',
  b'\x01\x08': 'linear sRGB',
  b'\x09\x01': 'BT.2020',
  b'\x09\x0e': 'BT.2020',
  b'\x09\x0f': 'BT.2020',
  b'\x09\x10': 'BT.2100 PQ',
  b'\x09\x12': 'BT.2100 HLG',
  b'\x0b\x11': 'DCI-P3',
}


def name_code(code: bytes, channels: int) -> str:
  """Names a space for people, for example ``'Display P3'`` or ``'grey, gamma 2.2'``.

  Args:
    code: 0 to 3 bytes, of any values.
    channels: 1 or 3.
  """
  if len(code) == 3:
    return f'{name_code(code[:2], channels)}, narrow range'
  if channels == 1:
    transfer = _transfer(code)
    name = f'transfer {code[-1]}' if transfer is None else transfer.name
    return 'grey, sRGB curve' if transfer == TRANSFERS[13] else f'grey, {name}'
  if code in _NAMES:
    return _NAMES[code]
  if len(code) == 1:
    return f'space {code[0]} (of a newer codax)'
  primaries, transfer = PRIMARIES.get(code[0]), TRANSFERS.get(code[1])
  first = str(code[0]) if primaries is None else primaries.name
  second = str(code[1]) if transfer is None else transfer.name
  return f'primaries {first}, transfer {second}'


def from_h273(
  primaries: int, transfer: int, is_full_range: bool = True
) -> bytes | None:
  """Returns the code of H.273's numbers; None if they describe nothing."""
  if primaries in UNDEFINED or transfer in UNDEFINED:
    return None
  code = bytes([primaries, transfer])
  if not is_full_range:
    return code + b'\0'
  return SRGB if code == b'\x01\x0d' else code


def to_h273(code: bytes) -> tuple[int, int, bool] | None:
  """Returns (primaries, transfer, is full range); None for spaces without codes."""
  if code == SRGB:
    return 1, 13, True
  return None if len(code) == 1 else (code[0], code[1], len(code) == 2)


@functools.lru_cache(maxsize=256)
def colorimetry(code: bytes) -> Colorimetry | None:
  """Returns the colorimetry of a space; None if ICC's functions cannot describe it."""
  transfer = _transfer(code)
  primaries = _primaries(code)
  if transfer is None or transfer.curve is None or primaries is None or len(code) == 3:
    return None
  colorants, white = adapt(primaries)
  return Colorimetry(colorants, transfer.curve, white)


def adapt(primaries: Primaries) -> tuple[np.ndarray, np.ndarray]:
  """Computes the colorants that an ICC profile has for these chromaticities.

  Returns:
    Colorants adapted to D50 by the Bradford transform, [3, 3], and XYZ of the white.

  Raises:
    ValueError: chromaticities that make no space.
  """
  points = np.array(primaries[1:], np.float64)
  if not np.isfinite(points).all() or (points[:, 1] <= 0).any():
    raise ValueError('chromaticities out of range')
  x, y = points.T
  xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
  colors, white = xyz[:, :3], xyz[:, 3]
  try:
    scales = np.linalg.solve(colors, white)
  except np.linalg.LinAlgError as e:
    raise ValueError('chromaticities on one line') from e
  if not (1e-6 < scales).all() or not (scales < 1e6).all():
    raise ValueError('white outside the colors')
  return adaptation(white) @ (colors * scales), white


def adaptation(white: np.ndarray) -> np.ndarray:
  """Computes the Bradford transform [3, 3] from a white, XYZ, to D50."""
  gains = (_BRADFORD @ D50) / (_BRADFORD @ white)
  return np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD)


def to_light(curve: Curve, x: np.ndarray) -> np.ndarray:
  """Applies a curve to samples 0..1."""
  base = np.maximum(curve.a * x + curve.b, 0.0)
  return np.where(x >= curve.d, base**curve.g, curve.c * x)


def to_samples(curve: Curve, light: np.ndarray) -> np.ndarray:
  """Inverts `to_light`; light is clipped to 0..1."""
  light = np.clip(light, 0.0, 1.0)
  high = (light ** (1 / curve.g) - curve.b) / curve.a
  if not curve.c:
    return high
  return np.where(light >= curve.c * curve.d, high, light / curve.c)


def _primaries(code: bytes) -> Primaries | None:
  if len(code) == 1:
    return OWN[code][0] if code in OWN else None
  return PRIMARIES.get(code[0] if code else 1)


def _transfer(code: bytes) -> Transfer | None:
  if len(code) == 1:
    return OWN[code][1] if code in OWN else None
  return TRANSFERS.get(code[1] if code else 13)

"""Finds the named space that an ICC profile describes: by its meaning, not its bytes.

A profile is a named space if it has colorants and curves and no tables, and

- every entry of its colorants is within `MATRIX_TOLERANCE` of the space's, in XYZ with
  Y = 1 for white (profiles that are called sRGB or Adobe RGB differ by up to 0.00022
  in use, other spaces by over 0.005), and
- every one of the 256 levels of its curves has light that the space's own curve gives
  to a level within `CURVE_TOLERANCE` of it: below one half, so that the nearest level
  is the same (a table of 1,024 entries is off by 0.03, the smallest ones in use by
  0.4), and
- its media white, which only the absolute intent uses, is D50 or the space's own.
"""

import numpy as np

from codax.color import icc, spaces

MATRIX_TOLERANCE = 0.0005
CURVE_TOLERANCE = 0.45  # levels of 255
_WHITE_TOLERANCE = 0.005
# Transfers that all readers understand alike. (Readers take BT.709's for one of two.)
_TRANSFERS = (13, 4, 8, 5)
CANDIDATES = (
  spaces.SRGB,
  spaces.DISPLAY_P3,
  spaces.ADOBE_RGB,
  spaces.PROPHOTO_RGB,
  *(
    code
    for transfer in _TRANSFERS
    for primaries in spaces.PRIMARIES
    if primaries != 7  # those of 6
    if (code := spaces.from_h273(primaries, transfer))
    not in (spaces.SRGB, spaces.DISPLAY_P3)
  ),
)
# Grey has a curve only: one code for each.
GREY_CANDIDATES = (
  spaces.SRGB,
  *(bytes([1, transfer]) for transfer in _TRANSFERS[1:]),
  spaces.PROPHOTO_RGB,
)
_LEVELS = np.arange(256) / 255


def recognize(profile: icc.Profile) -> bytes | None:
  """Returns the code of the space that a profile describes; None for all others."""
  if profile.has_tables or profile.connection != b'XYZ ' or profile.curves is None:
    return None
  # Printers' white is paper: a reader may treat it as such.
  if profile.colorants is not None and profile.device_class == b'prtr':
    return None
  code = find_space(profile.colorants, profile.curves)
  if code is None or not _has_white(profile, code) or not _agrees(profile, code):
    return None
  return code


def find_space(colorants: np.ndarray | None, curves: np.ndarray) -> bytes | None:
  """Returns the code of the space of these colorants and curves, or None.

  Args:
    colorants: [3, 3], columns are XYZ adapted to D50; None for grey.
    curves: light at 256 even samples, [channels, 256].
  """
  for code in CANDIDATES if colorants is not None else GREY_CANDIDATES:
    space = spaces.colorimetry(code)
    if colorants is not None:
      if np.abs(colorants - space.colorants).max() > MATRIX_TOLERANCE:
        continue
    if is_same_curve(curves, space.curve):
      return code
  return None


def has_srgb_primaries(colorants: np.ndarray) -> bool:
  """Tells whether colorants, columns of XYZ adapted to D50, are those of sRGB."""
  known = spaces.colorimetry(spaces.SRGB).colorants
  return bool(np.abs(colorants - known).max() <= MATRIX_TOLERANCE)


def is_same_curve(light: np.ndarray, curve: spaces.Curve) -> bool:
  """Tells whether light at 256 even samples, [..., 256], is that of a curve."""
  samples = spaces.to_samples(curve, light)
  return bool(np.abs(samples - _LEVELS).max() * 255 <= CURVE_TOLERANCE)


def _has_white(profile: icc.Profile, code: bytes) -> bool:
  """Tells whether the media white is D50 or the space's; grey has any."""
  if profile.colorants is None:
    return True
  white = icc.read_white(profile)
  if white is None:
    return False
  space = spaces.colorimetry(code)
  return any(
    np.abs(white - known).max() <= _WHITE_TOLERANCE
    for known in (np.array(spaces.D50), space.white)
  )


def _agrees(profile: icc.Profile, code: bytes) -> bool:
  """Tells whether a profile's own codes of H.273, if it has any, are the space's."""
  tag = profile.tags.get(b'cicp')
  if tag is None:
    return True
  named = spaces.to_h273(code)
  return len(tag) >= 12 and named is not None and tuple(tag[8:10]) == named[:2]

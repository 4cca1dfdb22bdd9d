"""A color space written into an image file, as far as the format can hold it."""

from typing import Any

from codax.color import boxes, png, profiles, sections, spaces
from codax.color.spaces import ColorSpace

# The formats in which Pillow writes an ICC profile.
_HOLD_PROFILES = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF')
_HOLD_CODES = ('PNG', 'AVIF')
_WITHOUT_GREY = ('WEBP',)  # it is stored as RGB


def to_icc(color: ColorSpace, channels: int) -> bytes | None:
  """Returns the ICC profile of a color space; None for sRGB and where ICC has none."""
  if color.icc is not None or color.code == spaces.SRGB:
    return color.icc
  return profiles.make_profile(color.code, channels)


def save_options(
  color: ColorSpace, kind: str, channels: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Makes the options of Pillow's `save` that write a color space.

  sRGB is a chunk in PNG and the default of all other formats. In PNG a space with codes
  of H.273 is written both as these and as a profile, for older readers.

  Args:
    color: color space of the image.
    kind: Pillow's name of the format.
    channels: channels of the image, 1 or 3.

  Returns:
    Options, and sentences on what the format cannot hold.
  """
  options = {}
  profile = _make_profile(color, kind, channels)
  if profile is not None:
    options['icc_profile'] = profile
  has_codes = kind in _HOLD_CODES and _has_codes(color)
  if channels == 1:  # codes of grey only where there is no other way
    has_codes = has_codes and kind == 'PNG' and profile is None
  if kind == 'PNG' and color.icc is None and (has_codes or color.code == spaces.SRGB):
    options['pnginfo'] = png.make_chunks(color.code)
  is_narrow = len(color.code) == 3 and kind != 'PNG'
  if profile is not None or has_codes and not is_narrow:
    return options, ()
  if sections.is_srgb(color, channels):
    return options, ()
  what = 'no color space' if kind not in _HOLD_PROFILES else 'no such color space'
  name = sections.name_space(color, channels)
  return options, (f'{kind} holds {what}: {name} was dropped',)


def finish(data: bytes, color: ColorSpace, kind: str, channels: int) -> bytes:
  """Returns a file that Pillow wrote with what Pillow cannot write."""
  if kind != 'AVIF' or color.code == spaces.SRGB or channels == 1:
    return data
  if not _has_codes(color):
    return data
  primaries, transfer, is_full_range = spaces.to_h273(color.code)
  return (is_full_range and boxes.set_nclx(data, primaries, transfer)) or data


def _make_profile(color: ColorSpace, kind: str, channels: int) -> bytes | None:
  """Returns the ICC profile that a format shall hold."""
  if kind not in _HOLD_PROFILES:
    return None
  if kind not in _WITHOUT_GREY or channels == 3:
    return to_icc(color, channels)
  return profiles.make_rgb_of_grey(color.icc) if color.icc else to_icc(color, 3)


def _has_codes(color: ColorSpace) -> bool:
  """Tells whether a color space has codes of H.273."""
  return color.icc is None and spaces.to_h273(color.code) is not None

"""The color space of an image file, from whatever the file has to say about it.

The order is that of the standards. PNG: cICP, iCCP, sRGB, then gAMA and cHRM. AVIF: an
ICC profile, then nclx. All others: an ICC profile, then what EXIF says of cameras that
write Adobe RGB (1998) without a profile (DCF 2.0). Without any of them it is sRGB.
"""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from codax.color import boxes, icc, png, profiles, recognition, sections, spaces
from codax.color.spaces import ColorSpace

_TIFF_PRIMARIES = 319
_EXIF_IFD, _INTEROP_IFD, _INTEROP_INDEX = 0x8769, 0xA005, 1
_ADOBE_INDEX = 'R03'  # "option file" of DCF: Adobe RGB (1998)
# Writers of sRGB put 0.45455 into gAMA, as the PNG standard says, or about that.
_SRGB_GAMMAS = (0.45, 0.46)
# Models whose pixels become RGB by a change of color space, which no profile follows.
_WITHOUT_PROFILE = ('CMYK', 'LAB', 'HSV')
_LEVELS = np.arange(256) / 255
_GAMMAS = (0.05, 5.0)  # range of a sound gAMA


class Tags(NamedTuple):
  """What a file says about colors, as it stands there.

  Attributes:
    mode: Pillow's name of the pixels' model.
    codes: primaries, transfer, matrix and full range of H.273; None without.
    codes_name: place of the codes, for notes.
    icc: ICC profile, or None.
    is_icc_damaged: whether there was a profile that Pillow could not take out.
    is_srgb: whether the file says sRGB by a tag of its own.
    gamma: exponent from light to samples, or None.
    chromaticities: x and y of white, red, green and blue, eight numbers, or None.
    is_adobe: whether EXIF says Adobe RGB (1998).
    has_hdr: whether the file describes a display of high dynamic range.
    has_tiff_primaries: whether TIFF tags, which readers ignore, name primaries other
      than those of sRGB.
  """

  mode: str = 'RGB'
  codes: tuple[int, int, int, int] | None = None
  codes_name: str = ''
  icc: bytes | None = None
  is_icc_damaged: bool = False
  is_srgb: bool = False
  gamma: float | None = None
  chromaticities: tuple[float, ...] | None = None
  is_adobe: bool = False
  has_hdr: bool = False
  has_tiff_primaries: bool = False


def read_tags(im: Image.Image) -> Tags:
  """Reads what an opened image, not loaded yet, says about colors."""
  profile = im.info.get('icc_profile')
  if im.format == 'AVIF' and profile and im.mode == 'RGB':
    profile = _fit_to_rgb(profile)  # Pillow reads grey as RGB
  tags = Tags(
    im.mode,
    icc=profile or None,
    is_icc_damaged='icc_profile' in im.info and not profile,
    is_srgb='srgb' in im.info,
    gamma=im.info.get('gamma'),
    chromaticities=im.info.get('chromaticity'),
    is_adobe=im.format in ('JPEG', 'MPO') and _is_adobe(im),
    has_tiff_primaries=im.format == 'TIFF' and _has_other_primaries(im),
  )
  file = getattr(im, 'fp', None)
  if file is None or im.format not in ('PNG', 'AVIF', 'JPEG2000'):
    return tags
  place = file.tell()
  try:
    if im.format == 'PNG':
      chunks = png.read_chunks(file)
      codes = tuple(chunks.get(b'cICP', b''))
      tags = tags._replace(has_hdr=any(name in chunks for name in png.HDR_CHUNKS))
      return tags._replace(codes=codes or None, codes_name='cICP chunk')
    if im.format == 'JPEG2000':
      return tags._replace(icc=tags.icc or boxes.read_jp2_profile(file))
    nclx = boxes.read_nclx(file)
    # Pixels are RGB once they are read: matrix and range have been applied.
    codes = None if nclx is None else (nclx.primaries, nclx.transfer, 0, 1)
    return tags._replace(codes=codes, codes_name='nclx box')
  finally:
    file.seek(place)


def find_color(tags: Tags, channels: int) -> tuple[ColorSpace, tuple[str, ...]]:
  """Decides which color space an image has.

  Args:
    tags: tags of its file.
    channels: channels of its pixels, 1 or 3.

  Returns:
    The color space, and sentences on what was left out.
  """
  notes = []
  if tags.mode in _WITHOUT_PROFILE:
    if tags.icc is not None:
      notes.append(f'the ICC profile could not be used for {tags.mode} and was dropped')
    return ColorSpace(), tuple(notes)
  if tags.has_hdr:
    notes.append('the description of the HDR display (mDCV, cLLI) was dropped')
  # An AVIF's profile goes before its codes, a PNG's after them.
  finders = [_from_codes, _from_profile]
  if tags.codes_name == 'nclx box':
    finders.reverse()
  for find in finders:
    color = find(tags, channels, notes)
    if color is not None:
      return color, tuple(notes)
  if not tags.is_srgb and (tags.gamma is not None or tags.chromaticities is not None):
    return _from_gamma(tags, channels, notes), tuple(notes)
  if tags.has_tiff_primaries:
    notes.append('the primaries of the TIFF tags are not those of sRGB: dropped')
  if tags.is_adobe and tags.icc is None:
    return ColorSpace(spaces.ADOBE_RGB), tuple(notes)
  return ColorSpace(), tuple(notes)


def _from_codes(tags: Tags, channels: int, notes: list[str]) -> ColorSpace | None:
  """Takes the codes of H.273, if they say something."""
  if tags.codes is None:
    return None
  is_sound = len(tags.codes) == 4 and tags.codes[2] == 0 and tags.codes[3] in (0, 1)
  if not is_sound or max(tags.codes) > 255:
    notes.append(f'the {tags.codes_name} is damaged and was dropped')
    return None
  primaries, transfer, _, is_full_range = tags.codes
  code = spaces.from_h273(primaries, transfer, bool(is_full_range))
  if code is None:
    if (primaries, transfer) != (2, 2):
      notes.append(
        f'the {tags.codes_name} leaves the colors open ({primaries}, {transfer}) and '
        'was dropped'
      )
    return None
  if channels == 1 and code == spaces.from_h273(primaries, 13):
    return ColorSpace()  # grey has no primaries
  return ColorSpace(code)


def _from_profile(tags: Tags, channels: int, notes: list[str]) -> ColorSpace | None:
  """Takes the ICC profile, if it is sound."""
  if tags.is_icc_damaged:
    notes.append('the ICC profile is damaged and was dropped')
  if tags.icc is None:
    return None
  try:
    return sections.identify(tags.icc, channels)
  except icc.ProfileError as e:
    notes.append(f'the ICC profile was dropped: {e}')
    return None


def _from_gamma(tags: Tags, channels: int, notes: list[str]) -> ColorSpace:
  """Makes a color space of gAMA and cHRM.

  Without gAMA the curve is sRGB's, without cHRM the primaries are. A gAMA of about
  0.45455 beside sRGB's primaries is what writers of sRGB put there.
  """
  curve, primaries = spaces.SRGB_CURVE, spaces.PRIMARIES[1]
  try:
    if tags.gamma is not None:
      if not _GAMMAS[0] <= tags.gamma <= _GAMMAS[1]:
        raise ValueError('gamma out of range')
      curve = spaces.Curve(1 / tags.gamma)
    if tags.chromaticities is not None and channels == 3:
      white, *colors = np.reshape(tags.chromaticities, (4, 2))
      primaries = spaces.Primaries('cHRM', *map(tuple, [*colors, white]))
    colorants, white = spaces.adapt(primaries)
  except ValueError:
    notes.append('gAMA and cHRM make no color space and were dropped')
    return ColorSpace()
  is_usual = tags.gamma is None or _SRGB_GAMMAS[0] <= tags.gamma <= _SRGB_GAMMAS[1]
  if is_usual and (channels == 1 or recognition.has_srgb_primaries(colorants)):
    return ColorSpace()
  light = spaces.to_light(curve, _LEVELS)
  code = recognition.find_space(colorants if channels == 3 else None, light[None])
  if code is not None:
    return ColorSpace(code)
  space = spaces.Colorimetry(colorants, curve, white)
  return ColorSpace(icc=profiles.make(space, 'gAMA and cHRM of a PNG file', channels))


def _fit_to_rgb(profile: bytes) -> bytes:
  """Makes a profile of RGB out of one of grey; leaves others as they are."""
  try:
    return profiles.make_rgb_of_grey(profile) or profile
  except icc.ProfileError:
    return profile


def _has_other_primaries(im: Any) -> bool:
  """Tells whether TIFF tags name primaries, and not those of sRGB."""
  values = im.tag_v2.get(_TIFF_PRIMARIES)
  if not isinstance(values, tuple) or len(values) != 6:
    return False
  known = np.ravel(spaces.PRIMARIES[1][1:4])
  return bool(np.abs(np.array(values, float) - known).max() > 0.005)


def _is_adobe(im: Any) -> bool:
  """Tells whether EXIF names Adobe RGB (1998) as cameras do."""
  try:
    exif = im.getexif()
    if _INTEROP_IFD not in exif.get_ifd(_EXIF_IFD):
      return False
    index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX, '')
  except Exception:  # Pillow's parsers fail in many ways on damaged EXIF
    return False
  text = index.decode('latin-1') if isinstance(index, bytes) else str(index)
  return text.strip('\0 ') == _ADOBE_INDEX

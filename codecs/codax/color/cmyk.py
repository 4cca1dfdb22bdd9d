"""CMYK pixels to sRGB through their ICC profile, where Pillow has LittleCMS."""

import io

from PIL import Image

from codax.color import icc


def to_srgb(im: Image.Image) -> tuple[Image.Image, str] | None:
  """Converts a CMYK image through its own profile.

  Relative colorimetric with black point compensation: paper becomes white, and the
  darkest ink black.

  Args:
    im: loaded image of mode CMYK.

  Returns:
    An RGB image and a sentence on the conversion; None without a sound profile.
  """
  profile = im.info.get('icc_profile')
  if im.mode != 'CMYK' or not profile:
    return None
  from PIL import ImageCms

  try:
    data = icc.read(profile, icc.CMYK).data
    converted = ImageCms.profileToProfile(
      im,
      ImageCms.ImageCmsProfile(io.BytesIO(data)),
      ImageCms.createProfile('sRGB'),
      ImageCms.Intent.RELATIVE_COLORIMETRIC,
      outputMode='RGB',
      flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
  except ImportError:  # Pillow without LittleCMS
    return None
  except (icc.ProfileError, ImageCms.PyCMSError, OSError, ValueError):
    return None
  name = icc.describe(data)
  return converted, f'CMYK colors were turned into sRGB by the ICC profile "{name}"'

"""Lets Pillow open and save `.cdx` files once `codax.pillow_plugin` is imported::

  Image.open('photo.jpg').save('photo.cdx', codec='splat', quality=75)
  Image.open('photo.cdx').show()

Saving takes the arguments of `codax.encode` by name, `icc_profile` and `exif` (of which
the orientation is kept); without these the image's own are kept.

Opening reads the header and checks the checksum; pixels are decoded when they are first
needed. A file of a trained codec needs its bundle, which is looked for as
`pretrained.find_bundle` says: in the environment variable CODAX_MODEL, then in
``runs/*/bundle.safetensors``.

The import is explicit: Pillow has no entry points for plugins, and ``import codax``
alone should neither import Pillow nor change it.
"""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from codax import bitstream, families, image_io, pretrained
from codax.bitstream import Section
from codax.color import cmyk, icc, sections
from codax.color.output import to_icc
from codax.color.sections import read_sections
from codax.errors import CodaxError

FORMAT = 'CDX'
_METADATA = ('icc_profile', 'exif')  # arguments of `save` that are not the codec's
_GRAY = ('1', 'L', 'LA', 'La')
_COLOR = ('RGB', 'RGBA', 'RGBa', 'RGBX', 'P', 'PA', 'CMYK', 'YCbCr', 'LAB', 'HSV')
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}


class CdxImageFile(ImageFile.ImageFile):
  """A `.cdx` file as Pillow sees it. Errors of the file are `OSError`."""

  format = FORMAT
  format_description = 'codax learned image codec'

  def _open(self) -> None:
    """Reads size, mode and metadata. Called by Pillow."""
    if not _accept(self.fp.read(len(bitstream.MAGIC))):
      raise SyntaxError('not a .cdx file')  # what makes Pillow try its other plugins
    data = bitstream.MAGIC + self.fp.read()
    try:
      header, sections = bitstream.read(data, known=None)
      orientation = bitstream.orientation(sections)
      color, _ = read_sections(sections, header.channels)
    except CodaxError as e:
      raise OSError(str(e)) from e
    self._size = header.width, header.height
    has_alpha = bitstream.find(sections, bitstream.ALPHA) is not None
    self._mode = _MODES[header.channels + has_alpha]
    self.tile = []  # nothing that Pillow itself could decode
    self._data = data
    icc = to_icc(color, header.channels)
    if icc is not None:
      self.info['icc_profile'] = icc
    if orientation != 1:
      self.info['exif'] = image_io.exif_bytes(orientation)

  def load(self):
    """Decodes the pixels, once. Called by Pillow when they are needed."""
    if self._data is not None:
      try:
        pixels = families.decode(self._data)
      except pretrained.BundleMissing as e:
        raise OSError(
          f'{e.reason}: set the environment variable {pretrained.MODEL_VARIABLE} to '
          'its run directory or bundle file'
        ) from e
      except CodaxError as e:
        raise OSError(str(e)) from e
      decoded = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
      self.im = decoded.im
      self._data = None
      if self._exclusive_fp and self.fp is not None:
        self.fp.close()
      self.fp = None
    return super().load()


def _accept(prefix: bytes) -> bool:
  return bitstream.is_cdx(prefix)


def _save(im: Image.Image, fp: BinaryIO, filename: str | bytes) -> None:
  """Encodes an image. Called by Pillow's `save`; errors are `OSError`, as its own."""
  wanted = {k: v for k, v in im.encoderinfo.items() if k not in _METADATA}
  try:
    pixels, profile = _to_pixels(im)
    data = families.encode(pixels, **wanted)
    if not bitstream.is_cdx(data):
      raise CodaxError(f'codec {wanted["codec"]!r} does not write .cdx files')
    fp.write(bitstream.add_sections(data, _make_metadata(im, profile)))
  except (CodaxError, TypeError) as e:
    raise OSError(f'cannot be saved as {FORMAT}: {e}') from e


def _to_pixels(im: Image.Image) -> tuple[np.ndarray, bytes | None]:
  """Converts an image to uint8 [H, W, 1 to 4]; also returns its ICC profile."""
  if im.mode not in (*_GRAY, *_COLOR):
    raise CodaxError(f'mode {im.mode} has no 8-bit channels: convert the image first')
  profile = im.encoderinfo.get('icc_profile', im.info.get('icc_profile'))
  if (converted := cmyk.to_srgb(im)) is not None:
    im, profile = converted[0], None
  is_clear = im.has_transparency_data
  if im.mode in _GRAY and not isinstance(im.info.get('transparency'), int):
    mode = 'LA' if is_clear else 'L'
  else:
    mode = 'RGBA' if is_clear else 'RGB'
  pixels = np.asarray(im.convert(mode))
  return pixels if pixels.ndim == 3 else pixels[..., None], profile


def _make_metadata(im: Image.Image, profile: bytes | None) -> list[Section]:
  """Makes the sections of color space and orientation; a profile must fit the image."""
  made = []
  if profile:
    try:
      channels = 1 if im.mode in _GRAY else 3
      made += sections.make_sections(sections.identify(profile, channels))
    except icc.ProfileError as e:
      raise CodaxError(f'the ICC profile does not fit: {e}') from e
  exif = im.encoderinfo.get('exif', im.getexif())
  if not isinstance(exif, Image.Exif):
    read = Image.Exif()
    read.load(exif)
    exif = read
  return made + bitstream.orientation_sections(image_io.read_orientation(exif))


def register() -> None:
  """Tells Pillow about the format. Done by importing this module; harmless again."""
  Image.register_open(FORMAT, CdxImageFile, _accept)
  Image.register_save(FORMAT, _save)
  Image.register_extension(FORMAT, '.cdx')
  Image.register_mime(FORMAT, 'image/x-codax')


register()

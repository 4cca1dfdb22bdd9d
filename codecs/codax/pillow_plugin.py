"""Lets Pillow open `.cdx` files: ``import codax.pillow_plugin``, then ``Image.open``.

Opening reads the header and checks the checksum; pixels are decoded when they are first
needed. A file of a trained codec needs its bundle, which is looked for as
`pretrained.find_bundle` says: in the environment variable CODAX_MODEL, then in
``runs/*/bundle.safetensors``.

The import is explicit: Pillow has no entry points for plugins, and ``import codax``
alone should neither import Pillow nor change it.
"""

from PIL import Image, ImageFile

from codax import bitstream, families, image_io, pretrained
from codax.color.output import to_icc
from codax.color.sections import read_sections
from codax.errors import CodaxError

FORMAT = 'CDX'
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


def register() -> None:
  """Tells Pillow about the format. Done by importing this module; harmless again."""
  Image.register_open(FORMAT, CdxImageFile, _accept)
  Image.register_extension(FORMAT, '.cdx')
  Image.register_mime(FORMAT, 'image/x-codax')


register()

"""Image files in and out: any readable image becomes uint8 grey or RGB.

Losses on the way (bits beyond eight, frames, a palette, an opaque alpha channel) are
listed in the image's notes; contents that cannot be dropped without harm (transparency,
floating-point pixels) are refused by a sentence. Pixels are taken as stored: the EXIF
orientation and the ICC profile travel beside them.
"""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.ImageFile
from PIL import Image, ImageOps, UnidentifiedImageError

from codax import files
from codax.errors import CodaxError

_ORIENTATION_TAG = 0x0112
_16_BIT = ('I;16', 'I;16B', 'I;16L', 'I;16N')
# Modes that become RGB by a change of colour space, which an ICC profile cannot follow.
_OTHER_SPACES = ('CMYK', 'YCbCr', 'LAB', 'HSV')
# The formats in which Pillow writes both an EXIF block and an ICC profile.
_HAVE_METADATA = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF')
# The formats that give every 8-bit pixel back as it was written.
_EXACT = ('PNG', 'WEBP', 'TIFF', 'BMP', 'DIB', 'PPM', 'TGA', 'PCX', 'SGI', 'JPEG2000')
# Icons, which Pillow writes scaled down to the usual sizes.
_RESIZED = ('ICO', 'ICNS')
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
_SAVE_OPTIONS = {
  'JPEG': {'quality': 95, 'subsampling': 0},
  'WEBP': {'lossless': True},
  'AVIF': {'quality': 95, 'subsampling': '4:4:4'},
}


class ImageFile(NamedTuple):
  """An image and its metadata.

  Attributes:
    pixels: uint8 [H, W, C], C in {1, 3}, as stored (not turned by `orientation`).
    icc: ICC profile that fits these channels, or None.
    orientation: EXIF orientation, 1..8; 1 is upright.
    notes: sentences on what reading the file lost.
  """

  pixels: np.ndarray
  icc: bytes | None = None
  orientation: int = 1
  notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> ImageFile:
  """Reads any image file that Pillow can read.

  Args:
    path: file to read. Pillow's limit on pixels (178,956,970) holds.

  Returns:
    The image; 16-bit becomes 8-bit, palettes and other colour spaces become RGB,
    a fully opaque alpha channel is dropped, each with a note.

  Raises:
    CodaxError: no such file, not an image, damaged, too large, transparent, or with
      pixels that are not 8 or 16-bit integers. One line that names the file.
  """
  return _open(path, path, _to_image_file)


def read_bytes(data: bytes, name: str) -> ImageFile:
  """Reads the bytes of an image file as `read` does; errors call it `name`."""
  return _open(io.BytesIO(data), name, _to_image_file)


def check(path: str | os.PathLike) -> None:
  """Checks what a file's header tells: whether `read` would refuse it.

  Pixels are read only of files that may have transparent ones. Damage behind the
  header is found by `read` alone.

  Raises:
    CodaxError: see `read`.
  """
  _open(path, path, _check_header)


def _open(
  source: Any, path: str | os.PathLike, use: Callable[[Image.Image], Any]
) -> Any:
  """Opens a file and returns the result of `use`; every error names `path`."""
  _register_readers(Path(path).suffix.lower())
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow warns of harmless oddities in metadata
      with Image.open(source) as im:
        return use(im)
  except CodaxError as e:
    raise CodaxError(f'{path}: {e}') from e
  except UnidentifiedImageError as e:
    raise CodaxError(f'{path}: not an image that Pillow can read') from e
  except OSError as e:
    raise CodaxError(f'{path}: {e.strerror or e}') from e
  # A damaged file can surface anywhere in Pillow's parsers, as nearly any exception.
  except Exception as e:
    raise CodaxError(f'{path}: not readable as an image: {e}') from e


@functools.cache
def _register_readers(suffix: str) -> None:
  """Makes the reader of an optional format known to Pillow, if it is installed."""
  if suffix == '.jxl':
    with contextlib.suppress(ImportError), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      import pillow_jxl  # noqa: F401  (importing registers the format)


def write(path: str | os.PathLike, image: ImageFile) -> tuple[str, ...]:
  """Writes an image, whole or not at all.

  Args:
    path: file to write; its suffix picks the format, PNG if it has none.
    image: pixels and metadata to write; notes are left out.

  Returns:
    Sentences on losses, see `format_image`.

  Raises:
    CodaxError: unknown suffix, or a format that cannot hold the image.
    OSError: no space, no permission.
  """
  try:
    data, notes = format_image(image, file_format(path))
  except CodaxError as e:
    raise e if str(path) in str(e) else CodaxError(f'{path}: {e}') from e
  write_file(path, data)
  return notes


def format_image(image: ImageFile, kind: str) -> tuple[bytes, tuple[str, ...]]:
  """Makes the bytes of an image file.

  Args:
    image: pixels and metadata to write; notes are left out.
    kind: Pillow's name of the format. Formats that cannot hold an EXIF orientation get
      their pixels turned instead.

  Returns:
    The file, and sentences on contents that the format could not hold.

  Raises:
    CodaxError: the format cannot hold the image.
  """
  im = Image.fromarray(_squeeze(image.pixels))
  exif = Image.Exif()
  exif[_ORIENTATION_TAG] = image.orientation
  options, notes = dict(_SAVE_OPTIONS.get(kind, {})), []
  if image.orientation != 1 and kind in _HAVE_METADATA:
    options['exif'] = exif
  elif image.orientation != 1:
    im.getexif()[_ORIENTATION_TAG] = image.orientation
    im = ImageOps.exif_transpose(im)
    notes.append(f'{kind} holds no orientation: the pixels were turned')
  if image.icc is not None and kind in _HAVE_METADATA:
    options['icc_profile'] = image.icc
  elif image.icc is not None:
    notes.append(f'{kind} holds no ICC profile: it was dropped')
  if kind not in _EXACT and not (kind == 'GIF' and im.mode == 'L'):
    notes.append(f'{kind} does not keep pixels exactly; PNG does')
  out = io.BytesIO()
  try:
    im.save(out, kind, **options)
  except (OSError, ValueError, KeyError) as e:
    raise CodaxError(f'cannot be written as {kind}: {e}') from e
  return out.getvalue(), tuple(notes)


def file_format(path: str | os.PathLike) -> str:
  """Returns Pillow's name of the format of this suffix; 'PNG' if there is no suffix.

  Raises:
    CodaxError: no format that Pillow writes has this suffix.
  """
  suffix = Path(path).suffix.lower()
  if not suffix:
    return 'PNG'
  _register_readers(suffix)
  Image.init()
  kind = Image.registered_extensions().get(suffix)
  if kind not in Image.SAVE or kind in _RESIZED:
    raise CodaxError(
      f'{path}: no image format that can be written has the suffix '
      f'{suffix} (usual: .png, .jpg, .webp, .tif, .bmp, .ppm)'
    )
  return kind


def check_output(path: str | os.PathLike) -> None:
  """Tries whether a file can be written at `path`, before long work.

  Raises:
    CodaxError: `path` is a folder or a link to itself, or its folder does not exist.
    OSError: the file cannot be written; names the path.
  """
  name, path = os.fspath(path), Path(path)
  if not name:
    raise CodaxError('the name of an output is empty')
  if path.is_dir():
    raise CodaxError(f'{name} is a folder, not a file to write')
  if name.endswith(_SEPARATORS):
    raise CodaxError(f'{name} is the name of a folder, and there is none')
  if not path.parent.is_dir():
    raise CodaxError(f'{path}: the folder {path.parent} does not exist')
  real = Path(os.path.realpath(path))
  if real.is_symlink():  # only a circle of links leaves one
    raise CodaxError(f'{path} is a link to itself')
  if not files.is_device(path) and not real.parent.is_dir():
    raise CodaxError(f'{path} is a link into a folder that does not exist')
  files.try_writing(path)


def write_file(path: str | os.PathLike, data: bytes) -> None:
  """Writes bytes to a file that a user named, whole or not at all.

  Links are followed; see `files.write_bytes`.

  Raises:
    CodaxError: the folder does not exist, or `path` is one.
    OSError: no space, no permission; names the path.
  """
  check_output(path)
  files.write_bytes(path, data)


def exif_bytes(orientation: int) -> bytes:
  """Returns an EXIF block that holds this orientation only."""
  exif = Image.Exif()
  exif[_ORIENTATION_TAG] = orientation
  return exif.tobytes()


def _squeeze(pixels: np.ndarray) -> np.ndarray:
  """Turns [H, W, 1] into [H, W], as Pillow wants grey."""
  return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _to_image_file(im: PIL.ImageFile.ImageFile) -> ImageFile:
  deep = _is_16_bit(im)
  frames = getattr(im, 'n_frames', 1)
  im.load()
  # After loading: PNG may keep EXIF behind the pixels, and TIFF is turned upright.
  orientation = im.getexif().get(_ORIENTATION_TAG, 1)
  if orientation not in range(1, 9):
    orientation = 1
  icc = im.info.get('icc_profile') or None
  notes = []
  if frames > 1:
    notes.append(f'only the first of {frames} frames was read')
  if deep:
    notes.append('16-bit samples were reduced to 8 bits')
  if im.mode in _OTHER_SPACES and icc is not None:
    icc = None
    notes.append(f'the ICC profile is of {im.mode} and was dropped')
  pixels, more = _to_uint8(im)
  notes += more
  space = {1: b'GRAY', 3: b'RGB '}[pixels.shape[2]]
  if icc is not None and icc[16:20] != space:
    icc = None
    notes.append('the ICC profile is of another colour space and was dropped')
  return ImageFile(pixels, icc, int(orientation), tuple(notes))


def _check_header(im: PIL.ImageFile.ImageFile) -> None:
  """Raises `CodaxError` if `_to_image_file` would refuse an image not loaded yet."""
  if im.mode == 'F' or im.has_transparency_data:
    _to_image_file(im)


def _is_16_bit(im: Image.Image) -> bool:
  """Returns whether the file, not loaded yet, has more than 8 bits a sample."""
  if im.mode in _16_BIT or im.mode == 'I':
    return True
  # Pillow reads 16-bit RGB as 8-bit; only the raw mode of its tiles tells (';16').
  return any(';16' in str(tile[3]) for tile in getattr(im, 'tile', ()))


def _to_uint8(im: Image.Image) -> tuple[np.ndarray, list[str]]:
  """Converts to uint8 [H, W, C] with C in {1, 3}; notes say what was lost."""
  if im.mode in _16_BIT or im.mode == 'I':
    return _deep_grey(im), []
  if im.mode == 'F':
    raise CodaxError('floating-point pixels are not supported; convert to 8 bits')
  notes = []
  grey = im.mode in ('1', 'L', 'LA', 'La')
  if im.mode in ('P', 'PA'):
    notes.append('palette colours were turned into RGB')
  elif im.mode in _OTHER_SPACES:
    notes.append(f'{im.mode} colours were turned into RGB')
  if im.has_transparency_data:
    im = im.convert('LA' if grey and im.mode != '1' else 'RGBA')
    if im.getextrema()[-1][0] < 255:
      raise CodaxError(
        'has transparent pixels, which codax does not store; flatten '
        'it onto a background first'
      )
    notes.append('an alpha channel without transparency was dropped')
  im = im.convert('L' if grey else 'RGB')
  pixels = np.array(im, np.uint8)  # a copy: the image is closed after this
  return pixels[..., None] if grey else pixels, notes


def _deep_grey(im: Image.Image) -> np.ndarray:
  """Rounds 16-bit grey, or 32-bit grey that holds 16-bit values, to 8 bits."""
  values = np.array(im).astype(np.int64)
  if values.min() < 0 or values.max() > 65535:
    raise CodaxError('32-bit pixels are not supported; convert to 8 or 16 bits')
  if (key := im.info.get('transparency')) is not None and (values == key).any():
    raise CodaxError(
      'has transparent pixels, which codax does not store; flatten '
      'it onto a background first'
    )
  return ((values + 128) // 257).astype(np.uint8)[..., None]

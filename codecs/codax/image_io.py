"""Image files in and out: any readable image becomes uint8 grey or RGB.

Losses on the way (bits beyond eight, frames, a palette, an opaque alpha channel) are
listed in the image's notes; contents that cannot be dropped without harm (transparency
where the caller does not keep it, floating-point pixels) are refused by a sentence.
Pixels are taken as stored: the EXIF orientation and the color space travel beside them.
`codax.readers` does the reading.
"""

import functools
import io
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from codax import alpha as alphas
from codax import files
from codax.color import cmyk, output, tags
from codax.color.spaces import ColorSpace
from codax.errors import CodaxError
from codax.readers import depths, formats, opening, samples

_ORIENTATION_TAG = 0x0112
# The formats whose viewers turn the image by its EXIF orientation. Many of PNG do not.
_TURNED_BY_VIEWERS = ('JPEG', 'WEBP', 'TIFF', 'AVIF')
# Where rows and columns belong on the screen, by the EXIF orientation: whether they
# change places, and then the step through rows and through columns.
_TURNS = {
  1: (False, 1, 1),
  2: (False, 1, -1),
  3: (False, -1, -1),
  4: (False, -1, 1),
  5: (True, 1, 1),
  6: (True, 1, -1),
  7: (True, -1, -1),
  8: (True, -1, 1),
}
# The formats that give every 8-bit pixel back as it was written.
_EXACT = ('PNG', 'WEBP', 'TIFF', 'BMP', 'DIB', 'PPM', 'TGA', 'PCX', 'SGI', 'JPEG2000')
# The formats that are written with alpha, of gray images too.
_TRANSPARENT = ('PNG', 'WEBP', 'TIFF', 'AVIF')
# Icons, which Pillow writes scaled down to the usual sizes.
_RESIZED = ('ICO', 'ICNS')
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
_SAVE_OPTIONS = {
  'JPEG': {'quality': 95, 'subsampling': 0},
  'WEBP': {'lossless': True, 'exact': True},  # colors of invisible pixels too
  'AVIF': {'quality': 95, 'subsampling': '4:4:4'},
}


class ImageFile(NamedTuple):
  """An image and its metadata.

  Attributes:
    pixels: uint8 [H, W, C], C in {1, 3}, as stored (not turned by `orientation`).
    color: color space of these channels; sRGB, or grey with its curve, by default.
    orientation: EXIF orientation, 1..8; 1 is upright.
    notes: sentences on what reading the file lost.
    alpha: uint8 [H, W], 0 transparent to 255 opaque; None for an opaque image.
  """

  pixels: np.ndarray
  color: ColorSpace = ColorSpace()
  orientation: int = 1
  notes: tuple[str, ...] = ()
  alpha: np.ndarray | None = None


def read(path: str | os.PathLike, *, keep_alpha: bool = False) -> ImageFile:
  """Reads any image file that Pillow or an optional reader can read.

  Args:
    path: file, pipe or device to read. As many pixels are read as a `.cdx` file may
      have, whatever Pillow's own limit is.
    keep_alpha: whether transparency is read; else it is refused.

  Returns:
    The image; 16-bit becomes 8-bit, palettes and other colour spaces become RGB,
    a fully opaque alpha channel is dropped, each with a note.

  Raises:
    CodaxError: no such file, not an image, damaged, too large, transparent, or with
      samples that 8 bits cannot stand for. One line that names the file.
  """
  return _read(path, str(path), keep_alpha)


def read_bytes(data: bytes, name: str, *, keep_alpha: bool = False) -> ImageFile:
  """Reads the bytes of an image file as `read` does; errors call it `name`."""
  return _read(data, name, keep_alpha)


def check(path: str | os.PathLike) -> None:
  """Checks what a file's header tells: whether `read` would refuse it.

  Pixels are read only of files that may have transparent ones. Damage behind the
  header is found by `read` alone. Pipes, which can be read once, are not looked at.

  Raises:
    CodaxError: see `read`.
  """
  if files.is_device(path):
    return
  opening.use_image(path, str(path), _check_header)


def _read(source: str | os.PathLike | bytes, name: str, keep_alpha: bool) -> ImageFile:
  """Reads an image; every error calls it `name`."""
  load = functools.partial(_to_image_file, keep_alpha=keep_alpha)
  image, notes = opening.use_image(source, name, load)
  return image._replace(notes=(*notes, *image.notes))


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
    kind: Pillow's name of the format. Formats whose viewers heed no EXIF orientation
      get their pixels turned instead.

  Returns:
    The file, and sentences on contents that the format could not hold.

  Raises:
    CodaxError: the format cannot hold the image.
  """
  options, notes = dict(_SAVE_OPTIONS.get(kind, {})), []
  turned = turn_pixels(image, kind)
  if turned.alpha is not None:
    check_alpha(kind)
  pixels = alphas.join(turned.pixels, turned.alpha)
  im = Image.fromarray(np.ascontiguousarray(_squeeze(pixels)))
  if turned.orientation != 1:
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = turned.orientation
    options['exif'] = exif
  elif image.orientation != 1:
    notes.append(
      f'the pixels were turned upright: many viewers of {kind} heed no orientation'
    )
  channels = image.pixels.shape[2]
  color_options, color_notes = output.save_options(image.color, kind, channels)
  options |= color_options
  notes += color_notes
  if kind not in _EXACT and not (kind == 'GIF' and im.mode == 'L'):
    notes.append(f'{kind} does not keep pixels exactly; PNG does')
  out = io.BytesIO()
  try:
    im.save(out, kind, **options)
  except (OSError, ValueError, KeyError) as e:
    raise CodaxError(f'cannot be written as {kind}: {e}') from e
  return output.finish(out.getvalue(), image.color, kind, channels), tuple(notes)


def check_alpha(kind: str) -> None:
  """Checks that a format, by Pillow's name of it, is written with alpha.

  Raises:
    CodaxError: it is not; names those that are.
  """
  if kind not in _TRANSPARENT:
    raise CodaxError(
      f'the image has transparent pixels, which {kind} files do not keep here: write'
      f' {", ".join(_TRANSPARENT[:-1])} or {_TRANSPARENT[-1]}'
    )


def turn_pixels(image: ImageFile, kind: str) -> ImageFile:
  """Turns an image upright if viewers of a format would not do it.

  Args:
    image: image to write.
    kind: Pillow's name of the format.

  Returns:
    The image itself for formats whose viewers heed the orientation; else one whose
    pixels are turned and whose orientation is 1.
  """
  if kind in _TURNED_BY_VIEWERS or image.orientation == 1:
    return image
  is_swapped, down, right = _TURNS[image.orientation]

  def turn(array: np.ndarray) -> np.ndarray:
    return (array.swapaxes(0, 1) if is_swapped else array)[::down, ::right]

  alpha = None if image.alpha is None else turn(image.alpha)
  return image._replace(pixels=turn(image.pixels), alpha=alpha, orientation=1)


def file_format(path: str | os.PathLike) -> str:
  """Returns Pillow's name of the format of this suffix; 'PNG' if there is no suffix.

  Raises:
    CodaxError: no format that Pillow writes has this suffix.
  """
  suffix = Path(path).suffix.lower()
  if not suffix:
    return 'PNG'
  formats.register_for(suffix=suffix)
  Image.init()
  kind = Image.registered_extensions().get(suffix)
  if (command := formats.explain_suffix(suffix)) is not None and kind is None:
    raise CodaxError(f'{path}: {suffix} files need a package of their own: {command}')
  # `codax.pillow_plugin` may have told Pillow of .cdx files, which are no outputs here
  if kind not in Image.SAVE or kind in _RESIZED or suffix == '.cdx':
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


def read_orientation(exif: Image.Exif) -> int:
  """Returns the orientation 1..8 of an EXIF block; 1 where it has no valid one."""
  orientation = exif.get(_ORIENTATION_TAG, 1)
  return int(orientation) if orientation in range(1, 9) else 1


def exif_bytes(orientation: int) -> bytes:
  """Returns an EXIF block that holds this orientation only."""
  exif = Image.Exif()
  exif[_ORIENTATION_TAG] = orientation
  return exif.tobytes()


def _squeeze(pixels: np.ndarray) -> np.ndarray:
  """Turns [H, W, 1] into [H, W], as Pillow wants grey."""
  return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _to_image_file(im: Any, f: BinaryIO, keep_alpha: bool = False) -> ImageFile:
  """Loads Pillow's image, and collects its metadata and notes."""
  notes, by_profile = _find_omissions(im), []
  described = tags.read_tags(im)

  def to_rgb(loaded):
    converted = cmyk.to_srgb(loaded)
    by_profile.append(converted is not None)
    return converted

  found = samples.read_samples(im, f, to_rgb, keep_alpha)
  # After loading: PNG may keep EXIF behind the pixels, and TIFF is turned upright.
  orientation = read_orientation(im.getexif())
  if any(by_profile):
    described = tags.Tags()
  color, more = tags.find_color(described, found.pixels.shape[2])
  notes = (*notes, *found.notes, *more)
  return ImageFile(found.pixels, color, orientation, notes, found.alpha)


def _check_header(im: Any, f: BinaryIO) -> None:
  """Raises `CodaxError` if `_to_image_file` would refuse an image not loaded yet."""
  samples.refuse_samples(im)
  depths.find_depth(im, f)
  if im.has_transparency_data:
    _to_image_file(im, f)


def _find_omissions(im: Any) -> list[str]:
  """Lists what of a file is left out: other frames, and the shape of its pixels."""
  notes = []
  frames = getattr(im, 'n_frames', 1)
  if im.format == 'PSD' and frames > 0:
    notes.append(f'the flattened image was read, not its {frames} layers')
  elif frames > 1 and im.format == 'MPO':
    notes.append(
      f'only the first of {frames} images was read (MPO: the others are previews, other'
      ' views or a gain map for bright screens)'
    )
  elif frames > 1 and im.format == 'HEIF':
    notes.append(f'only the main image of {frames} was read')
  elif frames > 1:
    notes.append(f'only the first of {frames} frames was read')
  sizes = getattr(im, 'info', {}).get('sizes', ())
  if im.format in _RESIZED and len(sizes) > 1:
    notes.append(f'only the largest of {len(sizes)} sizes was read')
  x, y = im.info.get('aspect') or im.info.get('dpi') or (1, 1)
  if x > 0 and y > 0 and abs(x / y - 1) > 0.02:
    notes.append(
      f'pixels that are not square ({float(x):.4g} to {float(y):.4g} an inch) were'
      ' taken as square'
    )
  return notes

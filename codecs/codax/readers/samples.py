"""Samples of any image that Pillow opens, as uint8 grey or RGB, with notes on losses.

Alpha comes beside the colors where the caller keeps it; else transparency is refused.

Pillow gives the upper bytes of 16-bit color alone. Here such files are read twice, with
the bytes of each sample swapped, so that rounding and the scaling of 12-bit samples are
exact. Rows are converted in strips: memory stays near that of the image.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from codax.alpha import SOLID
from codax.errors import CodaxError
from codax.readers import depths
from codax.readers.depths import Depth

# Modes that become RGB.
_OTHER_SPACES = ('CMYK', 'YCbCr', 'LAB', 'HSV')
_STRIP = 2**22  # pixels that are converted at once
_DARK = 2**14  # brightest 16-bit sample below which the user is told

# Orders of 16-bit samples that can be read with their bytes swapped.
_SWAPPED = {
  f'{mode};16{order}': f'{mode};16{other}'
  for mode in ('RGB', 'RGBA', 'RGBX')
  for order, other in (('B', 'L'), ('L', 'B'), ('N', 'BL'[sys.byteorder == 'big']))
}
_OPAQUE = 'an alpha channel without transparency was dropped'
_GREY_ALPHA = 'LA;16B'  # read as RGBA: upper and lower byte of grey, then of alpha


class _Deep(NamedTuple):
  """Samples of more than 8 bits.

  Attributes:
    size: (width, height).
    read_rows: function (top, bottom) -> int32 or int64 [h, W, C] of these rows.
    has_alpha: whether the last channel is alpha.
    key: value that is transparent, an int or a tuple of three; or None.
  """

  size: tuple[int, int]
  read_rows: Callable[[int, int], np.ndarray]
  has_alpha: bool = False
  key: int | tuple[int, ...] | None = None


ToRgb = Callable[[Image.Image], tuple[Image.Image, str] | None]


class Samples(NamedTuple):
  """An image as it was read.

  Attributes:
    pixels: uint8 [H, W, C], C in {1, 3}.
    alpha: uint8 [H, W], 0 transparent to 255 opaque; None for an opaque image.
    notes: sentences on losses.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None
  notes: list[str]


def read_samples(
  im: Any, f: BinaryIO, to_rgb: ToRgb = lambda im: None, keep_alpha: bool = False
) -> Samples:
  """Loads an image and converts it to uint8 [H, W, C], C in {1, 3}.

  Args:
    im: Pillow's image, not loaded yet.
    f: its file.
    to_rgb: function from the loaded image to one of RGB and a sentence on the change,
      or to None where Pillow's own conversion is good enough.
    keep_alpha: whether transparency is returned; else it is refused.

  Raises:
    CodaxError: samples that 8 bits cannot stand for, or transparent pixels.
  """
  refuse_samples(im)
  depth = depths.find_depth(im, f)
  raw = depths.raw_mode(im)
  im.load()
  notes = []
  if depth.num_extra:
    notes.append('channels beyond colour and alpha were left out')
  if im.mode in depths.DEEP_GREY:
    found = _reduce(_deep_grey(im, raw, depth.is_inverted), depth, keep_alpha)
  elif raw == _GREY_ALPHA:
    found = _reduce(_deep_grey_alpha(_load_as(f, 'RGBA')), depth, keep_alpha)
  elif raw in _SWAPPED and im.format in ('PNG', 'TIFF'):
    found = _reduce(_deep_color(im, _load_as(f, _SWAPPED[raw])), depth, keep_alpha)
  else:
    if (converted := to_rgb(im)) is not None:
      im, note = converted
      notes.append(note)
    found = _convert(im, raw, keep_alpha)
    if depth.bits > 8:
      kind = 'floating-point' if depth.is_float else f'{depth.bits}-bit'
      notes.append(f'{kind} samples were reduced to 8 bits')
  return found._replace(notes=notes + found.notes)


def refuse_samples(im: Any) -> None:
  """Raises `CodaxError` if an image, loaded or not, has floating-point samples."""
  if im.mode == 'F':
    raise CodaxError(
      'floating-point pixels are not supported: scale them to 0..255 and convert them'
      ' to 8 bits'
    )


def _load_as(f: BinaryIO, raw: str) -> Image.Image:
  """Loads a file again, its samples taken in another order."""
  f.seek(0)
  im = Image.open(f)

  def replace(args: Any) -> Any:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw

  im.tile = [tile._replace(args=replace(tile.args)) for tile in im.tile]
  im.load()
  return im


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
  """Yields (top, bottom) of the strips of an image."""
  width, height = size
  rows = max(1, _STRIP // width)
  for top in range(0, height, rows):
    yield top, min(height, top + rows)


def _rows(im: Image.Image, top: int, bottom: int) -> Image.Image:
  """Cuts rows out of an image."""
  return im.crop((0, top, im.width, bottom))


class _AlphaPlane:
  """Collects alpha from strips; refuses transparency that nobody keeps.

  Attributes:
    alpha: uint8 [H, W] once a strip was not opaque; None before.
  """

  def __init__(self, size: tuple[int, int], is_kept: bool):
    self.alpha: np.ndarray | None = None
    self._size, self._is_kept = size, is_kept

  def add(self, top: int, bottom: int, alpha: np.ndarray | None) -> None:
    """Adds rows, uint8 [h, W], or None for opaque ones."""
    if alpha is None or (alpha == SOLID).all():
      return
    if not self._is_kept:
      raise CodaxError(
        'has transparent pixels, which are not kept here; flatten it onto a background'
        ' first'
      )
    if self.alpha is None:
      width, height = self._size
      self.alpha = np.full((height, width), SOLID, np.uint8)
    self.alpha[top:bottom] = alpha


# --- More than 8 bits -----------------------------------------------------------------


def _deep_grey(im: Image.Image, raw: str, is_inverted: bool) -> _Deep:
  def read_rows(top, bottom):
    values = np.asarray(_rows(im, top, bottom))[..., None]
    if raw == 'I;32N':  # unsigned, which Pillow's mode is not
      values = values.astype(np.uint32)
    values = values.astype(np.int64)
    return 65535 - values if is_inverted else values

  return _Deep(im.size, read_rows, key=im.info.get('transparency'))


def _deep_grey_alpha(im: Image.Image) -> _Deep:
  def read_rows(top, bottom):
    data = np.asarray(_rows(im, top, bottom)).astype(np.int32)
    return data[..., ::2] << 8 | data[..., 1::2]

  return _Deep(im.size, read_rows, has_alpha=True)


def _deep_color(upper: Image.Image, lower: Image.Image) -> _Deep:
  def read_rows(top, bottom):
    high, low = (np.asarray(_rows(im, top, bottom)) for im in (upper, lower))
    return high.astype(np.int32) << 8 | low

  key = upper.info.get('transparency')
  return _Deep(upper.size, read_rows, upper.mode == 'RGBA', key)


def _reduce(deep: _Deep, depth: Depth, keep_alpha: bool) -> Samples:
  """Rounds deep samples to uint8; notes say what they were taken for."""
  low, top, is_coarse = 2**31, 0, True
  unit = 1 << (16 - (depth.significant or 16))
  plane = _AlphaPlane(deep.size, keep_alpha)
  for rows in _strips(deep.size):
    values = deep.read_rows(*rows)
    plane.add(*rows, _deep_alpha(values, deep))
    colors = values[..., :-1] if deep.has_alpha else values
    low, top = min(low, int(colors.min())), max(top, int(colors.max()))
    is_coarse = is_coarse and not (colors % unit).any()
  white, notes = _find_white(depth, low, top, is_coarse)
  width, height = deep.size
  channels = values.shape[2] - deep.has_alpha
  pixels = np.empty((height, width, channels), np.uint8)
  for a, b in _strips(deep.size):
    colors = deep.read_rows(a, b)[..., :channels]
    pixels[a:b] = np.minimum((colors * 255 + white // 2) // white, 255)
  if deep.has_alpha and plane.alpha is None:
    notes.append(_OPAQUE)
  return Samples(pixels, plane.alpha, notes)


def _find_white(
  depth: Depth, low: int, top: int, is_coarse: bool
) -> tuple[int, list[str]]:
  """Finds the value that is white.

  Args:
    depth: facts about the file.
    low: least sample.
    top: greatest sample.
    is_coarse: whether samples have no bits below the significant ones.

  Returns:
    The value, and sentences for the user.
  """
  if low < 0:
    raise CodaxError(
      'negative samples are not supported: convert them to 0..255 or 0..65535'
    )
  if depth.bits == 32:
    if top > 65535:
      raise CodaxError('32-bit pixels are not supported: convert them to 8 or 16 bits')
    white, bits = (255, 8) if top <= 255 else (65535, 16)
    text = f'32-bit samples, the greatest {top:,}, were taken as {bits}-bit ones'
    return white, [text + ' and reduced to 8 bits' * (bits == 16)]
  bits = depth.significant
  if bits is not None and top < 2**bits and not is_coarse:
    # Samples were stored as they are, and not shifted up as the format wants them.
    return 2**bits - 1, [f'{bits}-bit samples (sBIT) were reduced to 8 bits']
  notes = [f'{depth.bits}-bit samples were reduced to 8 bits']
  if depth.bits == 16 and 0 < top < _DARK:
    notes.append(
      f'the brightest 16-bit sample is {top:,} of 65,535, and the image is as dark: if'
      ' its samples have fewer bits, scale them up first'
    )
  return depth.white, notes


def _deep_alpha(values: np.ndarray, deep: _Deep) -> np.ndarray | None:
  """Returns the alpha of deep samples, uint8 [h, w]; None where they have none."""
  if deep.has_alpha:
    return ((values[..., -1] + 128) // 257).astype(np.uint8)
  if deep.key is None:
    return None
  is_key = (values == np.array(deep.key)).all(-1)
  return np.where(is_key, 0, SOLID).astype(np.uint8)


# --- 8 bits ---------------------------------------------------------------------------


def _convert(im: Image.Image, raw: str, keep_alpha: bool) -> Samples:
  """Converts samples of 8 bits or fewer; notes say what was lost."""
  notes = []
  grey = im.mode in ('1', 'L', 'LA', 'La')
  if im.mode in ('P', 'PA'):
    notes.append('palette colours were turned into RGB')
  elif im.mode in _OTHER_SPACES:
    notes.append(f'{im.mode} colours were turned into RGB')
  has_alpha = im.has_transparency_data
  key = _find_grey_key(im, raw)
  width, height = im.size
  pixels = np.empty((height, width, 1 if grey else 3), np.uint8)
  plane = _AlphaPlane(im.size, keep_alpha)
  for top, bottom in _strips(im.size):
    rows = _rows(im, top, bottom)
    if has_alpha and key is None:
      rows = rows.convert('LA' if grey else 'RGBA')
      plane.add(top, bottom, np.asarray(rows.getchannel('A')))
    data = np.asarray(rows.convert('L' if grey else 'RGB'))
    if key is not None:
      plane.add(top, bottom, np.where(data == key, 0, SOLID).astype(np.uint8))
    pixels[top:bottom] = data[..., None] if grey else data
  if has_alpha and plane.alpha is None:
    notes.append(_OPAQUE)
  return Samples(pixels, plane.alpha, notes)


def _find_grey_key(im: Image.Image, raw: str) -> int | None:
  """Returns the level of 0..255 that is transparent in a grey image, if one is.

  Pillow scales samples of 2 and 4 bits to 8, but not the level; nor that of 1 bit in
  versions before 12.
  """
  key = im.info.get('transparency')
  if im.mode not in ('1', 'L') or not isinstance(key, int):
    return None
  if im.mode == '1':
    return 255 if key else 0
  return key * {'L;2': 85, 'L;4': 17}.get(raw, 1)

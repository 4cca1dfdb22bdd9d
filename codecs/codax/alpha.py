"""Alpha of a `.cdx` file: lossless, in a section of its own (docs/format/alpha.md).

The plane is predicted from the samples to the left and above, by one filter for the
whole image, and compressed by DEFLATE. The section is in files of any family: families
code the colors and never see it.
"""

import zlib

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError, Section

SOLID = 255  # of an opaque pixel
# Bits of the filter's number: what each sample is predicted by.
_LEFT, _ABOVE = 1, 2
_NUM_FILTERS = 4
_RAW = -15  # DEFLATE without a header, a window of 32 KiB
_MAX_RATIO = 1032  # bytes that a byte of DEFLATE can stand for


def split(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """Separates the colors of an image from its alpha.

  Args:
    image: uint8 [H, W, C]; with C in {2, 4} the last channel is alpha.

  Returns:
    Colors uint8 [H, W, 1 or 3], and alpha uint8 [H, W], or None without alpha and for
    opaque images. Colors of invisible pixels are replaced, see `fill_invisible`.
  """
  colors, plane = separate(image)
  if plane is None or (plane == SOLID).all():
    return colors, None
  return fill_invisible(colors, plane), plane


def separate(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """Separates colors and alpha as `split` does, but leaves both as they are."""
  if image.shape[2] not in (2, 4):
    return image, None
  return np.ascontiguousarray(image[..., :-1]), np.ascontiguousarray(image[..., -1])


def join(colors: np.ndarray, plane: np.ndarray | None) -> np.ndarray:
  """Appends alpha, uint8 [H, W] or None, to colors as their last channel."""
  return colors if plane is None else np.dstack([colors, plane])


def fill_invisible(colors: np.ndarray, plane: np.ndarray) -> np.ndarray:
  """Replaces the colors of invisible pixels by smooth ones, which take few bits.

  Means over visible pixels are taken in blocks of twice the side again and again, and
  filled in from coarse to fine (pull-push: Gortler et al. 1996, "The Lumigraph").

  Args:
    colors: uint8 [H, W, C].
    plane: uint8 [H, W], alpha; pixels where it is 0 are invisible.

  Returns:
    uint8 [H, W, C]; visible pixels are unchanged, and so is an image without any.
  """
  is_visible = plane > 0
  if is_visible.all() or not is_visible.any():
    return np.ascontiguousarray(colors)
  height, width = plane.shape
  visible = np.where(is_visible[..., None], colors, np.uint8(0))
  means = _fill(_halve(visible), _halve(is_visible[..., None]))
  spread = np.rint(means).astype(np.uint8).repeat(2, 0)[:height].repeat(2, 1)
  return np.where(is_visible[..., None], colors, spread[:, :width])


def _halve(x: np.ndarray) -> np.ndarray:
  """Adds blocks of 2 x 2 of [H, W, C]; float32 [ceil(H / 2), ceil(W / 2), C]."""
  height, width = x.shape[:2]
  total = np.zeros((-(-height // 2), -(-width // 2), x.shape[2]), np.float32)
  for part in (x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]):
    total[: part.shape[0], : part.shape[1]] += part
  return total


def _fill(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """Divides sums [H, W, C] by weights [H, W, 1]; coarser means where a weight is 0."""
  if weight.all():
    return total / weight
  height, width = weight.shape[:2]
  coarse = _fill(_halve(total), _halve(weight))
  spread = coarse.repeat(2, 0)[:height].repeat(2, 1)[:, :width]
  return np.where(weight > 0, total / np.maximum(weight, 1), spread)


def pack(plane: np.ndarray) -> Section:
  """Packs alpha, uint8 [H, W], by the filter that compresses best at a first try."""
  tries = [len(_compress(_predict(plane, n), 1)) for n in range(_NUM_FILTERS)]
  number = int(np.argmin(tries))
  data = _compress(_predict(plane, number), 9)
  return Section(bitstream.ALPHA, bytes([number]) + data)


def _compress(residual: np.ndarray, level: int) -> bytes:
  packer = zlib.compressobj(level, zlib.DEFLATED, _RAW)
  return packer.compress(np.ascontiguousarray(residual)) + packer.flush()


def _predict(plane: np.ndarray, number: int) -> np.ndarray:
  """Subtracts its prediction from each sample, modulo 256."""
  if number & _LEFT:
    plane = np.diff(plane, axis=1, prepend=np.uint8(0))
  if number & _ABOVE:
    plane = np.diff(plane, axis=0, prepend=np.uint8(0))
  return plane


def _restore(residual: np.ndarray, number: int) -> np.ndarray:
  """Inverts `_predict`."""
  if number & _ABOVE:
    residual = np.cumsum(residual, 0, dtype=np.uint8)
  if number & _LEFT:
    residual = np.cumsum(residual, 1, dtype=np.uint8)
  return residual


def unpack(payload: bytes, height: int, width: int) -> np.ndarray:
  """Unpacks the payload of an alpha section.

  Args:
    payload: bytes of the section.
    height, width: size of the image, in pixels.

  Returns:
    uint8 [height, width].

  Raises:
    BitstreamError: anything but a filter's number and height * width bytes of
      DEFLATE, or a plane that is opaque everywhere.
  """
  name, size = bitstream.section_name(bitstream.ALPHA), height * width
  if not payload or payload[0] >= _NUM_FILTERS:
    raise BitstreamError(f'{name} has no filter of a number below {_NUM_FILTERS}')
  wrong = BitstreamError(f'{name} does not hold {width} x {height} bytes')
  if size > _MAX_RATIO * len(payload):
    raise wrong  # before anything is expanded
  unpacker = zlib.decompressobj(_RAW)
  try:
    data = unpacker.decompress(payload[1:], size + 1)  # never more memory than that
  except zlib.error as e:
    raise BitstreamError(f'{name} is damaged: no DEFLATE stream') from e
  if len(data) != size or not unpacker.eof or unpacker.unused_data:
    raise wrong
  plane = _restore(np.frombuffer(data, np.uint8).reshape(height, width), payload[0])
  if (plane == SOLID).all():
    raise BitstreamError(f'{name} is opaque everywhere, so it should not be there')
  return plane


def add(data: bytes, plane: np.ndarray) -> bytes:
  """Returns a finished `.cdx` file with alpha, uint8 [H, W]."""
  header, sections = bitstream.read(data, known=None)
  return bitstream.write(header, (*sections, pack(plane)))


def count_bytes(data: bytes) -> int:
  """Counts the bytes of alpha in a file; 0 without any, or of another format."""
  if not bitstream.is_cdx(data):
    return 0
  _, sections = bitstream.read(data, known=None)
  return len(bitstream.find(sections, bitstream.ALPHA) or b'')


def read(data: bytes) -> np.ndarray | None:
  """Returns the alpha of a sound `.cdx` file, uint8 [H, W]; None without one.

  Raises:
    BitstreamError: its section is not valid, see `unpack`.
  """
  header, sections = bitstream.read(data, known=None)
  payload = bitstream.find(sections, bitstream.ALPHA)
  if payload is None:
    return None
  return unpack(payload, header.height, header.width)

"""Facts about a file's samples that Pillow does not tell: bits, white, channels."""

import struct
from typing import Any, BinaryIO, NamedTuple

from codax.errors import CodaxError
from codax.readers import repairs

_HEAD = 2**16  # bytes in which headers are looked for
# Tags of TIFF.
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 258, 259, 262
_PLANAR, _SUB_IFDS, _SAMPLE_FORMAT, _DNG_VERSION = 284, 330, 339, 50706
DEEP_GREY = ('I;16', 'I;16B', 'I;16L', 'I;16N', 'I')


class Depth(NamedTuple):
  """Samples of a file as they are stored.

  Attributes:
    bits: bits of a sample; 8 where no more are known of.
    white: value of white among the values that Pillow gives, before it reduces them.
    significant: bits that are said to matter (sBIT of PNG), None if nothing is said.
    is_inverted: whether 0 is white and Pillow does not turn that round.
    is_float: whether samples are floating-point numbers, reduced to 8 bits.
    num_extra: channels beyond color and alpha, which Pillow leaves out.
  """

  bits: int = 8
  white: int = 255
  significant: int | None = None
  is_inverted: bool = False
  is_float: bool = False
  num_extra: int = 0


def find_depth(im: Any, f: BinaryIO) -> Depth:
  """Finds facts about the samples of an image that is not loaded yet.

  Args:
    im: Pillow's image.
    f: its file; the position is kept.

  Raises:
    CodaxError: samples that Pillow reads wrongly, or a file with a preview in place of
      the image.
  """
  find = {
    'PNG': _of_png,
    'TIFF': _of_tiff,
    'JPEG2000': _of_jpeg2000,
    'AVIF': _of_avif,
    'JXL': _of_jxl,
    'PPM': _of_ppm,
  }.get(im.format, _of_others)
  place = f.tell()
  try:
    return find(im, f)
  finally:
    f.seek(place)


def raw_mode(im: Any) -> str:
  """Returns Pillow's name for the order of samples in the file, '' if it has none."""
  if not getattr(im, 'tile', None):
    return ''
  args = im.tile[0][3]
  mode = args[0] if isinstance(args, tuple) and args else args
  return mode if isinstance(mode, str) else ''


def _of_others(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth where Pillow itself knows it: by the modes of image and file."""
  bits = im.info.get('bit_depth')  # HEIF
  if isinstance(bits, int) and bits > 8:
    return Depth(bits)
  decoder = im.tile[0][0] if getattr(im, 'tile', None) else ''
  if im.mode in DEEP_GREY or ';16' in raw_mode(im) or decoder == 'SGI16':
    return Depth(16, 65535)
  return Depth()


def _of_png(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of PNG, and the significant bits."""
  f.seek(0)
  head = f.read(_HEAD)
  bits = head[24]
  if bits != 16:
    return Depth(8, 255)
  for kind, start, end in repairs.png_chunks(head):
    if kind == b'sBIT':
      colors = head[start + 8 : end - 4][: 1 if head[25] in (0, 4) else 3]
      if colors and max(colors) < 16:
        return Depth(16, 65535, significant=max(colors))
  return Depth(16, 65535)


def _of_tiff(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of TIFF, and refuses kinds that Pillow misreads."""
  tags = im.tag_v2
  is_preview = tags.get(_SUBFILE, 0) & 1 and (_SUB_IFDS in tags or im.n_frames > 1)
  if is_preview or _DNG_VERSION in tags:
    raise CodaxError(
      'begins with a preview, as the raw files of cameras do: develop it to TIFF or'
      ' JPEG, or save the full image alone'
    )
  sizes = tags.get(_BITS, (1,))
  bits, raw = max(sizes), raw_mode(im)
  kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
  if bits == 8 and 2 in kinds:
    raise CodaxError('has signed 8-bit samples: convert them to 0..255')
  is_planar = tags.get(_PLANAR, 1) == 2
  if is_planar and len(sizes) > 1 and bits > 8 and tags.get(_COMPRESSION, 1) == 1:
    raise CodaxError(
      f'has {bits}-bit channels in separate planes, which Pillow misreads: save it with'
      ' interleaved channels, or as PNG'
    )
  num_extra = raw.count('X')
  if bits == 12:
    return Depth(12, 4095)
  if bits == 32:
    return Depth(32, 2**32 - 1)
  is_white_zero = tags.get(_PHOTOMETRIC, 0) == 0
  if bits == 16:
    inverted = is_white_zero and im.mode in DEEP_GREY
    return Depth(16, 65535, is_inverted=inverted, num_extra=num_extra)
  return Depth(8, 255, num_extra=num_extra)


def _of_jpeg2000(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of JPEG 2000 in its codestream."""
  f.seek(0)
  head = f.read(16 * _HEAD)
  at = head.find(b'\xff\x4f\xff\x51')
  if at < 0 or len(head) < at + 42:
    return _of_others(im, f)
  count = struct.unpack('>H', head[at + 40 : at + 42])[0]
  depths = [(x & 127) + 1 for x in head[at + 42 : at + 42 + 3 * count : 3]]
  bits = max(depths, default=8)
  if bits <= 8:
    return Depth()
  if im.mode not in DEEP_GREY:
    raise CodaxError(
      f'is JPEG 2000 with {bits}-bit color, in which Pillow turns white to black:'
      ' convert it to PNG or TIFF with another program'
    )
  # Pillow shifts samples of fewer bits up to 16.
  return Depth(bits, (2**bits - 1) << (16 - bits) if bits < 16 else 65535)


def _of_avif(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of AVIF in the configurations of its AV1 streams."""
  f.seek(0)
  head = f.read(_HEAD)
  bits, at = 8, head.find(b'av1C')
  while 0 <= at < len(head) - 6:
    flags = head[at + 6]
    bits = max(bits, 8 if not flags & 64 else 12 if flags & 32 else 10)
    at = head.find(b'av1C', at + 4)
  return Depth(bits)


def _of_ppm(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of PPM, which Pillow scales by the largest value."""
  args = im.tile[0][3] if im.tile else ()
  largest = args[1] if isinstance(args, tuple) and len(args) > 1 else 0
  if im.mode in DEEP_GREY:
    return Depth(largest.bit_length() or 16, 65535)
  return Depth(max(8, largest.bit_length()))


# --- JPEG XL --------------------------------------------------------------------------


class _Bits:
  """A reader of bits, lowest first."""

  def __init__(self, data: bytes):
    self.value, self.at = int.from_bytes(data, 'little'), 0

  def get(self, count: int) -> int:
    self.at += count
    return self.value >> (self.at - count) & ((1 << count) - 1)

  def choose(self, *choices: tuple[int, int]) -> int:
    """Reads two bits that choose (base, number of further bits), and their sum."""
    base, count = choices[self.get(2)]
    return base + self.get(count)


def _of_jxl(im: Any, f: BinaryIO) -> Depth:
  """Finds the depth of JPEG XL in the image metadata; 8 if they are of a rare kind."""
  if im.mode in DEEP_GREY:
    return Depth(16, 65535)
  f.seek(0)
  head = f.read(_HEAD)
  if not head.startswith(b'\xff\x0a'):
    at = min(
      (i for i in (head.find(b'jxlc'), head.find(b'jxlp')) if i >= 0), default=-1
    )
    head = head[head.find(b'\xff\x0a', at + 4) :] if at >= 0 else b''
  bits = _Bits(head[2:66])
  _skip_jxl_size(bits)
  if not head or bits.get(1):  # all metadata are the default ones
    return Depth()
  if bits.get(1):  # further fields
    bits.get(3)
    if bits.get(1):
      _skip_jxl_size(bits)
    if bits.get(2):  # a preview or an animation
      return Depth()
  is_float = bool(bits.get(1))
  if is_float:
    return Depth(bits.choose((32, 0), (16, 0), (24, 0), (1, 6)), is_float=True)
  return Depth(bits.choose((8, 0), (10, 0), (12, 0), (1, 6)))


def _skip_jxl_size(bits: _Bits) -> None:
  """Skips the size of an image of JPEG XL."""
  lengths = ((1, 9), (1, 13), (1, 18), (1, 30))
  is_small = bits.get(1)
  for _ in range(2):
    if is_small:
      bits.get(5)
    else:
      bits.choose(*lengths)
    if _ == 0 and bits.get(3):  # a ratio in place of the width
      return

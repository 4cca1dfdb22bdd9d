"""Image files written byte by byte: kinds that Pillow cannot write or gets wrong."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG_COLORS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to the type of color of PNG


def chunk(kind, data):
  """Makes a chunk of a PNG file."""
  body = kind + data
  return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))


def png(samples, bits=16, extra=(), is_interlaced=False, palette=None):
  """Makes a PNG file.

  Args:
    samples: integers [H, W, C], C in 1..4 (grey, grey and alpha, RGB, RGBA).
    bits: bits of a sample, 1, 2, 4, 8 or 16; under 8 for one channel only.
    extra: (kind, data) of chunks between header and pixels.
    is_interlaced: whether rows come in the seven passes of Adam7.
    palette: colors [N, 3] that the samples, of one channel, are indices of.
  """
  samples = np.asarray(samples)
  h, w, c = samples.shape
  passes = [samples]
  if is_interlaced:
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
    starts += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [samples[y::down, x::right] for y, x, down, right in starts]

  def pack(row):
    if bits >= 8:
      return row.astype({8: '>u1', 16: '>u2'}[bits]).tobytes()
    digits = row[:, 0, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(digits.reshape(-1).astype(np.uint8)).tobytes()

  rows = b''.join(b'\0' + pack(row) for one in passes for row in one if row.size)
  color = PNG_COLORS[c] if palette is None else 3
  head = struct.pack('>IIBBBBB', w, h, bits, color, 0, 0, is_interlaced)
  colors = () if palette is None else ((b'PLTE', np.uint8(palette).tobytes()),)
  data = (b'IDAT', zlib.compress(rows))
  chunks = [(b'IHDR', head), *colors, *extra, data, (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*one) for one in chunks)


def pnm(samples, white):
  """Makes a binary PGM or PPM file whose white is `white`, up to 65,535."""
  h, w, c = samples.shape
  kind = {1: 'P5', 3: 'P6'}[c]
  data = samples.astype('>u2' if white > 255 else 'u1').tobytes()
  return f'{kind}\n{w} {h}\n{white}\n'.encode() + data


def sgi(samples):
  """Makes a 16-bit SGI file of three channels."""
  h, w, c = samples.shape
  head = struct.pack('>hBBHHHHii', 474, 0, 2, 3, w, h, c, 0, 65535).ljust(512, b'\0')
  rows = samples[::-1].astype('>u2')
  return head + b''.join(rows[..., i].tobytes() for i in range(c))


def tiff(
  samples, *, order='<', photometric=None, extra=(), tags=None, is_planar=False,
  bits=None,
):  # fmt: skip
  """Makes an uncompressed TIFF file.

  Args:
    samples: array [H, W, C]; its dtype is that of the file.
    order: '<' or '>', the byte order.
    photometric: PhotometricInterpretation; grey or RGB if None.
    extra: ExtraSamples of the channels behind the colors.
    tags: further tags, number to (type, values).
    is_planar: whether each channel is stored apart.
    bits: BitsPerSample if it is not that of the dtype: 12 are packed.
  """
  samples = np.asarray(samples)
  h, w, c = samples.shape
  kind = {'u': 1, 'i': 2, 'f': 3}[samples.dtype.kind]
  size = samples.dtype.itemsize
  data = samples.astype(samples.dtype.newbyteorder(order))
  planes = [data[..., i] for i in range(c)] if is_planar else [data]
  if bits == 12:
    pairs = samples.reshape(h, -1, 2).astype(int)
    a, b = pairs[..., 0], pairs[..., 1]
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1)
    planes = [packed.astype(np.uint8)]
  pixels = b''.join(plane.tobytes() for plane in planes)
  counts = [plane.nbytes for plane in planes]
  offsets = [8 + sum(counts[:i]) for i in range(len(counts))]
  if photometric is None:
    photometric = 1 if c - len(extra) == 1 else 2
  short, long = 3, 4
  entries = {
    256: (long, [w]),
    257: (long, [h]),
    258: (short, [bits or 8 * size] * c),
    259: (short, [1]),
    262: (short, [photometric]),
    273: (long, offsets),
    277: (short, [c]),
    278: (long, [h]),
    279: (long, counts),
    284: (short, [2 if is_planar else 1]),
    339: (short, [kind] * c),
  } | (tags or {})
  if extra:
    entries[338] = (short, list(extra))
  codes = {1: 'B', 3: 'H', 4: 'I'}
  start = 8 + len(pixels)
  end = start + 2 + 12 * len(entries) + 4
  table, behind = struct.pack(order + 'H', len(entries)), b''
  for number, (code, values) in sorted(entries.items()):
    packed = struct.pack(f'{order}{len(values)}{codes[code]}', *values)
    if len(packed) > 4:
      place = struct.pack(order + 'I', end + len(behind))
      behind += packed + b'\0' * (len(packed) % 2)
    else:
      place = packed.ljust(4, b'\0')
    table += struct.pack(order + 'HHI', number, code, len(values)) + place
  head = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(order + 'I', start)
  return head + pixels + table + struct.pack(order + 'I', 0) + behind


def saved(im, kind, **options):
  """The bytes of an image in a format of Pillow's."""
  out = io.BytesIO()
  (im if isinstance(im, Image.Image) else Image.fromarray(im)).save(
    out, kind, **options
  )
  return out.getvalue()

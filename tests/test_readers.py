"""Kinds of images: stored right, changed with a true note, or refused with advice.

Expected pixels are computed from the samples in NumPy. The files are written byte by
byte (`image_makers`), by Pillow where it is right, or by other encoders (below).
"""

import base64
import functools
import io
import struct
import types

import numpy as np
import PIL
import pytest
from fake_family import smooth_image
from image_makers import png, pnm, saved, sgi, tiff
from PIL import Image

from codax import image_io
from codax.errors import CodaxError
from codax.readers import depths, formats

DEEP = '16-bit samples were reduced to 8 bits'
ALPHA = 'an alpha channel without transparency was dropped'
PALETTE = 'palette colours were turned into RGB'
DARK = (
  'the brightest 16-bit sample is {:,} of 65,535, and the image is as dark: if its'
  ' samples have fewer bits, scale them up first'
)
EXTRA = 'channels beyond colour and alpha were left out'

# 4 x 4 pixels, red = 341 x, green = 341 y of 1023, by other encoders than Pillow's.
AVIF_10 = base64.b64decode(
  b'AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAA'
  b'cGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAA'
  b'OgAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAA'
  b'FGlzcGUAAAAAAAAABAAAAAQAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIA'
  b'AgAAgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAQm1kYXQSAAoIOAR9jAgIAkAyLBAAAIvW+KBfDy+e'
  b'1Wt+Gc33nODob//9VqSLgfi4JGK0GaGUJDXMqHuIRJkH'
)
J2K_16 = base64.b64decode(
  b'/0//UQAvAAAAAAAEAAAABAAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEB'
  b'AAQEAAH/XAAEQID/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABn'
  b'AAH/k9/4kOgSD4gA3JZw8qaw1YRnPemyGy1sC8i+EdrKJf1xH9/4kMABNa75LUdqfzJ0B0cdz+Xv0p33'
  b'ALgK/3/f+JDABkGUjLQHQZ2pyEALXd7XIGcWOKkz24S//9k='
)
J2K_12 = base64.b64decode(
  b'/0//UQApAAAAAAAEAAAABAAAAAAAAAAAAAAABAAAAAQAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/'
  b'XAAEQGD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAApAAH/k9/g'
  b'YBFqSmCoBbBrpDM8o5WInCzHWAnFYbsWQ//Z'
)
JXL_16 = base64.b64decode(
  b'AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAJanhsbAoAAACTanhsY/8KGBD8ABQtAggE'
  b'AQDwAUsYixVCCmhbGDXGA6jnBeIBAFDFn6qwcvyp6trWv/8SuvKnqgVb//5L6MqfqhZs/KkgKTLmsZxh'
  b'NO2rTD6gsA2ET9RjPr6VuUrVZPBA5yMk20g+AlDFwY0MKF7KjyQOMy7TzxL2Ub2PsYfqP9LD87zOD473'
  b'OD+sY63jmDU='
)
JXL_8 = base64.b64decode(
  b'/woYEBAJCAQBABwBSxiLFVJcEsrpoMPj7GQ7aQzUi0NCLhAMQCjaHIV6o8VRqDfKrTJDneiRFepEQ093'
  b'za9nFqNjY3b17LO/FgUQ7acNSWWS1B4='
)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def read(data, name='x'):
  return image_io.read_bytes(data, name)


def rand(channels, high, low=0, dtype=np.uint16, size=(9, 10)):
  """Random samples of which one is the greatest there can be, `high` - 1."""
  rng = np.random.default_rng(channels + high % 1000)
  values = rng.integers(low, high, (*size, channels)).astype(dtype)
  values[0, 0] = high - 1
  return values


def reduced(values, white):
  return np.rint(np.asarray(values, np.float64) * 255 / white).astype(np.uint8)


def opaque(values):
  """Makes the last channel the greatest value of its type."""
  values = values.copy()
  values[..., -1] = np.iinfo(values.dtype).max
  return values


V1, V2, V3, V4 = (rand(c, 65536) for c in (1, 2, 3, 4))
B1, B2, B3, B4 = (rand(c, 256, dtype=np.uint8) for c in (1, 2, 3, 4))
S3, S1 = rand(3, 4096), rand(1, 4096)
SBIT = functools.partial(lambda n, c: [(b'sBIT', bytes([n]) * c)])
INDEX = rand(1, 16, dtype=np.uint8)
COLORS = np.random.default_rng(5).integers(0, 256, (16, 3)).astype(np.uint8)
GRID = np.mgrid[:4, :4].astype(float)

# name: (file, pixels, notes)
STORED = {
  'png, 16-bit grey': (png(V1), reduced(V1, 65535), [DEEP]),
  'png, 16-bit RGB': (png(V3), reduced(V3, 65535), [DEEP]),
  'png, 16-bit RGB in passes': (
    png(V3, is_interlaced=True), reduced(V3, 65535), [DEEP]
  ),
  'png, 16-bit grey and alpha': (
    png(opaque(V2)), reduced(V2[..., :1], 65535), [DEEP, ALPHA]
  ),
  'png, 16-bit RGBA': (png(opaque(V4)), reduced(V4[..., :3], 65535), [DEEP, ALPHA]),
  'png, 16-bit grey, a key no pixel has': (
    png(V1 | 1, extra=[(b'tRNS', b'\0\2')]), reduced(V1 | 1, 65535), [DEEP]
  ),
  'png, 16-bit RGB, a key no pixel has': (
    png(V3 | 1, extra=[(b'tRNS', bytes(6))]), reduced(V3 | 1, 65535), [DEEP]
  ),
  'png, 12 bits in 16, sBIT': (
    png(S3, extra=SBIT(12, 3)), reduced(S3, 4095),
    ['12-bit samples (sBIT) were reduced to 8 bits'],
  ),
  'png, 12 bits in 16, grey, sBIT': (
    png(S1, extra=SBIT(12, 1)), reduced(S1, 4095),
    ['12-bit samples (sBIT) were reduced to 8 bits'],
  ),
  'png, 12 bits shifted up as the format says, sBIT': (
    png(S3 << 4 | S3 >> 8, extra=SBIT(12, 3)), reduced(S3, 4095), [DEEP]
  ),
  'png, 12 bits shifted up, a dark image, sBIT': (
    png((S1 >> 4) << 4, extra=SBIT(12, 1)), reduced((S1 >> 4) << 4, 65535),
    [DEEP, DARK.format(4080)],
  ),
  'png, 12 bits in 16': (png(S3), reduced(S3, 65535), [DEEP, DARK.format(4095)]),
  'png, 8-bit RGBA': (png(opaque(B4), 8), B4[..., :3], [ALPHA]),
  'png, 8-bit grey and alpha': (png(opaque(B2), 8), B2[..., :1], [ALPHA]),
  'png, 1 bit': (png(INDEX >> 3, 1), (INDEX >> 3) * 255, []),
  'png, 2 bits': (png(INDEX >> 2, 2), (INDEX >> 2) * 85, []),
  'png, 4 bits': (png(INDEX, 4), INDEX * 17, []),
  'png, 4 bits, a key no pixel has': (
    png(np.maximum(INDEX, 1), 4, [(b'tRNS', bytes(2))]),
    np.maximum(INDEX, 1) * 17, [ALPHA],
  ),
  'png, palette': (png(INDEX, 4, palette=COLORS), COLORS[INDEX[..., 0]], [PALETTE]),
  'png, palette with opaque entries': (
    png(INDEX, 8, [(b'tRNS', b'\xff' * 16)], palette=COLORS),
    COLORS[INDEX[..., 0]], [PALETTE, ALPHA],
  ),
  'png, 8-bit RGB, pixels not square': (
    png(B3, 8, [(b'pHYs', struct.pack('>IIB', 8000, 4000, 1))]), B3,
    ['pixels that are not square (203.2 to 101.6 an inch) were taken as square'],
  ),
  'tiff, 16-bit grey': (tiff(V1), reduced(V1, 65535), [DEEP]),
  'tiff, 16-bit grey, big-endian': (tiff(V1, order='>'), reduced(V1, 65535), [DEEP]),
  'tiff, 16-bit grey, 0 is white': (
    tiff(V1, photometric=0), reduced(65535 - V1, 65535), [DEEP]
  ),
  'tiff, 16-bit grey, 0 is white, packed': (
    saved(Image.fromarray(V1[..., 0]), 'TIFF', compression='tiff_lzw',
          tiffinfo={262: 0}),
    reduced(65535 - V1, 65535), [DEEP],
  ),
  'tiff, 16-bit RGB': (tiff(V3), reduced(V3, 65535), [DEEP]),
  'tiff, 16-bit RGB, big-endian': (tiff(V3, order='>'), reduced(V3, 65535), [DEEP]),
  'tiff, 16-bit RGBA': (
    tiff(opaque(V4), extra=[2]), reduced(V4[..., :3], 65535), [DEEP, ALPHA]
  ),
  'tiff, 16-bit RGB and another channel': (
    tiff(V4, extra=[0]), reduced(V4[..., :3], 65535), [EXTRA, DEEP]
  ),
  'tiff, 12-bit grey': (
    tiff(S1, bits=12), reduced(S1, 4095), ['12-bit samples were reduced to 8 bits']
  ),
  'tiff, signed 16-bit': (
    tiff(V1.astype(np.int16) & 0x7FFF), reduced(V1 & 0x7FFF, 65535), [DEEP]
  ),
  'tiff, signed 32-bit of 0..255': (
    tiff(B1.astype(np.int32)), B1,
    ['32-bit samples, the greatest 255, were taken as 8-bit ones'],
  ),
  'tiff, signed 32-bit of 0..255, big-endian': (
    tiff(B1.astype(np.int32), order='>'), B1,
    ['32-bit samples, the greatest 255, were taken as 8-bit ones'],
  ),
  'tiff, unsigned 32-bit of 0..255': (
    tiff(B1.astype(np.uint32)), B1,
    ['32-bit samples, the greatest 255, were taken as 8-bit ones'],
  ),
  'tiff, signed 32-bit of 0..65535': (
    tiff(V1.astype(np.int32)), reduced(V1, 65535),
    ['32-bit samples, the greatest 65,535, were taken as 16-bit ones and reduced to'
     ' 8 bits'],
  ),
  'tiff, 8-bit RGB in planes': (tiff(B3, is_planar=True), B3, []),
  'tiff, 8-bit grey, 0 is white': (tiff(B1, photometric=0), 255 - B1, []),
  'tiff, 8-bit RGB and another channel': (
    tiff(B4, extra=[0]), B4[..., :3], [EXTRA]
  ),
  'tiff, 8-bit grey and another channel': (
    tiff(B2, extra=[0]), B2[..., :1], [EXTRA]
  ),
  'tiff, opaque alpha in the colours': (
    tiff(opaque(B4), extra=[1]), B4[..., :3], [ALPHA]
  ),
  'pgm, 16-bit': (pnm(V1, 65535), reduced(V1, 65535), [DEEP]),
  'pgm, 12-bit': (
    pnm(S1, 4095), reduced(S1, 4095), ['12-bit samples were reduced to 8 bits']
  ),
  'pgm, white is 15': (pnm(INDEX, 15), INDEX * 17, []),
  'ppm, 16-bit': (pnm(V3, 65535), reduced(V3, 65535), [DEEP]),
  'ppm, 12-bit': (
    pnm(S3, 4095), reduced(S3, 4095), ['12-bit samples were reduced to 8 bits']
  ),
  'jpeg 2000, 12-bit grey': (
    J2K_12, reduced(GRID[1] * 341 * 4, 4095)[..., None],
    ['12-bit samples were reduced to 8 bits'],
  ),
  'gif, a transparent index no pixel has': (
    saved(
      Image.fromarray(INDEX[..., 0]), 'GIF', transparency=200, optimize=False
    ), INDEX, None,
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', STORED)
def test_image_is_stored_right_or_with_a_true_note(name):
  data, pixels, notes = STORED[name]
  if 'grey and another channel' in name and PIL.__version__ < '12':
    pytest.skip('Pillow refuses it')
  image = read(data)
  assert image.pixels.dtype == np.uint8
  if notes is None:  # Pillow may use a palette, or not
    image = image._replace(pixels=image.pixels[..., :1])
  np.testing.assert_array_equal(image.pixels, pixels)
  assert notes is None or list(image.notes) == notes
  with open('x', 'wb') as f:
    f.write(data)
  image_io.check('x')


TRANSPARENT = 'has transparent pixels, .* flatten it'
REFUSED = {
  'png, 16-bit grey and alpha': (png(V2), TRANSPARENT),
  'png, 16-bit RGBA': (png(V4), TRANSPARENT),
  'png, 16-bit grey, a key': (
    png(V1, extra=[(b'tRNS', V1[2, 3].astype('>u2').tobytes())]),
    TRANSPARENT,
  ),
  'png, 16-bit RGB, a key': (
    png(V3, extra=[(b'tRNS', V3[2, 3].astype('>u2').tobytes())]),
    TRANSPARENT,
  ),
  'png, 1 bit, a key': (png(INDEX >> 3, 1, [(b'tRNS', b'\0\1')]), TRANSPARENT),
  'png, 2 bits, a key': (png(INDEX >> 2, 2, [(b'tRNS', b'\0\2')]), TRANSPARENT),
  'png, 4 bits, a key': (png(INDEX, 4, [(b'tRNS', b'\0\x0f')]), TRANSPARENT),
  'png, 8-bit grey, a key': (
    png(B1, 8, [(b'tRNS', bytes([0, B1[2, 3, 0]]))]),
    TRANSPARENT,
  ),
  'png, palette, one entry': (
    png(INDEX, 4, [(b'tRNS', b'\xff' * 15 + b'\0')], palette=COLORS),
    TRANSPARENT,
  ),
  'png, palette, faint entries': (
    png(INDEX, 4, [(b'tRNS', b'\xfe' * 16)], palette=COLORS),
    TRANSPARENT,
  ),
  'tiff, negative': (tiff(np.int16(-V1.astype(int) // 2)), 'negative .* convert'),
  'tiff, signed 8-bit': (tiff(B1.astype(np.int8)), 'signed 8-bit .* convert'),
  'tiff, 32-bit': (tiff(V1.astype(np.uint32) << 16), '32-bit pixels .* convert'),
  'tiff, 16-bit RGB in planes': (
    tiff(V3, is_planar=True),
    'separate planes.*interleaved',
  ),
  'tiff, 16-bit grey and alpha': (tiff(opaque(V2), extra=[2]), 'TIFF .* convert'),
  'tiff, float': (tiff(V1.astype(np.float32)), 'floating-point .* convert'),
  'tiff, float RGB': (tiff(V3.astype(np.float32)), 'floating-point .* convert'),
  'tiff, half': (tiff(np.ones((3, 3, 1), np.float16)), 'floating-point .* convert'),
  'tiff, double': (tiff(V1.astype(np.float64)), 'floating-point .* convert'),
  'tiff, preview of a raw file': (
    tiff(B3, tags={254: (4, [1]), 330: (4, [8])}),
    'preview.* develop',
  ),
  'tiff, DNG': (tiff(B3, tags={50706: (1, [1, 4, 0, 0])}), 'preview.* develop'),
  'tiff, CR2': (b'II*\0\x10\0\0\0CR\2\0', 'raw data of a camera: develop'),
  'pfm': (b'Pf\n2 2\n-1.0\n' + bytes(16), 'floating-point .* convert'),
  'jpeg 2000, 16-bit RGB': (J2K_16, 'JPEG 2000 with 16-bit .* convert'),
  'jpeg, 12-bit': (
    b'\xff\xd8\xff\xc1\0\x0b\x0c\0\1\0\1\1\1\x11\0',
    'JPEG file of 12 bits: convert',
  ),
  'empty': (b'', 'is empty'),
  'text': (b'hello', 'not an image'),
  'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'render it'),
  'eps with a preview': (b'\xc5\xd0\xd3\xc6' + bytes(40), 'render it'),
  'pdf': (b'%PDF-1.7\n', 'export'),
  'svg': (b'<?xml version="1.0"?>\n<svg/>', 'render it'),
  'web page': (b'\n<!DOCTYPE html>', 'web page'),
  'video': (b'\0\0\0\x18ftypisom\0\0\2\0isomiso2', 'is a video'),
  'raw file in boxes': (b'\0\0\0\x18ftypcrx \0\0\0\1crx isom', 'raw data'),
  'Git LFS': (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
  'OpenEXR': (b'\x76\x2f\x31\x01' + bytes(60), 'tone-map'),
  'Radiance': (b'#?RADIANCE\n', 'tone-map'),
  'archive': (b'PK\3\4' + bytes(60), 'unpack'),
  '.cdx': (b'\xc3DX\n' + bytes(60), 'codax decode'),
  'a png of a header': (png(B3, 8)[:40], 'PNG file that is damaged or cut'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_image_is_refused_in_a_line_with_advice(name):
  data, reason = REFUSED[name]
  with open('a name', 'wb') as f:
    f.write(data)
  with pytest.raises(CodaxError, match=reason) as e:
    image_io.read('a name')
  assert str(e.value).startswith('a name: ') and '\n' not in str(e.value)
  if 'key' not in name:
    return
  with pytest.raises(CodaxError, match=reason):
    image_io.check('a name')


# --- Other color spaces ---------------------------------------------------------------


def of_cmyk(values):
  """CMYK without a profile to RGB, in real numbers."""
  inks = values.astype(float) / 255
  return 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])


def test_cmyk_jpeg_is_turned_the_way_adobe_stores_it():
  """Adobe's files hold 255 - ink; Pillow writes them so, with Adobe's marker."""
  flat = np.full((16, 16, 4), (200, 30, 90, 40), np.uint8)
  data = saved(Image.fromarray(flat, 'CMYK'), 'JPEG', quality=100)
  assert b'Adobe' in data
  image = read(data)
  np.testing.assert_allclose(image.pixels, of_cmyk(flat), atol=3)
  assert image.notes == ('CMYK colours were turned into RGB',)


def test_ycck_jpeg_is_read_by_its_equations():
  """The third kind of four-channel JPEG: YCbCr of 255 - CMY, and K."""
  stored = np.full((16, 16, 4), (120, 150, 100, 215), np.uint8)
  data = saved(Image.fromarray(255 - stored, 'CMYK'), 'JPEG', quality=100)
  at = data.index(b'Adobe') + 11
  assert data[at] == 0
  image = read(data[:at] + b'\2' + data[at + 1 :])
  y, cb, cr, k = stored[0, 0].astype(float) - (0, 128, 128, 0)
  rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
  inverted = np.array([[255 - v for v in rgb] + [k]])
  np.testing.assert_allclose(image.pixels[0, 0], of_cmyk(255 - inverted)[0], atol=4)


@pytest.mark.parametrize('bits', [8, 16])
def test_cmyk_tiff_is_turned_into_rgb_with_a_note(bits):
  values = B4 if bits == 8 else V4
  image = read(tiff(values, photometric=5))
  wanted = of_cmyk(values if bits == 8 else values >> 8)
  np.testing.assert_allclose(image.pixels, wanted, atol=1.5)
  assert 'CMYK colours were turned into RGB' in image.notes
  assert (DEEP in image.notes) == (bits == 16)


# --- Several images in a file ---------------------------------------------------------


FRAMES = [Image.fromarray(smooth_image(16, 16) // k) for k in (1, 2, 3)]


@pytest.mark.parametrize('kind', ['PNG', 'GIF', 'TIFF', 'WEBP', 'AVIF'])
def test_first_frame_is_read_with_a_note(kind):
  options = {'WEBP': {'lossless': True}}.get(kind, {})
  if kind == 'AVIF':
    options = {'quality': 100, 'subsampling': '4:4:4'}
  data = saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)
  image = read(data)
  tolerance = {'GIF': 40, 'AVIF': 6}.get(kind, 0)
  np.testing.assert_allclose(
    image.pixels.astype(int), smooth_image(16, 16), atol=tolerance
  )
  assert 'only the first of 3 frames was read' in image.notes


def test_photograph_with_a_second_image_is_read_with_a_note():
  """The files of phones: JPEG with a gain map or a preview behind it."""
  data = saved(FRAMES[0], 'MPO', save_all=True, append_images=FRAMES[1:2], quality=95)
  image = read(data)
  alone = read(saved(FRAMES[0], 'JPEG', quality=95))
  np.testing.assert_array_equal(image.pixels, alone.pixels)
  assert 'gain map' in image.notes[0] and image.notes[0].startswith('only the first')


def test_icon_is_read_at_its_largest_size_with_a_note():
  im = Image.fromarray(smooth_image(32, 32))
  image = read(saved(im, 'ICO', sizes=[(16, 16), (32, 32)]))
  np.testing.assert_array_equal(image.pixels, smooth_image(32, 32))
  assert 'only the largest of 2 sizes was read' in image.notes


def test_flat_photoshop_file_is_read():
  h, w, c = B3.shape
  head = struct.pack('>4sH6xHIIHH', b'8BPS', 1, c, h, w, 8, 3)
  planes = np.moveaxis(B3, -1, 0).tobytes()
  image = read(head + bytes(12) + bytes(2) + planes)
  np.testing.assert_array_equal(image.pixels, B3)
  assert image.notes == ()


def test_exif_preview_is_not_taken_for_the_photograph():
  """A JPEG inside the EXIF block of a JPEG, as cameras write it."""
  preview = saved(Image.new('RGB', (8, 8), 'red'), 'JPEG')
  body = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<HI', 0, 14)
  body += struct.pack('<HHHII', 2, 0x201, 4, 1, 44)
  body += struct.pack('<HHIII', 0x202, 4, 1, len(preview), 0) + preview
  data = saved(smooth_image(), 'JPEG', quality=95)
  data = data[:2] + b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body + data[2:]
  alone = read(saved(smooth_image(), 'JPEG', quality=95))
  assert np.array_equal(read(data).pixels, alone.pixels)


# --- Depths that decoders hide --------------------------------------------------------


def test_ten_bit_avif_is_read_with_a_note():
  image = read(AVIF_10)
  wanted = reduced(np.stack([GRID[1] * 341, GRID[0] * 341], -1), 1023)
  np.testing.assert_allclose(image.pixels[..., :2].astype(int), wanted, atol=6)
  assert image.notes == ('10-bit samples were reduced to 8 bits',)


def test_sixteen_bit_sgi_is_read_with_a_note():
  """Pillow takes the upper bytes."""
  image = read(sgi(V3))
  np.testing.assert_array_equal(image.pixels, V3 >> 8)
  assert image.notes == (DEEP,)


@pytest.mark.parametrize(('data', 'bits'), [(JXL_16, 16), (JXL_8, 8)])
def test_depth_of_jpeg_xl_is_found_in_its_header(data, bits):
  im = types.SimpleNamespace(format='JXL', mode='RGB', info={})
  assert depths.find_depth(im, io.BytesIO(data)).bits == bits


def test_jpeg_xl_is_read_where_its_reader_is_installed():
  pytest.importorskip('pillow_jxl')
  image = read(JXL_8)
  wanted = np.stack([GRID[1], GRID[0]], -1) * 341 // 4
  np.testing.assert_array_equal(image.pixels[..., :2], wanted)
  assert read(JXL_16).notes == (DEEP,)
  image_io.write('x.jxl', image_io.ImageFile(smooth_image()))
  again = image_io.read('x.jxl').pixels.astype(int)
  assert np.abs(again - smooth_image()).mean() < 10


def test_heic_is_read_where_its_reader_is_installed():
  pytest.importorskip('pillow_heif')
  image_io.write('x.heic', image_io.ImageFile(smooth_image(64, 64)))
  with open('x.heic', 'rb') as f:
    data = f.read()
  for image in (image_io.read('x.heic'), read(data)):
    assert image.pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(
  ('head', 'package'),
  [
    (JXL_8, 'pillow-jxl-plugin'),
    (JXL_16, 'pillow-jxl-plugin'),
    (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'pillow-heif'),
    (b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic', 'pillow-heif'),
  ],
)
def test_missing_reader_is_named_with_its_package(monkeypatch, head, package):
  monkeypatch.setattr(formats, '_register', lambda kind: None)
  for kind in ('JXL', 'HEIF'):
    monkeypatch.delitem(Image.OPEN, kind, raising=False)
  monkeypatch.setattr(Image, 'ID', [k for k in Image.ID if k not in ('JXL', 'HEIF')])
  with open('photo.jpg', 'wb') as f:  # whatever it is called
    f.write(head)
  for read_it in (image_io.read, image_io.check):
    with pytest.raises(CodaxError, match=f'photo.jpg: .* pip install {package}'):
      read_it('photo.jpg')

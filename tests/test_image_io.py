"""Reading every sort of image, writing whole files, and what is refused."""

import errno
import os
import struct
import threading
import zlib

import icc_samples
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image, ImageCms

from codax import image_io
from codax.color.spaces import ColorSpace
from codax.errors import CodaxError
from codax.image_io import ImageFile
from codax.readers import formats

RGB_ICC = icc_samples.rgb(gamma=1.9)
GREY_ICC = icc_samples.grey(gamma=1.9)
RGB_COLOR = ColorSpace(icc=RGB_ICC)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def saved(image, name='x.png', **options):
  im = image if isinstance(image, Image.Image) else Image.fromarray(image)
  im.save(name, **options)
  return image_io.read(name)


def test_plain_images_are_read_to_their_pixels():
  for h, w in ((1, 1), (17, 33), (5, 1)):
    rgb, grey = smooth_image(h, w), smooth_image(h, w, 1)
    assert np.array_equal(saved(rgb).pixels, rgb)
    assert np.array_equal(saved(grey[..., 0]).pixels, grey)
    assert saved(rgb)[1:] == (ColorSpace(), 1, (), None)
  bits = smooth_image(9, 9, 1)[..., 0] > 90
  assert np.array_equal(saved(bits).pixels[..., 0], bits * 255)


def test_16_bit_grey_is_rounded():
  values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  for name in ('x.png', 'x.tif', 'x.pgm'):
    read = saved(values, name)
    assert np.array_equal(read.pixels[..., 0], np.rint(values / 257)), name
    assert read.notes == ('16-bit samples were reduced to 8 bits',)


def test_16_bit_rgb_is_read_with_a_note():
  def chunk(kind, data):
    body = kind + data
    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

  values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype('>u2')
  rows = b''.join(b'\0' + row.tobytes() for row in values)
  with open('deep.png', 'wb') as f:
    f.write(b'\x89PNG\r\n\x1a\n')
    f.write(chunk(b'IHDR', struct.pack('>IIBBBBB', 5, 4, 16, 2, 0, 0, 0)))
    f.write(chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))
  read = image_io.read('deep.png')
  assert np.abs(read.pixels - values / 257).max() <= 1
  assert read.notes == ('16-bit samples were reduced to 8 bits',)


@pytest.mark.parametrize('mode', ['CMYK', 'LAB'])
def test_image_of_another_colour_space_becomes_rgb(mode):
  im = Image.fromarray(smooth_image()).convert('RGB')
  im = ImageCms.profileToProfile(
    im, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB'
  ) if mode == 'LAB' else im.convert(mode)  # fmt: skip
  read = saved(im, 'x.tif', icc_profile=RGB_ICC)
  assert np.array_equal(read.pixels, np.array(im.convert('RGB')))
  assert read.color == ColorSpace() and any('ICC' in note for note in read.notes)
  assert f'{mode} colours were turned into RGB' in read.notes


def test_palette_image_becomes_rgb():
  im = Image.fromarray(smooth_image()).quantize(16)
  for name in ('x.png', 'x.gif'):
    read = saved(im, name)
    assert np.array_equal(read.pixels, np.array(im.convert('RGB')))
    assert read.notes == ('palette colours were turned into RGB',)


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'PA'])
def test_opaque_alpha_is_dropped(mode):
  im = Image.fromarray(smooth_image()).convert(mode)
  read = saved(im, 'x.tif')
  assert np.array_equal(
    read.pixels.squeeze(), np.array(im.convert('L' if mode == 'LA' else 'RGB'))
  )
  assert any('alpha' in note for note in read.notes)


def test_transparent_image_is_refused():
  rgba = np.dstack([smooth_image(), np.full((17, 33), 255, np.uint8)])
  rgba[3, 4, 3] = 254
  cases = [(rgba, {}), (rgba[..., [0, 3]], {})]
  grey = smooth_image(17, 33, 1)[..., 0]
  cases.append((grey, {'transparency': int(grey[0, 0])}))
  cases.append(
    (smooth_image(), {'transparency': tuple(map(int, smooth_image()[0, 0]))})
  )
  cases.append((grey.astype(np.uint16) * 9, {'transparency': int(grey[0, 0]) * 9}))
  cases.append((Image.fromarray(smooth_image()).quantize(16), {'transparency': 3}))
  for image, options in cases:
    with pytest.raises(CodaxError, match='x.png: has transparent pixels'):
      saved(image, **options)
  # A transparent colour that no pixel has is no transparency.
  assert saved(grey, transparency=255).pixels.shape == (17, 33, 1)
  assert saved(grey.astype(np.uint16), transparency=65535).pixels.shape == (17, 33, 1)


def test_deep_pixels_are_refused():
  cases = [np.ones((3, 3), np.float32), np.full((3, 3), 70_000, np.int32)]
  for image in [*cases, np.full((3, 3), -1, np.int32)]:
    with pytest.raises(CodaxError, match='x.tif: .* not supported'):
      saved(image, 'x.tif')


def test_animation_is_read_to_its_first_frame_with_a_note():
  frames = [Image.fromarray(smooth_image(9, 9, 1)[..., 0] // k) for k in (1, 2, 3)]
  frames[0].save('x.tif', save_all=True, append_images=frames[1:])
  read = image_io.read('x.tif')
  assert np.array_equal(read.pixels, smooth_image(9, 9, 1))
  assert read.notes == ('only the first of 3 frames was read',)


@pytest.mark.parametrize('suffix', ['jpg', 'webp', 'avif', 'tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_metadata_written_is_read_back(suffix, orientation):
  image = smooth_image(24, 40)
  path = f'x.{suffix}'
  notes = image_io.write(path, ImageFile(image, RGB_COLOR, orientation))
  assert not any('holds no' in note for note in notes)
  read = image_io.read(path)
  assert read.color == RGB_COLOR
  with Image.open(path) as im:
    shown = np.array(_upright(im))
  assert shown.shape == (_turned(image, orientation)).shape
  if suffix == 'tif':  # Pillow turns TIFF while it reads
    assert read.orientation == 1 and read.pixels.shape == shown.shape
  else:
    assert read.orientation == orientation and read.pixels.shape == image.shape
  if suffix in ('webp', 'tif'):
    assert np.array_equal(shown, _turned(image, orientation))


def _upright(im):
  from PIL import ImageOps

  return ImageOps.exif_transpose(im)


def _turned(image, orientation):
  """EXIF's definition: where the stored rows and columns belong on the screen."""
  turned = {
    1: image,
    2: image[:, ::-1],
    3: image[::-1, ::-1],
    4: image[::-1],
    5: image.swapaxes(0, 1),
    6: image[::-1].swapaxes(0, 1),
    7: image[::-1, ::-1].swapaxes(0, 1),
    8: image[:, ::-1].swapaxes(0, 1),
  }
  return turned[orientation]


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'PPM', 'GIF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_formats_whose_viewers_turn_nothing_get_turned_pixels(kind, orientation):
  """The oracle is Pillow's reading of the orientation in a TIFF-like EXIF block."""
  image = smooth_image(c=1 if kind in ('PPM', 'GIF') else 3)
  data, notes = image_io.format_image(ImageFile(image, orientation=orientation), kind)
  tagged = Image.fromarray(image.squeeze())
  tagged.getexif()[0x0112] = orientation
  wanted = np.array(_upright(tagged)).reshape(*_turned(image, orientation).shape)
  assert np.array_equal(wanted, _turned(image, orientation))
  read = image_io.read_bytes(data, 'x')
  pixels = read.pixels[..., : wanted.shape[2]]  # GIF may give grey by a palette
  assert np.array_equal(pixels, wanted) and read.orientation == 1
  assert [note for note in notes if 'turned upright' in note] == list(notes)
  assert len(notes) == (orientation != 1)


def test_dropped_metadata_are_noted():
  notes = image_io.write('x.bmp', ImageFile(smooth_image(), RGB_COLOR, 3))
  assert image_io.read('x.bmp').color == ColorSpace()
  assert len(notes) == 2 and any('ICC' in note for note in notes)
  assert image_io.write('x.png', ImageFile(smooth_image(), RGB_COLOR)) == ()
  assert image_io.read('x.png').color == RGB_COLOR


def test_icc_must_fit_the_channels():
  grey = smooth_image(9, 9, 1)[..., 0]
  assert saved(grey, icc_profile=GREY_ICC).color.icc == GREY_ICC
  read = saved(grey, icc_profile=RGB_ICC)
  assert read.color == ColorSpace() and 'another color space' in read.notes[0]
  exif = Image.Exif()
  exif[0x0112] = 77
  assert saved(grey, exif=exif).orientation == 1


def test_lossless_formats_keep_every_pixel():
  for c in (1, 3):
    for name in ('x', 'x.png', 'x.webp', 'x.tif', 'x.PPM'):
      assert image_io.write(name, ImageFile(smooth_image(c=c))) == ()
      with Image.open(name) as im:
        found = np.array(im.convert('L' if c == 1 else 'RGB'))
      assert np.array_equal(found, smooth_image(c=c).squeeze()), name


def test_format_that_changes_pixels_is_noted():
  for name, c, exact in (('x.jpg', 3, False), ('x.gif', 3, False), ('x.gif', 1, True)):
    notes = image_io.write(name, ImageFile(smooth_image(c=c)))
    found = image_io.read(name).pixels[..., :c]
    assert np.array_equal(found, smooth_image(c=c)) == exact
    assert any('exactly' in note for note in notes) != exact


def test_unreadable_files_are_one_line():
  Image.fromarray(smooth_image(64, 64)).save('x.png')
  with open('x.png', 'rb') as f:
    data = f.read()
  bad = {
    'empty.png': b'',
    'text.png': b'hello',
    'short.png': data[: len(data) // 2],
    'flipped.png': data[:100] + bytes([data[100] ^ 1]) + data[101:],
  }
  for name, contents in bad.items():
    with open(name, 'wb') as f:
      f.write(contents)
  for name in [*bad, 'missing.png', '.']:
    with pytest.raises(CodaxError) as e:
      image_io.read(name)
    assert str(e.value).startswith(f'{name}: ') and '\n' not in str(e.value)


def test_decompression_bomb_is_refused(monkeypatch):
  Image.fromarray(smooth_image(64, 64)).save('x.png')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
  with pytest.raises(CodaxError, match='x.png: .*pixels'):
    image_io.read('x.png')


def test_path_that_cannot_be_written_is_one_line():
  for name in ('x.xyz', 'x.cdx', 'x.psd', 'x.ico'):  # an icon would be scaled
    with pytest.raises(CodaxError, match='suffix'):
      image_io.write(name, ImageFile(smooth_image()))
  with pytest.raises(CodaxError, match='folder none does not exist'):
    image_io.write('none/x.png', ImageFile(smooth_image()))
  with pytest.raises(CodaxError, match='is a folder'):
    image_io.write_file('.', b'')
  assert os.listdir() == []


def test_suffix_of_a_missing_optional_format_is_answered_with_its_package(monkeypatch):
  monkeypatch.setattr(formats, '_register', lambda kind: None)
  monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda *_: None)
  monkeypatch.setattr(Image, 'registered_extensions', lambda: {'.png': 'PNG'})
  for suffix, package in (('.jxl', 'pillow-jxl-plugin'), ('.heic', 'pillow-heif')):
    with pytest.raises(CodaxError, match=f'pip install {package}'):
      image_io.file_format(f'x{suffix}')
  assert image_io.file_format('x.png') == 'PNG'


def test_failed_write_leaves_no_file(monkeypatch):
  image_io.write('x.png', ImageFile(smooth_image()))

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  for name in ('x.png', 'new.png'):
    with pytest.raises(OSError, match='No space') as e:
      image_io.write(name, ImageFile(smooth_image() // 2))
    assert e.value.filename.endswith(name)
  assert os.listdir() == ['x.png']
  assert np.array_equal(image_io.read('x.png').pixels, smooth_image())


def test_header_check_finds_images_that_cannot_be_read():
  """As `read` says it; a truncated file has a sound header."""
  Image.fromarray(smooth_image()).save('x.png')
  image_io.check('x.png')
  Image.fromarray(np.zeros((9, 9), np.float32)).save('float.tif')
  with open('text.png', 'w') as f:
    f.write('no image')
  for path in ('float.tif', 'text.png', 'absent.png'):
    with pytest.raises(CodaxError) as whole:
      image_io.read(path)
    with pytest.raises(CodaxError) as header:
      image_io.check(path)
    assert str(header.value) == str(whole.value) and path in str(whole.value)
  os.truncate('x.png', os.path.getsize('x.png') // 2)
  image_io.check('x.png')
  with pytest.raises(CodaxError, match='x.png'):
    image_io.read('x.png')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')
def test_full_device_is_one_line():
  with pytest.raises(OSError, match='No space') as e:
    image_io.write_file('/dev/full', b'x')
  assert e.value.filename == '/dev/full'


@pytest.mark.skipif(os.name != 'posix', reason='links and pipes of POSIX')
def test_links_and_pipes_are_written_through():
  image_io.write_file('real', b'old')
  os.symlink('real', 'link')
  image_io.write_file('link', b'new')
  with open('real', 'rb') as f:
    assert os.path.islink('link') and f.read() == b'new'
  os.mkfifo('pipe')
  got = []

  def listen():
    with open('pipe', 'rb') as f:
      got.append(f.read())

  thread = threading.Thread(target=listen, daemon=True)
  thread.start()
  image_io.write_file('pipe', b'through')
  thread.join(10)
  assert got == [b'through'] and not os.path.isfile('pipe')

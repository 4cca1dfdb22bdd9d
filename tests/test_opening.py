"""Opening of image files: limits, repairs, pipes, threads, and Pillow's settings."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from fake_family import smooth_image
from image_makers import chunk, png, saved
from PIL import EpsImagePlugin, Image, ImageFile, PngImagePlugin

from codax import codec, image_io
from codax.errors import CodaxError
from codax.readers import formats, opening, samples


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(name, data):
  with open(name, 'wb') as f:
    f.write(data)
  return name


def read(data, name='x'):
  return image_io.read_bytes(data, name)


# --- Limits ---------------------------------------------------------------------------


def empty_png(width, height):
  """A PNG file whose header says a size that its pixels do not have."""
  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  chunks = [(b'IHDR', head), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*one) for one in chunks)


def test_image_over_the_limits_is_refused_with_them_and_advice():
  write('panorama.png', empty_png(20000, 20000))
  for look in (image_io.read, image_io.check):
    with pytest.raises(CodaxError, match='400,000,000 .* of 268,435,456: cut it'):
      look('panorama.png')


def test_side_that_no_file_holds_is_read_for_crops_and_refused_by_codecs():
  image = image_io.read_bytes(saved(np.zeros((1, 65536), np.uint8), 'PNG'), 'x')
  with pytest.raises(CodaxError, match='sides up to 65535 .* not 65536 x 1: cut it'):
    codec.check_image(image.pixels)


def test_limit_is_that_of_files_and_not_of_pillow(monkeypatch):
  """Pillow warns over a limit of its own and refuses over twice of that."""
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
  monkeypatch.setattr(opening, '_PILLOW_LIMIT', 1000)
  image = smooth_image(64, 64)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for kind in ('PNG', 'TIFF', 'BMP', 'WEBP'):
      pixels = read(
        saved(image, kind, **({'lossless': True} if kind == 'WEBP' else {}))
      )
      assert np.array_equal(pixels.pixels, image)
  assert Image.MAX_IMAGE_PIXELS == 1000  # as the application knows it


def test_limit_that_the_application_set_holds(monkeypatch):
  write('x.png', saved(smooth_image(64, 64), 'PNG'))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
  with pytest.raises(CodaxError, match='4,096 pixels, more than the limit of 2,000'):
    image_io.read('x.png')
  assert Image.MAX_IMAGE_PIXELS == 1000


def test_image_that_does_not_fit_into_memory_is_a_line(monkeypatch):
  def fail(*_):
    raise MemoryError

  monkeypatch.setattr(samples, '_convert', fail)
  with pytest.raises(CodaxError, match='^x: does not fit into memory: cut'):
    read(saved(smooth_image(), 'PNG'))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'CMYK', 'RGBA', 'deep', 'deep RGB'])
def test_strips_give_what_the_whole_image_gives(monkeypatch, mode):
  values = np.random.default_rng(0).integers(0, 65536, (37, 11, 3)).astype(np.uint16)
  if mode.startswith('deep'):
    data = png(values if 'RGB' in mode else values[..., :1])
  else:
    data = saved(np.array(Image.fromarray(values.astype(np.uint8))), 'TIFF')
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert(mode).save(out, 'TIFF')
    data = out.getvalue()
  whole = read(data)
  monkeypatch.setattr(samples, '_STRIP', 40)
  strips = read(data)
  assert np.array_equal(whole.pixels, strips.pixels) and whole.notes == strips.notes


# --- Repairs --------------------------------------------------------------------------

JPEGS = {
  'baseline': {'quality': 90},
  'progressive': {'quality': 90, 'progressive': True},
  'restarts': {'quality': 90, 'restart_marker_blocks': 3},
  'coarse': {'quality': 5},
}


@pytest.mark.parametrize('kind', JPEGS)
def test_jpeg_without_its_end_marker_is_read_with_a_note(kind):
  data = saved(smooth_image(50, 70), 'JPEG', **JPEGS[kind])
  for cut in (1, 2):
    image = read(data[:-cut])
    assert np.array_equal(image.pixels, read(data).pixels)
    assert 'end marker of the JPEG file is missing' in image.notes[0]


@pytest.mark.parametrize('kind', JPEGS)
def test_jpeg_that_lacks_codes_is_refused(kind):
  """Every cut into the codes is found, those between two scans or restarts too."""
  data = saved(smooth_image(50, 70), 'JPEG', **JPEGS[kind])
  whole = read(data).pixels
  first = data.index(b'\xff\xda')
  cuts = {*range(len(data) - 40, len(data) - 2), *range(first, len(data) - 2, 7)}
  cuts |= {i for i in range(first, len(data) - 2) if data[i] == 0xFF}
  accepted = []
  for cut in sorted(cuts):
    try:
      image = read(data[:cut])
    except CodaxError as e:
      assert str(e).startswith('x: ')
      continue
    # a last byte of padding may be lost without any harm
    assert np.array_equal(image.pixels, whole) and image.notes, cut
    accepted.append(cut)
  assert all(cut >= len(data) - 4 for cut in accepted)


def test_png_with_long_texts_is_read():
  """Longer ones than Pillow takes; image generators store their prompts so."""
  data = saved(smooth_image(), 'PNG')
  long = b'parameters\0\0' + zlib.compress(bytes(3 * PngImagePlugin.MAX_TEXT_CHUNK))
  before = data[:33] + chunk(b'zTXt', long) + data[33:]
  behind = data[:-12] + chunk(b'zTXt', long) + data[-12:]
  for file in (before, behind):
    image = read(file)
    assert np.array_equal(image.pixels, smooth_image()) and image.notes == ()
    image_io.check(write('x.png', file))


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'AVIF', 'TIFF', 'BMP', 'GIF', 'PPM'])
def test_truncated_file_is_refused_with_its_name(kind, monkeypatch):
  monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)  # of the application
  data = saved(smooth_image(60, 80), kind)
  name = write(f'cut.{kind}', data[: len(data) * 2 // 3])
  with pytest.raises(CodaxError, match=f'^cut.{kind}: ') as e:
    image_io.read(name)
  assert '\n' not in str(e.value)
  assert ImageFile.LOAD_TRUNCATED_IMAGES


# --- Files that are none, or change ---------------------------------------------------


def test_ghostscript_is_never_run(monkeypatch):
  def run(*args, **kwargs):
    raise AssertionError('Ghostscript was run')

  monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', run)
  for name in ('x.eps', 'x.png'):
    text = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
    write(name, text + b'showpage\n%%EOF\n')
    for look in (image_io.read, image_io.check):
      with pytest.raises(CodaxError, match='PostScript'):
        look(name)


@pytest.mark.skipif(os.name != 'posix', reason='pipes of POSIX')
def test_pipes_are_read():
  data = saved(smooth_image(), 'PNG')
  os.mkfifo('pipe')
  thread = threading.Thread(target=write, args=('pipe', data), daemon=True)
  thread.start()
  image_io.check('pipe')  # takes nothing out of it
  assert np.array_equal(image_io.read('pipe').pixels, smooth_image())
  thread.join(10)
  code = (
    'from codax import image_io\nimage = image_io.read("/dev/stdin")\n'
    'print(*image.pixels.shape)'
  )
  done = subprocess.run([sys.executable, '-c', code], input=data, capture_output=True)
  assert done.stdout.split() == [b'17', b'33', b'3'], done.stderr


def test_folder_and_missing_file_are_a_line_with_the_name():
  os.mkdir('folder')
  for name in ('folder', 'missing.png', 'folder/missing.png'):
    with pytest.raises(CodaxError, match=f'^{name}: '):
      image_io.read(name)


def test_file_that_changes_while_it_is_read_is_refused(monkeypatch):
  write('x.png', saved(smooth_image(), 'PNG'))
  convert = samples._convert

  def change(*args):
    with open('x.png', 'ab') as f:
      f.write(b'more')
    return convert(*args)

  monkeypatch.setattr(samples, '_convert', change)
  with pytest.raises(CodaxError, match='^x.png: was changed by another program'):
    image_io.read('x.png')


@pytest.mark.skipif(os.name != 'posix', reason='open files of Windows stay in place')
def test_file_that_is_replaced_while_it_is_read_is_read_as_it_was(monkeypatch):
  write('x.png', saved(smooth_image(), 'PNG'))
  write('y.png', saved(smooth_image() // 2, 'PNG'))
  convert = samples._convert

  def replace(*args):
    os.replace('y.png', 'x.png')
    return convert(*args)

  monkeypatch.setattr(samples, '_convert', replace)
  assert np.array_equal(image_io.read('x.png').pixels, smooth_image())


def test_errors_of_readers_are_one_line(monkeypatch):
  class Odd(Exception):
    pass

  for error in (Odd('two\nlines'), Odd(), OSError('two\n\nlines'), KeyError(3)):

    def fail(*_, error=error):
      raise error

    monkeypatch.setattr(samples, '_convert', fail)
    with pytest.raises(CodaxError) as e:
      read(saved(smooth_image(), 'PNG'))
    assert '\n' not in str(e.value) and len(str(e.value)) > len('x: ')


# --- Settings of Pillow ---------------------------------------------------------------


def test_settings_are_set_while_any_thread_reads_and_restored_by_the_last(monkeypatch):
  """Under `python -W error`, a thread's warning would end the reading of another."""
  write('x.png', saved(smooth_image(), 'PNG'))
  convert, errors = samples._convert, []
  barrier = threading.Barrier(4)

  def warn(*args):
    barrier.wait(10)
    time.sleep(0.01 * threading.get_ident() % 0.03)
    warnings.warn('odd metadata', stacklevel=1)
    return convert(*args)

  monkeypatch.setattr(samples, '_convert', warn)

  def work():
    try:
      for _ in range(5):
        image_io.read('x.png')
    except Exception as e:
      errors.append(e)

  with warnings.catch_warnings():
    warnings.simplefilter('error')
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(30)
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before
  assert not errors


def test_optional_reader_is_imported_for_the_files_that_need_it(here, monkeypatch):
  """By their first bytes: from a pipe or under another name as well."""
  (here / 'pillow_jxl.py').write_text('')
  (here / 'pillow_heif.py').write_text('done = []\nregister_heif_opener = done.append')
  monkeypatch.syspath_prepend(here)
  for name in ('pillow_jxl', 'pillow_heif'):
    monkeypatch.delitem(sys.modules, name, raising=False)
  formats._register.cache_clear()
  try:
    read(saved(smooth_image(), 'PNG'))
    assert not {'pillow_jxl', 'pillow_heif'} & set(sys.modules)
    with pytest.raises(CodaxError):
      read(b'\xff\x0a' + bytes(50))
    assert 'pillow_jxl' in sys.modules and 'pillow_heif' not in sys.modules
    with pytest.raises(CodaxError):
      read(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
    assert 'pillow_heif' in sys.modules
  finally:
    formats._register.cache_clear()
    for name in ('pillow_jxl', 'pillow_heif'):
      sys.modules.pop(name, None)


# --- Damage ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  'kind',
  ['PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP', 'AVIF', 'BMP', 'PPM', 'ICO', 'JPEG2000'],
)
def test_damaged_file_is_an_image_or_one_line(kind):
  """Changed and lost bytes, and bytes of other files: never another exception."""
  data = saved(smooth_image(24, 40), kind)
  rng = np.random.default_rng(7)
  for _ in range(60):
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
      damaged[int(rng.integers(len(data)) * rng.random() ** 2)] = int(rng.integers(256))
    if rng.random() < 0.3:
      del damaged[int(rng.integers(len(data))) :]
    try:
      image = read(bytes(damaged))
    except CodaxError as e:
      assert str(e).startswith('x: ') and '\n' not in str(e)
    else:
      assert image.pixels.dtype == np.uint8 and image.pixels.shape[2] in (1, 3)

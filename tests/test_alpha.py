"""Alpha: lossless in every family's files, against a second reader, and damaged."""

import io
import re
import tracemalloc
import zlib

import alpha_reference
import fake_family
import hostile
import numpy as np
import pytest
from fake_family import smooth_image
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import codax
import codax.pillow_plugin
from codax import alpha, bitstream, cli, families, image_io
from codax.bitstream import BitstreamError, Section
from codax.errors import CodaxError

_, FILES = hostile.corpus(hostile.GOLDEN / 'splat_4')
OLD = frozenset({bitstream.CODES})


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.chdir(tmp_path)


def disk(h=17, w=33):
  """Alpha with a soft edge: uint8 [h, w], 0 outside of a disk."""
  y, x = np.mgrid[:h, :w]
  far = np.hypot(y - h / 2, x - w / 2)
  return np.clip(60 * (min(h, w) / 2 - far), 0, 255).astype(np.uint8)


def with_alpha(h=17, w=33, c=3):
  return np.dstack([smooth_image(h, w, c), disk(h, w)])


def deflate(data):
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  return packer.compress(data) + packer.flush()


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_any_plane_comes_back_and_the_second_reader_agrees(plane):
  if (plane == 255).all():
    plane = plane - 1
  payload = alpha.pack(plane).payload
  assert np.array_equal(alpha.unpack(payload, *plane.shape), plane)
  assert alpha_reference.unpack(payload, *plane.shape) == plane.tolist()


@pytest.mark.parametrize('data', FILES)
def test_golden_alpha_is_what_the_second_reader_finds(data):
  assert alpha.read(data).tolist() == alpha_reference.read_alpha(data)


def test_golden_files_have_every_filter():
  found = [bitstream.find(bitstream.read(f, known=None)[1], 3)[0] for f in FILES]
  assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize(
  ('number', 'plane'),
  [
    (1, np.full((9, 12), 7) * np.arange(12) + 31 * np.arange(9)[:, None] ** 2),
    (2, 7 * np.arange(9)[:, None] + 31 * np.arange(12) ** 3),
  ],
)
def test_filter_of_the_smallest_section_is_chosen(number, plane):
  plane = plane.astype(np.uint8)
  payload = alpha.pack(plane).payload
  assert payload[0] == number and len(payload) < len(deflate(plane.tobytes()))


@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('shape', [(1, 1), (17, 33)])
def test_encoded_alpha_is_lossless_and_colors_are_those_of_an_opaque_image(shape, c):
  image = with_alpha(*shape, c)
  image[..., -1] = np.clip(image[..., -1], 1, 254)
  encoded = families.get('fake').encode(image)
  decoded = families.decode(encoded.data)
  assert decoded.shape == image.shape and decoded.dtype == np.uint8
  assert np.array_equal(decoded, encoded.reconstruction)
  assert np.array_equal(decoded[..., -1], image[..., -1])
  opaque = families.decode(families.encode(image[..., :-1], 'fake'))
  assert np.array_equal(decoded[..., :-1], opaque)


def test_opaque_alpha_writes_no_section():
  image = np.dstack([smooth_image(), np.full((17, 33), 255, np.uint8)])
  assert families.encode(image, 'fake') == families.encode(smooth_image(), 'fake')


def test_estimate_counts_the_bytes_of_alpha():
  made = families.get('fake')
  encoded, plain = made.encode(with_alpha()), made.encode(with_alpha()[..., :3])
  assert encoded.estimated_bits > 8 * alpha.count_bytes(encoded.data)
  assert alpha.count_bytes(plain.data) == 0 == alpha.count_bytes(b'\xff\xd8\xff')


def test_colors_under_alpha_0_are_filled_from_visible_neighbors():
  colors, plane = smooth_image(32, 32), np.zeros((32, 32), np.uint8)
  plane[:16] = 255
  colors[:16], colors[16:] = 90, 250
  filled = alpha.fill_invisible(colors, plane)
  assert (filled == 90).all()
  again, _ = alpha.split(np.dstack([filled, plane]))
  assert np.array_equal(again, filled)
  plane[:] = 0
  assert np.array_equal(alpha.fill_invisible(colors, plane), colors)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_fill_keeps_visible_pixels_and_stays_in_their_range(h, w, seed):
  rng = np.random.default_rng(seed)
  colors = rng.integers(0, 256, (h, w, 3), np.uint8)
  plane = rng.choice(np.array([0, 1, 255], np.uint8), (h, w))
  filled = alpha.fill_invisible(colors, plane)
  seen = colors[plane > 0]
  assert np.array_equal(filled[plane > 0], seen)
  if len(seen):
    assert (filled >= seen.min(0)).all() and (filled <= seen.max(0)).all()


@pytest.mark.parametrize(
  ('payload', 'message'),
  [
    (b'', 'no filter'),
    (b'\x04' + deflate(bytes(6)), 'no filter'),
    (b'\x00', 'does not hold 3 x 2'),
    (b'\x00' + deflate(bytes(5)), 'does not hold 3 x 2'),
    (b'\x00' + deflate(bytes(7)), 'does not hold 3 x 2'),
    (b'\x00' + deflate(bytes(6))[:-1], 'does not hold 3 x 2'),
    (b'\x00' + deflate(bytes(6)) + b'\0', 'does not hold 3 x 2'),
    (b'\x00' + deflate(bytes(10**7)), 'does not hold 3 x 2'),
    (b'\x00\xff\xff', 'is damaged'),
    (b'\x00' + deflate(b'\xff' * 6), 'opaque everywhere'),
  ],
)  # fmt: skip
def test_wrong_sections_are_refused_in_one_line(payload, message):
  with pytest.raises(BitstreamError, match=message) as e:
    alpha.unpack(payload, 2, 3)
  assert '\n' not in str(e.value) and str(e.value).startswith('section alpha')


@pytest.mark.parametrize(
  ('payload', 'shape'),
  [
    (b'\x00' + deflate(bytes(10**8)), (2, 3)),  # a bomb in a small image
    (b'\x00' + deflate(bytes(99)), (2**14, 2**14)),  # a large image of few bytes
  ],
)
def test_bombs_take_no_memory(payload, shape):
  tracemalloc.start()
  with pytest.raises(BitstreamError):
    alpha.unpack(payload, *shape)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**20


def test_readers_that_do_not_know_alpha_refuse_the_file():
  data = families.encode(with_alpha(), 'fake')
  with pytest.raises(BitstreamError, match=r'unknown critical section \(3\)'):
    bitstream.read(data, known=OLD)
  bitstream.read(families.encode(smooth_image(), 'fake'), known=OLD)


def test_every_flipped_bit_of_a_section_is_an_error_or_alpha():
  """Under a good checksum; the second reader agrees on what is alpha."""
  payload, errors = alpha.pack(disk(5, 7)).payload, 0
  for i in range(8 * len(payload)):
    damaged = bytearray(payload)
    damaged[i // 8] ^= 1 << i % 8
    try:
      plane = alpha.unpack(bytes(damaged), 5, 7)
    except BitstreamError:
      errors += 1
    else:
      assert alpha_reference.unpack(bytes(damaged), 5, 7) == plane.tolist()
  assert 0 < errors < 8 * len(payload)


def test_mutations_are_an_error_or_an_image():
  judge = hostile.Judge('splat')
  hostile.judge_mutations(judge, FILES, 150)
  assert judge.errors and judge.pictures


# --- Files and commands ---------------------------------------------------------------


def sources():
  """{name: (bytes of an image file, uint8 [H, W, C] that it means)}."""
  rgba, gray = with_alpha(), with_alpha(c=1)
  palette = Image.fromarray(smooth_image()).quantize(16)
  index = np.asarray(palette)
  shown = np.dstack([palette.convert('RGB'), np.where(index == 3, 0, 255)])
  key = smooth_image(c=1)[..., 0]
  keyed = np.dstack([key, np.where(key == key[0, 0], 0, 255)])

  def file(image, kind='PNG', **options):
    out = io.BytesIO()
    if isinstance(image, np.ndarray):
      image = Image.fromarray(image)
    image.save(out, kind, **options)
    return out.getvalue()

  return {
    'rgba.png': (file(rgba), rgba),
    'gray.png': (file(gray), gray),
    'palette.png': (file(palette, transparency=3), shown.astype(np.uint8)),
    'key.png': (file(key, transparency=int(key[0, 0])), keyed.astype(np.uint8)),
    'rgba.webp': (file(rgba, 'WEBP', lossless=True, exact=True), rgba),
    'rgba.tif': (file(rgba, 'TIFF'), rgba),
  }


NAMES = ('rgba.png', 'gray.png', 'palette.png', 'key.png', 'rgba.webp', 'rgba.tif')


@pytest.mark.parametrize('name', NAMES)
def test_alpha_of_a_file_comes_back_after_encode_and_decode(name, capsys):
  data, image = sources()[name]
  with open(name, 'wb') as f:
    f.write(data)
  assert cli.main(['encode', name, '-o', 'x.cdx', '--codec', 'fake']) == 0
  said = capsys.readouterr().out
  with open('x.cdx', 'rb') as f:
    size = alpha.count_bytes(f.read())
  assert f'({size} of them for alpha)' in said
  for output in ('out.png', 'out.webp', 'out.tif'):
    assert cli.main(['decode', 'x.cdx', '-o', output]) == 0
    assert f' {"grey" if image.shape[2] == 2 else "RGB"} with alpha, ' in (
      capsys.readouterr().out
    )
    back = image_io.read(output, keep_alpha=True)
    assert np.array_equal(back.alpha, image[..., -1])
    colors = families.decode(families.encode(image, 'fake'))[..., :-1]
    # WebP has no gray.
    assert np.array_equal(back.pixels, np.broadcast_to(colors, back.pixels.shape))


def test_alpha_turns_with_the_orientation():
  exif = image_io.exif_bytes(6)
  Image.fromarray(with_alpha()).save('in.png', exif=exif)
  cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec', 'fake'])
  cli.main(['decode', 'x.cdx', '-o', 'out.png'])
  back = image_io.read('out.png', keep_alpha=True)
  assert np.array_equal(back.alpha, disk()[::-1].T) and back.orientation == 1


def test_16_bit_alpha_is_reduced_with_the_colors():
  import image_makers

  deep = with_alpha().astype(int) * 257
  image = image_io.read_bytes(image_makers.png(deep), 'x', keep_alpha=True)
  assert np.array_equal(image.alpha, disk())
  assert image.notes == ('16-bit samples were reduced to 8 bits',)


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp', '.ppm', '.gif'])
def test_formats_without_alpha_are_refused_before_the_work(suffix, capsys, monkeypatch):
  Image.fromarray(with_alpha()).save('in.png')
  cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec', 'fake'])
  monkeypatch.setattr(families, 'codec_for', None)
  capsys.readouterr()
  assert cli.main(['decode', 'x.cdx', '-o', f'out{suffix}']) == 2
  err = capsys.readouterr().err
  assert re.fullmatch('error: .* transparent pixels, .* write PNG, .*\n', err)
  assert not image_io.Path(f'out{suffix}').exists()


def test_baselines_and_readers_that_keep_no_alpha_refuse_it(capsys):
  Image.fromarray(with_alpha()).save('in.png')
  assert cli.main(['encode', 'in.png', '-o', 'x.webp', '--codec', 'webp']) == 2
  assert 'in.png: has transparent pixels' in capsys.readouterr().err
  with pytest.raises(CodaxError, match='in.png: has transparent pixels'):
    image_io.read('in.png')
  with pytest.raises(CodaxError, match='an image must be'):
    codax.encode(with_alpha(), 'webp')


def test_info_says_that_there_is_alpha(capsys):
  assert cli.main(['info', str(hostile.GOLDEN / 'splat_4/left.cdx')]) == 0
  out = capsys.readouterr().out
  assert '5 x 3 RGB with alpha' in out and 'alpha (12 bytes)' in out


@pytest.mark.parametrize('c', [1, 3])
def test_pillow_opens_a_file_with_its_alpha(c):
  data = families.encode(with_alpha(c=c), 'fake')
  with Image.open(io.BytesIO(data)) as im:
    assert im.mode == {1: 'LA', 3: 'RGBA'}[c]
    assert np.array_equal(np.asarray(im), families.decode(data))


def test_pillow_says_that_alpha_is_damaged():
  header, sections = bitstream.read(families.encode(with_alpha(), 'fake'), known=None)
  wrong = [
    s if s.kind != bitstream.ALPHA else Section(s.kind, b'\x09') for s in sections
  ]
  with Image.open(io.BytesIO(bitstream.write(header, wrong))) as im:
    with pytest.raises(OSError, match='section alpha'):
      im.load()

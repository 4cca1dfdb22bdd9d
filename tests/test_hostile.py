"""Hostile files and bundles: one error or an image, in bounded time and memory.

CODAX_MUTATIONS=20000 runs more mutations in the slow test than the usual 2,000.
"""

import gc
import io
import json
import os
import random
import time
import tracemalloc
import weakref

import hostile
import numpy as np
import pytest
from PIL import Image

from codax import bitstream, families, image_io
from codax import bundle as bundles
from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.vqvae import codec as vqvae_codec

MUTATIONS = int(os.environ.get('CODAX_MUTATIONS', 2000))
BUNDLE, FILES = hostile.corpus()
SMALLEST = min((f for f in FILES if len(f) > 50), key=len)


@pytest.fixture(scope='module')
def decode():
  return families.get('vqvae', model=BUNDLE).decode


def test_every_other_value_of_every_byte_and_every_cut_is_an_error(decode):
  data = SMALLEST
  for damaged in hostile.every_damage(data):
    with pytest.raises(BitstreamError):
      decode(damaged)


def test_every_flipped_bit_under_a_good_checksum_is_an_error_or_an_image():
  judge = hostile.Judge(BUNDLE)
  hostile.judge_every_flipped_bit(judge, SMALLEST)
  assert judge.errors > len(SMALLEST[:-4])


@pytest.mark.parametrize(
  'count', [500, pytest.param(MUTATIONS, marks=pytest.mark.slow)]
)
def test_mutations_are_an_error_or_an_image(count):
  judge = hostile.Judge(BUNDLE)
  hostile.judge_mutations(judge, FILES, count)
  assert judge.pictures > count / 50  # damage got through to the image
  assert judge.errors > count / 5


@pytest.mark.parametrize('payload', [b'', b'\0' * 50, b'\xff' * 50, b'\x5a' * 1000])
@pytest.mark.parametrize('profile', [0, 1])
@pytest.mark.parametrize('size', [(65535, 4096), (4096, 65535), (65535, 1), (1, 65535)])
def test_small_file_of_a_large_image_is_refused_at_once(
  decode, payload, profile, size, monkeypatch
):
  """Refused before it is decoded, allocated or compiled."""

  def compiled(*_):
    raise AssertionError('compiled a shape that the file cannot hold')

  monkeypatch.setattr(vqvae_codec, '_decode_program', compiled)
  header = bitstream.Header(1, profile, *size, 3, bundle_id=BUNDLE.id[:8])
  data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
  start = time.process_time()
  with pytest.raises(BitstreamError):
    decode(data)
  assert time.process_time() - start < hostile.SECONDS
  tracemalloc.start()
  try:
    with pytest.raises(BitstreamError):
      decode(data)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 2**27


def test_files_of_many_sizes_do_not_pile_up_programs():
  model = vqvae_codec.unpack(BUNDLE)
  programs = vqvae_codec._decode_program.programs
  limit = programs.cache_info().maxsize
  before = programs.cache_info().misses
  vqvae_codec.synthesize(model, np.zeros((1, 7, 1), np.int32), (4, 28, 3))
  vqvae_codec.synthesize(model, np.zeros((1, 7, 1), np.int32), (4, 28, 3))
  assert programs.cache_info().misses <= before + 1
  first = weakref.ref(programs('one'))
  for n in range(limit):
    programs(n)
  assert programs.cache_info().currsize == limit
  gc.collect()
  assert first() is None


def test_four_channels_are_refused(decode):
  header, sections = bitstream.read(SMALLEST)
  with pytest.raises(BitstreamError, match='channel'):
    decode(bitstream.write(header._replace(channels=4), sections))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'GIF', 'TIFF', 'BMP', 'PPM'])
def test_damaged_images_are_refused_or_read(kind, tmp_path):
  out = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
  Image.fromarray(pixels).save(out, kind)
  path, rng = tmp_path / 'image', random.Random(0)
  for _ in range(60):
    path.write_bytes(hostile.damage(out.getvalue(), rng))
    start = time.process_time()
    try:
      found = image_io.read(path).pixels
    except CodaxError as e:
      assert str(path) in str(e) and len(str(e)) < 500
    else:
      assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] in (1, 3)
    assert time.process_time() - start < hostile.SECONDS


def _safetensors(header, body=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + body


def _hostile_bundles():
  good = (hostile.GOLDEN / 'vqvae_1' / bundles.FILE_NAME).read_bytes()
  length = int.from_bytes(good[:8], 'little')
  header = json.loads(good[8 : 8 + length])
  for claim in (length - 1, length + 1, len(good) - 8, len(good), 2**63, 2**64 - 1):
    yield f'header of {claim}', claim.to_bytes(8, 'little') + good[8:]
  yield 'deep lists', _safetensors(b'[' * 200_000)
  yield 'deep objects', _safetensors(b'{"a":' * 200_000)
  yield 'many lists', _safetensors(b'[' + b'[],' * 5_000_000 + b'[]]')
  for shape, size in [
    ([2**40, 2**40], 16), ([2**62, 4], 0), ([2**62, 0], 0), ([0, 2**62], 0), ([-1], 4),
    ([1.5], 4), ([2**64], 4), ([1] * 70, 4), ([4], 2**40),
  ]:  # fmt: skip
    array = {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, size]}
    made = {'__metadata__': header['__metadata__'], 'x': array}
    yield f'shape {shape[:3]}', _safetensors(made, bytes(min(size, 64)))
  for metadata in (None, 5, [], {'format': 'codax-bundle-1', 'json': '[]'}):
    yield f'metadata {metadata}', _safetensors({'__metadata__': metadata})


def test_hostile_bundle_files_are_refused_at_once(tmp_path):
  for name, data in _hostile_bundles():
    path = tmp_path / 'b.safetensors'
    path.write_bytes(data)
    start, before = time.process_time(), hostile.peak_bytes()
    with pytest.raises(CodaxError, match=r'b\.safetensors'):
      bundles.load(path)
    assert time.process_time() - start < hostile.SECONDS, name
    assert hostile.peak_bytes() - before < 2**28, name


def test_bundle_with_a_huge_header_is_not_written(tmp_path):
  made = bundles.make('f', {'text': 'x' * bundles.MAX_HEADER}, {}, {})
  with pytest.raises(CodaxError, match='up to'):
    bundles.save(made, tmp_path / 'b.safetensors')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'name',
  ['encoder', 'encoder/Conv_0', 'encoder/Conv_0/kernel/x', 'context', 'context/embed/x',
   'prior/x', 'codebook/[5]', 'sigma2/y', '', 'encoder/'],
)  # fmt: skip
def test_arrays_in_the_place_of_others_are_refused(name):
  arrays = {**BUNDLE.arrays, name: np.zeros(3, np.float32)}
  with pytest.raises(CodaxError):
    families.get('vqvae', model=bundles.make('vqvae', BUNDLE.config, arrays, {}))


def _changed(array, rng):
  """An array of another dtype, shape or content."""
  what = rng.randrange(8)
  if what == 0:
    return array.astype(rng.choice(('bool', 'int8', 'int64', 'float16', 'float64')))
  if what < 4:
    return [array.reshape(-1), array[..., None], np.zeros((0, *array.shape))][what - 1]
  largest = np.iinfo(array.dtype).max if array.dtype.kind == 'i' else np.inf
  if what < 6:
    return np.full_like(array, rng.choice((0, largest, -largest)))
  array = array.copy()
  for _ in range(min(array.size, 3)):
    array.reshape(-1)[rng.randrange(array.size)] = rng.choice((0, 1, -1, 127, largest))
  return array


@pytest.mark.parametrize('seeds', [40, pytest.param(150, marks=pytest.mark.slow)])
def test_changed_bundles_are_refused_or_decode(seeds):
  """Bundles with a right id but wrong arrays: `CodaxError`, or a codec that works."""
  rng = random.Random(0)
  for _ in range(seeds):
    arrays = dict(BUNDLE.arrays)
    name = rng.choice(sorted(arrays))
    arrays[name] = _changed(arrays[name], rng)
    if rng.random() < 0.1:
      del arrays[name]
    made = bundles.make('vqvae', BUNDLE.config, arrays, {})
    try:
      decode = families.get('vqvae', model=made).decode
    except CodaxError:
      continue
    header, sections = bitstream.read(FILES[0])
    data = bitstream.write(header._replace(bundle_id=made.id[:8]), sections)
    try:
      assert decode(data).shape == (header.height, header.width, header.channels)
    except BitstreamError:
      pass


@pytest.mark.parametrize(
  'change',
  [
    {'hidden': 1, 'resample': 'strided', 'factor': 64}, {'hidden': 4096},
    {'encoder_blocks': 64, 'decoder_blocks': 64, 'hidden': 4096}, {'factor': True},
    {'activation': {}}, {'resample': []}, {'latent_dim': 10**30},
  ],
)  # fmt: skip
def test_configurations_that_do_not_fit_are_refused_at_once(change):
  config = {**BUNDLE.config, 'model': {**BUNDLE.config['model'], **change}}
  start = time.process_time()
  with pytest.raises(CodaxError):
    families.get('vqvae', model=bundles.make('vqvae', config, BUNDLE.arrays, {}))
  assert time.process_time() - start < hostile.SECONDS

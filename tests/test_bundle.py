"""Bundles: round trips, the id, damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codax import bundle
from codax.bitstream import BitstreamError
from codax.errors import CodaxError

DTYPES = ('bool', 'int8', 'uint8', 'int32', 'int64', 'float16', 'float32', 'float64')


def _bundle(scale=1.0):
  arrays = {
    'net/kernel': scale * np.arange(6, dtype=np.float32).reshape(2, 3),
    'table': np.array([3, 5], np.int64),
    'scalar': np.array(2, np.int32),
    'empty': np.zeros((0, 4), np.float32),
  }
  return bundle.make('toy', {'a': (1, 2), 'b': {'c': None}}, arrays, {'psnr': 0.1})


def _same(a, b):
  assert a._replace(arrays=None) == b._replace(arrays=None)
  assert list(a.arrays) == list(b.arrays)
  for name, array in a.arrays.items():
    assert array.dtype == b.arrays[name].dtype
    assert array.shape == b.arrays[name].shape
    assert array.tobytes() == b.arrays[name].tobytes()


def test_bundle_loaded_from_file_or_run_directory_is_the_same(tmp_path):
  made = _bundle()
  bundle.save(made, tmp_path / 'run' / bundle.FILE_NAME)
  _same(made, bundle.load(tmp_path / 'run'))
  _same(made, bundle.load(str(tmp_path / 'run' / bundle.FILE_NAME)))
  assert made.config == {'a': [1, 2], 'b': {'c': None}}
  assert [p.name for p in (tmp_path / 'run').iterdir()] == [bundle.FILE_NAME]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.data())
def test_every_dtype_and_shape_round_trips(tmp_path_factory, dtype, shape, data):
  seed = data.draw(st.integers(0, 99))
  raw = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
  made = bundle.make('f', {}, {'x': raw}, {})
  path = tmp_path_factory.mktemp('b') / 'x.safetensors'
  bundle.save(made, path)
  _same(made, bundle.load(path))


def test_id_depends_on_contents_and_on_nothing_else():
  made = _bundle()
  others = [
    bundle.make('toy2', made.config, made.arrays, made.metrics),
    bundle.make('toy', {**made.config, 'z': 1}, made.arrays, made.metrics),
    bundle.make('toy', made.config, made.arrays, {'psnr': 0.2}),
    _bundle(scale=2.0),
    bundle.make(
      'toy', made.config, {**made.arrays, 'table': np.array([3, 6])}, made.metrics
    ),
    bundle.make(
      'toy',
      made.config,
      {**made.arrays, 'net/kernel': made.arrays['net/kernel'].reshape(3, 2)},
      made.metrics,
    ),
  ]
  assert len({made.id, *(o.id for o in others)}) == 1 + len(others)
  backwards = dict(reversed(list(made.arrays.items())))
  big_endian = {**backwards, 'table': made.arrays['table'].astype('>i8')}
  strided = np.repeat(made.arrays['net/kernel'], 2, axis=1)[:, ::2]
  same = bundle.make(
    'toy', made.config, {**big_endian, 'net/kernel': strided}, made.metrics
  )
  assert same.id == made.id


def test_every_flipped_byte_is_noticed(tmp_path):
  path = tmp_path / 'b.safetensors'
  made = _bundle()
  bundle.save(made, path)
  good = path.read_bytes()
  for i in range(len(good)):
    damaged = bytearray(good)
    damaged[i] ^= 0x11
    path.write_bytes(damaged)
    with pytest.raises(CodaxError, match='b.safetensors'):
      bundle.load(path)
  for length in (0, 7, 8, 9, len(good) // 2, len(good) - 1):
    path.write_bytes(good[:length])
    with pytest.raises(CodaxError, match='b.safetensors'):
      bundle.load(path)


def test_bundle_that_cannot_be_loaded_is_named(tmp_path):
  with pytest.raises(CodaxError, match='nowhere'):
    bundle.load(tmp_path / 'nowhere')
  with pytest.raises(CodaxError, match='training has not finished'):
    bundle.load(tmp_path)
  with pytest.raises(CodaxError, match="'x' has dtype complex64"):
    bundle.make('f', {}, {'x': np.zeros(2, np.complex64)}, {})
  with pytest.raises(CodaxError, match='config'):
    bundle.make('f', {'x': object()}, {}, {})
  with pytest.raises(CodaxError, match='metrics'):
    bundle.make('f', {}, {}, {'x': float('nan')})


def test_check_id_of_another_bundle_names_both_ids():
  made, other = _bundle(), _bundle(scale=3.0)
  bundle.check_id(made, made.id[:8])
  bundle.check_id(made.id, made.id[:8])
  with pytest.raises(BitstreamError) as e:
    bundle.check_id(made, other.id[:8])
  assert made.id[:8].hex() in str(e.value) and other.id[:8].hex() in str(e.value)
  with pytest.raises(BitstreamError, match='names no bundle'):
    bundle.check_id(made, None)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'b.safetensors'
  bundle.save(_bundle(), path)
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('codax.files.os.fsync', full)
  with pytest.raises(OSError, match='b.safetensors'):
    bundle.save(_bundle(scale=2.0), path)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unflatten_inverts_flatten():
  tree = {
    'a': {'b': np.ones(2), 'c': [np.zeros(1), {'d': np.full((1,), 7)}]},
    'e': np.array(3),
  }
  flat = bundle.flatten(tree, 'params')
  assert sorted(flat) == [
    'params/a/b',
    'params/a/c/[0]',
    'params/a/c/[1]/d',
    'params/e',
  ]
  back = bundle.unflatten({**flat, 'other': np.ones(1)}, 'params')
  assert isinstance(back['a']['c'], list)
  np.testing.assert_array_equal(back['a']['c'][1]['d'], [7])
  np.testing.assert_array_equal(back['a']['b'], [1, 1])
  assert bundle.unflatten(bundle.flatten(tree))['e'] == 3
  with pytest.raises(ValueError, match='a/b'):
    bundle.flatten({'a/b': np.ones(1)})

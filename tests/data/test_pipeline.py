"""The pipeline: what a batch is, that it is a pure function, and that options act."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from codax.data import alias, pipeline, sources
from codax.errors import CodaxError


@pytest.fixture
def coded_folder(tmp_path):
  """Two images whose pixels say where they are: (row, column, image)."""
  for k, (h, w) in enumerate([(20, 30), (40, 12)]):
    rows, columns = np.mgrid[:h, :w]
    pixels = np.stack([rows, columns, np.full((h, w), 100 + k)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{k}.png')
  return {'name': 'folder', 'path': str(tmp_path), 'test_fraction': 0.0}


def _sampled(data, n=20, seed=0):
  p = pipeline.make(data, 0)
  sample = jax.jit(p.sample)
  keys = jax.random.split(jax.random.key(seed), n)
  return np.concatenate([np.asarray(sample(p.arrays, k)['image']) for k in keys])


def test_resident_crops_are_real_windows_of_the_images(coded_folder):
  images = _sampled(coded_folder | {'batch_size': 16, 'crop': 8, 'flip': False})
  assert images.shape == (320, 8, 8, 3) and images.dtype == np.uint8
  corner = images[:, 0, 0].astype(int)
  expected = np.stack(
    np.broadcast_arrays(
      corner[:, 0, None, None] + np.arange(8)[:, None],
      corner[:, 1, None, None] + np.arange(8),
      corner[:, 2, None, None],
    ),
    -1,
  )
  np.testing.assert_array_equal(images, expected)
  # Every offset can come, the last ones too, and nothing beyond the edge.
  for k, (h, w) in enumerate([(20, 30), (40, 12)]):
    mine = corner[corner[:, 2] == 100 + k]
    assert mine[:, 0].min() == 0 and mine[:, 0].max() == h - 8
    assert mine[:, 1].min() == 0 and mine[:, 1].max() == w - 8


def test_flip_mirrors_half_of_the_crops(coded_folder):
  images = _sampled(coded_folder | {'batch_size': 16, 'crop': 8, 'flip': True})
  step = images[:, 0, 1, 1].astype(int) - images[:, 0, 0, 1]
  assert set(step) == {-1, 1}
  assert 0.35 < (step == -1).mean() < 0.65


def _crops(data, resident, steps=40):
  if resident:
    return _sampled(data, steps)
  p = pipeline.make(data | {'max_resident_mb': 0}, 0)
  return np.concatenate([p.host_batch(step)['image'] for step in range(steps)])


@pytest.mark.parametrize('resident', [True, False])
def test_channels_are_permuted_as_often_as_asked(tmp_path, resident):
  Image.new('RGB', (8, 8), (10, 100, 200)).save(tmp_path / 'a.png')
  data = {'name': 'folder', 'path': str(tmp_path), 'test_fraction': 0.0}
  data |= {'batch_size': 20, 'crop': 4, 'permute_channels': 0.6}
  colours = _crops(data, resident)[:, 0, 0]
  assert (np.sort(colours, axis=-1) == (10, 100, 200)).all()
  orders, counts = np.unique(colours, axis=0, return_counts=True)
  share = counts / len(colours)
  same = (orders == (10, 100, 200)).all(1)
  assert len(orders) == 6
  # 0.4 are left alone, and one in six orders is the old one.
  np.testing.assert_allclose(share, np.where(same, 0.5, 0.1), atol=0.08)


@pytest.mark.parametrize('resident', [True, False])
def test_jitter_changes_contrast_and_mean_within_its_bounds(tmp_path, resident):
  pixels = np.full((8, 8, 3), 108, np.uint8)
  pixels[:, ::2] = 148
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  data = {'name': 'folder', 'path': str(tmp_path), 'test_fraction': 0.0}
  data |= {'batch_size': 20, 'crop': 8, 'flip': False, 'jitter': 0.25}
  crops = _crops(data, resident).astype(float)
  left, right = crops[:, 0, 0, 0], crops[:, 0, 1, 0]
  contrast = np.log((left - right) / 40)
  shift = ((left + right) / 2 - 128) / 64
  for moved in (contrast, shift):  # uniform in +-0.25, but for rounding to 8 bits
    assert np.abs(moved).max() < 0.25 + 0.04
    assert moved.min() < -0.2 and moved.max() > 0.2
    assert abs(moved.mean()) < 0.04


@pytest.mark.parametrize(('power', 'share'), [(0.0, 0.5), (1.0, 600 / 1080)])
def test_area_power_sets_the_frequency_of_each_image(coded_folder, power, share):
  data = coded_folder | {'batch_size': 500, 'crop': 4, 'area_power': power}
  first = (_sampled(data)[:, 0, 0, 2] == 100).mean()
  assert abs(first - share) < 4 * np.sqrt(share * (1 - share) / 10_000)


def test_alias_table_is_the_distribution():
  weights = np.array([1e-3, 5, 2, 2, 0.5, 1e3])
  keep, other = alias.make_table(weights)
  n = len(weights)
  p = keep.astype(np.float64) / n
  np.add.at(p, other, (1 - keep.astype(np.float64)) / n)
  np.testing.assert_allclose(p, weights / weights.sum(), atol=1e-7)


def test_resident_batch_inside_a_scan_is_a_function_of_its_key():
  data = {'name': 'photos', 'images': ('chelsea',), 'batch_size': 2, 'crop': 16}
  p = pipeline.make(data, 0)
  assert p.host_batch is None
  keys = jax.random.split(jax.random.key(3), 4)
  _, scanned = jax.lax.scan(lambda c, k: (c, p.sample(p.arrays, k)), None, keys)
  for k in range(4):
    one = p.sample(p.arrays, keys[k])['image']
    np.testing.assert_array_equal(one, scanned['image'][k])
  assert (scanned['image'][0] != scanned['image'][1]).any()


def test_small_images_are_padded_by_their_edge(tmp_path):
  pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  Image.fromarray(pixels).save(tmp_path / 'tiny.png')
  data = {
    'name': 'folder',
    'path': str(tmp_path),
    'test_fraction': 0.0,
    'crop': 5,
    'batch_size': 1,
    'flip': False,
  }
  expected = np.pad(pixels, ((0, 3), (0, 2), (0, 0)), mode='edge')
  p = pipeline.make(data, 0)
  batch = p.sample(p.arrays, jax.random.key(0))
  np.testing.assert_array_equal(batch['image'][0], expected)
  host = pipeline.make(data | {'max_resident_mb': 0}, 0)
  np.testing.assert_array_equal(host.host_batch(0)['image'][0], expected)


def test_shrink_is_the_mean_of_boxes():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (7, 9, 3), np.uint8)
  for f in (1, 2, 3):
    small = pipeline.shrink(image, 1 / f)
    assert small.shape == (7 // f, 9 // f, 3)
    for y, x in np.ndindex(small.shape[:2]):
      box = image[y * f : (y + 1) * f, x * f : (x + 1) * f].astype(np.float64)
      assert np.abs(small[y, x] - box.mean((0, 1))).max() <= 0.5 + 1e-6
  assert pipeline.shrink(image[:1], 0.5).shape == (1, 9, 3)


def test_scales_below_one_add_smaller_copies(coded_folder):
  base = coded_folder | {'batch_size': 64, 'crop': 4, 'flip': False}
  for extra in ({}, {'max_resident_mb': 0}):
    data = base | extra | {'scales': (1.0, 0.5), 'area_power': 0.0}
    p = pipeline.make(data, 0)
    batch = p.sample(p.arrays, jax.random.key(0)) if p.sample else p.host_batch(0)
    rows = np.asarray(batch['image'])[:, :, 0, 0].astype(int)
    step = rows[:, 1] - rows[:, 0]
    assert set(step.tolist()) == {1, 2}


def test_labels_stay_with_their_images():
  tfds = pytest.importorskip('tensorflow_datasets')
  with tfds.testing.mock_data(num_examples=6):
    data = {
      'name': 'tfds',
      'dataset': 'cifar10',
      'crop': 32,
      'batch_size': 12,
      'flip': False,
    }
    truth = {
      item['image'].tobytes(): item['label']
      for item in sources.get('tfds', 'train', dataset='cifar10')
    }
    p = pipeline.make(data, 0)
    batch = jax.jit(p.sample)(p.arrays, jax.random.key(0))
    host = pipeline.make(data | {'max_resident_mb': 0}, 0).host_batch(2)
    evaluation = pipeline.eval_batches(data, 4)
  for b in (batch, host):
    assert b['label'].dtype == np.int32
    for image, label in zip(np.asarray(b['image']), np.asarray(b['label'])):
      assert truth[image.tobytes()] == label
  assert [len(b['label']) for b in evaluation] == [4, 2]


def test_host_batches_in_any_order_are_the_same(coded_folder):
  data = coded_folder | {'batch_size': 4, 'crop': 8, 'max_resident_mb': 0}
  p = pipeline.make(data, 7)
  assert p.sample is None and p.arrays is None
  late = p.host_batch(10**6)['image']
  first = p.host_batch(0)['image']
  again = pipeline.make(data, 7)
  np.testing.assert_array_equal(again.host_batch(0)['image'], first)
  np.testing.assert_array_equal(again.host_batch(10**6)['image'], late)
  assert (first != late).any()
  assert (pipeline.make(data, 8).host_batch(0)['image'] != first).any()


def test_host_shards_make_up_the_batch(coded_folder):
  data = coded_folder | {'batch_size': 6, 'crop': 8, 'max_resident_mb': 0}
  p = pipeline.make(data, 0)
  parts = [p.host_batch(5, shard, 3)['image'] for shard in range(3)]
  np.testing.assert_array_equal(np.concatenate(parts), p.host_batch(5)['image'])
  with pytest.raises(CodaxError, match='among 4 hosts'):
    p.host_batch(0, 0, 4)


def test_host_epochs_show_every_image_once(tmp_path):
  for i in range(6):
    Image.new('RGB', (4, 4), (i, 0, 0)).save(tmp_path / f'{i}.png')
  data = {
    'name': 'folder',
    'path': str(tmp_path),
    'test_fraction': 0.0,
    'crop': 4,
    'batch_size': 3,
    'max_resident_mb': 0,
  }
  p = pipeline.make(data, 0)
  seen = [p.host_batch(step)['image'][:, 0, 0, 0] for step in range(6)]
  epochs = np.concatenate(seen).reshape(3, 6)
  assert (np.sort(epochs, axis=1) == np.arange(6)).all()
  assert (epochs[0] != epochs[1]).any() or (epochs[1] != epochs[2]).any()


def test_resident_or_not_is_decided_by_size(coded_folder):
  data = coded_folder | {'batch_size': 1, 'crop': 4}
  need = 3 * 60 * 30 / 2**20  # Rows of both images times the wider one.
  assert pipeline.make(data | {'max_resident_mb': need}, 0).sample
  assert pipeline.make(data | {'max_resident_mb': need * 0.99}, 0).host_batch
  leaves = pipeline.make({'name': 'dead_leaves', 'size': 16, 'crop': 8}, 0)
  assert leaves.host_batch(3)['image'].shape == (16, 8, 8, 3)


def test_eval_tiles_cover_each_image_once_and_in_order(tmp_path):
  data = {'name': 'photos', 'crop': 64}
  batches = pipeline.eval_batches(data, 30)
  test = sources.get('photos', 'test')
  tiles = [
    item['image'].shape[0] // 64 * (item['image'].shape[1] // 64) for item in test
  ]
  assert [len(b['image']) for b in batches[:-1]] == [30] * (len(batches) - 1)
  images = np.concatenate([b['image'] for b in batches])
  assert len(images) == sum(tiles)
  astronaut = test[test.names.index('astronaut')]['image']
  rebuilt = images[:64].reshape(8, 8, 64, 64, 3).transpose(0, 2, 1, 3, 4)
  np.testing.assert_array_equal(rebuilt.reshape(512, 512, 3), astronaut)
  again = pipeline.eval_batches(data, 30)
  np.testing.assert_array_equal(again[-1]['image'], batches[-1]['image'])


def test_eval_crops_are_limited_evenly():
  images = [b['image'] for b in pipeline.eval_batches({'crop': 64, 'eval_crops': 7}, 5)]
  assert [len(i) for i in images] == [5, 2]
  every = np.concatenate(
    [b['image'] for b in pipeline.eval_batches({'crop': 64, 'eval_crops': 0}, 64)]
  )
  chosen = np.concatenate(images)
  where = [int((every == tile).all((1, 2, 3)).argmax()) for tile in chosen]
  assert where == sorted(set(where)) and where[-1] >= 64  # Not of one image only.


def test_empty_test_split_has_no_batches(coded_folder):
  assert pipeline.eval_batches(coded_folder | {'crop': 4}, 4) == []
  with pytest.raises(CodaxError, match="no image in split 'test'"):
    pipeline.make(coded_folder, 0, split='test')


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    ({'batchsize': 3}, "'data.batchsize'; did you mean 'data.batch_size'"),
    ({'name': 'photo'}, "did you mean 'photos'"),
    ({'path': 'x'}, "'photos' does not use it"),
    ({'batch_size': 0}, 'data.batch_size is 0'),
    ({'scales': (0.7,)}, 'data.scales has 0.7'),
    ({'scales': ()}, 'data.scales is empty'),
    ({'crop': -1}, 'data.crop is -1'),
    ({'permute_channels': 1.5}, 'data.permute_channels is 1.5'),
    ({'jitter': -0.1}, 'data.jitter is -0.1'),
  ],
)
def test_bad_setting_is_named(data, message):
  with pytest.raises(CodaxError, match=message):
    pipeline.make(data, 0)


def test_settings_take_a_config_dict():
  ml_collections = pytest.importorskip('ml_collections')
  config = ml_collections.ConfigDict({'name': 'photos', 'scales': (1.0, 0.5)})
  s = pipeline.settings(config)
  assert s['scales'] == (1.0, 0.5) and s['batch_size'] == 16


def test_validation_images_are_in_no_other_split(tmp_path):
  """A share of the training images, by the hash of their names."""
  rng = np.random.default_rng(0)
  for i in range(60):
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{i}.png')
  data = {'name': 'folder', 'path': str(tmp_path), 'crop': 8, 'batch_size': 4}
  whole = pipeline.source(data, 'train').names
  data['val_fraction'] = 0.3
  parts = {s: pipeline.source(data, s).names for s in ('train', 'validation', 'test')}
  assert sorted((*parts['train'], *parts['validation'])) == sorted(whole)
  assert not set(parts['validation']) & set(parts['test'])
  assert 0.1 < len(parts['validation']) / len(whole) < 0.5
  assert len(pipeline.make(data, 0).source) == len(parts['train'])
  batches = pipeline.eval_batches(data, 7, split='validation')
  assert sum(len(b['image']) for b in batches) == len(parts['validation'])


@pytest.mark.parametrize('share', [0.02, 0.1, 0.3])
def test_validation_share_does_not_depend_on_that_of_the_test_images(tmp_path, share):
  """Both are drawn by hashes of names, which must not be the same ones."""
  pixels = io.BytesIO()
  Image.new('RGB', (1, 1)).save(pixels, 'png')
  for i in range(1000):
    (tmp_path / f'{i}.png').write_bytes(pixels.getvalue())
  data = {'name': 'folder', 'path': str(tmp_path), 'test_fraction': 0.3}
  whole = len(pipeline.source(data, 'train'))
  held = len(pipeline.source(data | {'val_fraction': share}, 'validation'))
  assert abs(held / whole - share) < 2.5 * (share * (1 - share) / whole) ** 0.5


def test_endless_images_have_no_validation_share():
  endless = {'name': 'dead_leaves', 'size': 16, 'crop': 8, 'val_fraction': 0.3}
  with pytest.raises(CodaxError, match="'dead_leaves' has no fixed images"):
    pipeline.source(endless, 'train')

"""Sources: what is in them, that splits never mix, what they say when asked wrong."""

import itertools

import numpy as np
import pytest
from PIL import Image

from codax.data import checks, dead_leaves, embedded, images, pipeline, sources
from codax.errors import CodaxError


def _write(path, value, size=(8, 9)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (value, 2 * value % 256, 7)).save(path)


def test_photos_are_the_embedded_images():
  train = sources.get('photos', 'train')
  assert train.names == embedded.PHOTOS_TRAIN
  sizes = {name: item['image'].shape for name, item in zip(train.names, train)}
  assert sizes['coffee'] == (400, 600, 3)
  assert sizes['chelsea'] == (300, 451, 3)
  assert all(item['image'].dtype == np.uint8 for item in train)
  skimage_data = pytest.importorskip('skimage.data')
  np.testing.assert_array_equal(train[0]['image'], skimage_data.coffee())


def test_held_out_photos_are_never_trained_on():
  test = sources.get('photos', 'test')
  assert 'astronaut' in test.names
  everything = embedded.PHOTOS_TRAIN + embedded.PHOTOS_OPTIONAL
  assert not set(test.names) & set(everything)
  for extra in itertools.chain([()], [(n,) for n in everything + test.names]):
    assert 'astronaut' not in sources.get('photos', 'train', images=extra).names
  astronaut = test[test.names.index('astronaut')]['image']
  for item in sources.get('photos', 'train', images=everything):
    assert item['image'].shape != astronaut.shape or (item['image'] != astronaut).any()


def test_photos_by_name_select_these_images():
  chosen = sources.get('photos', 'train', images=('ihc', 'coffee'))
  assert chosen.names == ('ihc', 'coffee')
  assert 'ihc' not in sources.get('photos', 'train').names
  with pytest.raises(CodaxError, match="'cofee'; did you mean 'coffee'"):
    sources.get('photos', 'train', images=('cofee',))


def test_source_is_a_finite_sequence():
  source = sources.get('photos', 'train', images=('chelsea',))
  assert len(source) == len(list(source)) == 1
  np.testing.assert_array_equal(source[-1]['image'], source[0]['image'])
  with pytest.raises(IndexError):
    source[1]


def test_folder_splits_by_name_and_keeps_its_split_when_it_grows(tmp_path):
  for i in range(40):
    _write(tmp_path / f'sub{i % 3}' / f'{i}.png', i)
  (tmp_path / 'notes.txt').write_text('not an image')
  get = lambda split: sources.get('folder', split, path=str(tmp_path))
  train, test = set(get('train').names), set(get('test').names)
  assert not train & test and len(train | test) == 40
  assert 1 <= len(test) <= 12
  for i in range(40, 60):
    _write(tmp_path / f'{i}.png', i)
  assert train <= set(get('train').names)
  assert test <= set(get('test').names)
  name = sorted(train)[0]
  item = get('train')[get('train').names.index(name)]
  value = int(name.split('/')[1].split('.')[0])
  assert item['image'].shape == (9, 8, 3) and item['image'][0, 0, 0] == value


def test_folder_of_two_has_one_of_each_and_fraction_zero_holds_nothing_out(tmp_path):
  for i in range(2):
    _write(tmp_path / f'{i}.png', i)
  for fraction in (1e-9, 0.999):
    kwargs = {'path': str(tmp_path), 'test_fraction': fraction}
    assert [len(sources.get('folder', s, **kwargs)) for s in sources.SPLITS] == [1, 1]
  kwargs['test_fraction'] = 0.0
  assert [len(sources.get('folder', s, **kwargs)) for s in sources.SPLITS] == [2, 0]


def test_hidden_files_are_no_images(tmp_path):
  for name in ('a.png', 'b/c.png', 'b/._c.png', '.cache/d.png', '.e.png'):
    _write(tmp_path / name, 3)
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  assert list(source.names) == ['a.png', 'b/c.png']


def test_bad_images_are_all_named_before_the_work(tmp_path):
  for name in ('a.png', 'b.png'):
    _write(tmp_path / name, 3)
  (tmp_path / 'text.png').write_text('not an image')
  Image.new('RGBA', (4, 4), (1, 2, 3, 100)).save(tmp_path / 'clear.png')
  Image.new('RGBA', (4, 4), (1, 2, 3, 255)).save(tmp_path / 'opaque.png')
  Image.new('F', (4, 4), 0.5).save(tmp_path / 'float.tif')
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  with pytest.raises(CodaxError, match='^3 images cannot be used: ') as e:
    checks.handle(list(checks.find_bad(source).values()), False, checks.warn)
  for name in ('text.png', 'clear.png', 'float.tif'):
    assert name in str(e.value)
  assert 'a.png' not in str(e.value) and '\n' not in str(e.value)
  config = {'name': 'folder', 'path': str(tmp_path)}
  (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:45])
  with pytest.raises(CodaxError, match='^4 images cannot be used: .*cut.png'):
    images.load_images({**config, 'split': 'all'})
  with pytest.raises(CodaxError, match='4 images cannot be used'):
    pipeline.make({**config, 'batch_size': 1, 'test_fraction': 0.0}, 0)


def test_folder_of_one_image_can_be_encoded(tmp_path):
  _write(tmp_path / 'a.png', 1)
  config = {'name': 'folder', 'path': str(tmp_path)}
  ((name, image),) = images.load_images({**config, 'split': 'all'})
  assert name == 'a.png' and image.shape == (9, 8, 3)
  for fraction in (0.1, 0.0):
    with pytest.raises(CodaxError, match='data.split=all'):
      images.load_images({**config, 'split': 'test', 'test_fraction': fraction})


def test_folder_makes_grey_images_rgb(tmp_path):
  Image.new('L', (4, 5), 77).save(tmp_path / 'grey.png')
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  np.testing.assert_array_equal(source[0]['image'], np.full((5, 4, 3), 77))


def test_folder_that_cannot_be_used_is_one_line(tmp_path):
  with pytest.raises(CodaxError, match='--config.data.path'):
    sources.get('folder', 'train')
  with pytest.raises(CodaxError, match='no such directory'):
    sources.get('folder', 'train', path=str(tmp_path / 'none'))
  with pytest.raises(CodaxError, match='no image'):
    sources.get('folder', 'train', path=str(tmp_path))
  _write(tmp_path / 'a.png', 1)
  with pytest.raises(CodaxError, match='one image only'):
    sources.get('folder', 'train', path=str(tmp_path))
  with pytest.raises(CodaxError, match='test_fraction'):
    sources.get('folder', 'train', path=str(tmp_path), test_fraction=1.5)
  (tmp_path / 'broken.png').write_bytes(b'\x89PNG\r\n')
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  with pytest.raises(CodaxError, match='broken.png'):
    source[source.names.index('broken.png')]


def test_tfds_reads_without_tensorflow():
  tfds = pytest.importorskip('tensorflow_datasets')
  with tfds.testing.mock_data(num_examples=5):
    train = sources.get('tfds', 'train', dataset='cifar10')
    assert len(train) == 5 and train.shape == (32, 32)
    assert train[3]['image'].shape == (32, 32, 3)
    assert train[3]['image'].dtype == np.uint8
    assert 0 <= train[3]['label'] < 10
    assert train.names[4] == 'cifar10_train_4'
    grey = sources.get('tfds', 'test', dataset='mnist')[0]['image']
    assert grey.shape == (28, 28, 3) and (grey[..., 0] == grey[..., 2]).all()


def test_missing_tfds_data_set_is_refused_with_the_command_to_make_it(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  with pytest.raises(CodaxError, match='tfds build cifar10') as e:
    sources.get('tfds', 'train', dataset='cifar10', data_dir=str(tmp_path))
  assert f'--config.data.data_dir={tmp_path}' in str(e.value)
  assert '\n' not in str(e.value)
  with pytest.raises(CodaxError, match="did you mean 'cifar10'"):
    sources.get('tfds', 'train', dataset='cifr10')
  with pytest.raises(CodaxError, match="no feature 'image'"):
    sources.get('tfds', 'train', dataset='imdb_reviews', data_dir=str(tmp_path))
  with pytest.raises(CodaxError, match='--config.data.dataset'):
    sources.get('tfds', 'train')


def test_dead_leaves_are_a_function_of_seed_and_index():
  get = lambda split, **kw: sources.get('dead_leaves', split, size=24, **kw)
  train = get('train')
  assert len(train) == 2**31 - 1 and train.shape == (24, 24)
  far = train[2**31 - 2]['image']
  assert far.shape == (24, 24, 3) and far.dtype == np.uint8
  np.testing.assert_array_equal(far, get('train')[2**31 - 2]['image'])
  assert (train[0]['image'] != train[1]['image']).any()
  assert (train[0]['image'] != get('test')[0]['image']).any()
  assert (train[0]['image'] != get('train', leaves_seed=1)[0]['image']).any()
  with pytest.raises(CodaxError, match='data.size'):
    sources.get('dead_leaves', 'train', size=0)


def test_dead_leaves_have_flat_leaves_and_edges():
  image = dead_leaves.render(0, 64).astype(int)
  step = np.abs(np.diff(image, axis=1)).sum(-1)
  # Opaque discs: mostly no change from pixel to pixel, and large ones at edges.
  assert 0.4 < (step == 0).mean() < 0.98
  assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
  ('args', 'kwargs', 'message'),
  [
    (('photo', 'train'), {}, "did you mean 'photos'"),
    (('photos', 'tests'), {}, "unknown split 'tests'; did you mean 'test'"),
    (('folder', 'train'), {'pth': 'x'}, "did you mean 'path'"),
  ],
)
def test_unknown_source_is_refused_with_the_nearest_name(args, kwargs, message):
  with pytest.raises(CodaxError, match=message):
    sources.get(*args, **kwargs)


def test_digits_are_labelled_and_split_by_their_place(monkeypatch):
  """Every fifth of the set is held out; levels 0 to 16 are stretched to 0 to 255."""
  images = np.arange(10 * 64, dtype=np.uint8).reshape(10, 8, 8)
  labels = np.arange(10) % 7
  monkeypatch.setattr(sources.embedded, 'read_digits', lambda: (images, labels))
  train, test = (sources.get('digits', split) for split in sources.SPLITS)
  assert (len(train), len(test)) == (8, 2) and test.names == ('digit_0', 'digit_5')
  np.testing.assert_array_equal(test[1]['image'][..., 1], images[5])
  assert [item['label'] for item in train] == [1, 2, 3, 4, 6, 0, 1, 2]


def test_digits_are_those_of_scikit_learn():
  datasets = pytest.importorskip('sklearn.datasets')
  wanted = datasets.load_digits()
  images, labels = sources.embedded.read_digits()
  np.testing.assert_array_equal(images, np.rint(wanted.images * 255 / 16))
  np.testing.assert_array_equal(labels, wanted.target)

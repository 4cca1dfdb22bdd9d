"""Bad images: all are named before the work, or passed over where that is asked for."""

import itertools
import warnings

import numpy as np
import pytest
from absl import logging
from PIL import Image

from codax import bitstream, image_io
from codax.data import checks, embedded, images, pipeline, preflight, sources
from codax.errors import CodaxError


def write(path, value=3, size=(8, 9)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (value, 2 * value % 256, 7)).save(path)


def cut(path):
  """Writes an image with a sound header and damaged content."""
  write(path)
  path.write_bytes(path.read_bytes()[:45])


@pytest.fixture
def folder(tmp_path):
  """Six sound images, two with bad headers, two that are cut; in other splits too."""
  top = tmp_path / 'images'
  for i in range(6):
    write(top / f'{i}.png', i)
  (top / 'text.png').write_text('not an image')
  Image.new('RGBA', (4, 4), (1, 2, 3, 100)).save(top / 'clear.png')
  cut(top / 'cut_1.png')
  cut(top / 'cut_2.png')
  return top


BAD = {'text.png', 'clear.png', 'cut_1.png', 'cut_2.png'}


def config(folder, **more):
  data = {'name': 'folder', 'path': str(folder), 'batch_size': 2, 'crop': 4}
  return {**data, 'test_fraction': 0.0, **more}


def test_list_of_reasons_ends_after_twenty():
  reasons = [f'{i}.png: bad' for i in range(25)]
  assert checks.list_reasons(reasons[:20]) == reasons[:20]
  assert checks.list_reasons(reasons) == [*reasons[:20], 'and 5 more']
  with pytest.raises(CodaxError, match='^25 images cannot be used: 0.png.*and 5 more '):
    checks.refuse(reasons, 'advice')
  with pytest.raises(CodaxError, match=r'^0.png: bad \(advice\)$'):
    checks.refuse(reasons[:1], 'advice')
  checks.refuse([], 'advice')


# --- Looking --------------------------------------------------------------------------


def test_headers_are_looked_at_in_threads_with_warnings_as_errors(tmp_path):
  """Readers silence warnings; in threads that must neither leak nor refuse an image."""
  odd = Image.new('P', (4, 4))
  for i in range(150):
    odd.save(tmp_path / f'{i}.png', transparency=bytes([255, 255]))
  (tmp_path / 'bad.png').write_text('x')
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    before = list(warnings.filters)
    found = checks.find_bad(source)
    assert warnings.filters == before
  assert [bad.image for bad in found.values()] == ['bad.png']


def test_order_of_results_is_that_of_the_items():
  items = list(range(100))
  assert list(checks.map_in_threads(lambda x: -x, items, 7)) == [-x for x in items]
  with pytest.raises(ZeroDivisionError):
    list(checks.map_in_threads(lambda x: 1 / x, items))


def test_error_of_any_reader_names_the_image():
  def load(i):
    raise RuntimeError('corrupt record')

  source = sources.Source(('cifar10_train_0',), load)
  with pytest.raises(CodaxError, match='^cifar10_train_0: corrupt record$'):
    checks.read_image(source, 0)


def test_damaged_embedded_photograph_is_named(tmp_path, monkeypatch):
  cut(tmp_path / 'astronaut.png')
  files = {'train': {}, 'test': {'astronaut': tmp_path / 'astronaut.png'}}
  monkeypatch.setattr(embedded, 'photo_files', lambda: files)
  with pytest.raises(CodaxError, match='^astronaut: .*skip_bad=True'):
    images.load_images({'name': 'photos'})
  with pytest.raises(CodaxError, match='^astronaut: '):
    pipeline.eval_batches({'name': 'photos', 'crop': 4}, 2)


def test_damaged_tfds_image_is_named_and_passed_over(monkeypatch):
  tfds = pytest.importorskip('tensorflow_datasets')
  whole = sources.as_rgb
  for encode in (False, True):
    count = itertools.count()

    def damage(pixels, count=count):
      if next(count) == 1:
        raise OSError('corrupt record')
      return whole(pixels)

    monkeypatch.setattr(sources, 'as_rgb', damage)
    data = {'name': 'tfds', 'dataset': 'cifar10', 'skip_bad': True}
    bad = []
    with tfds.testing.mock_data(num_examples=4):
      if encode:
        monkeypatch.setattr(checks.os, 'cpu_count', lambda: 1)
        found = images.load_images({**data, 'split': 'train'}, bad.append)
        names = [name for name, _ in found]
      else:
        data |= {'crop': 8, 'batch_size': 2}
        names = list(pipeline.make(data, 0, pass_over=bad.append).source.names)
    assert names == ['cifar10_train_0', 'cifar10_train_2', 'cifar10_train_3']
    assert bad == [('cifar10_train_1', 'cifar10_train_1: corrupt record')]


def test_image_larger_than_files_can_hold_is_named(tmp_path, monkeypatch):
  write(tmp_path / 'wide.png', size=(40, 3))
  write(tmp_path / 'a.png', size=(30, 3))
  limits = bitstream.DEFAULT_LIMITS._replace(max_side=30)
  monkeypatch.setattr(bitstream, 'DEFAULT_LIMITS', limits)
  data = {'name': 'folder', 'path': str(tmp_path), 'split': 'all'}
  with pytest.raises(CodaxError, match='^wide.png: 40 x 3 pixels are too many'):
    images.load_images(data)
  assert len(images.load_images({**data, 'crop': 20})) == 2  # files have less then
  training = config(tmp_path, test_fraction=1e-9)
  assert pipeline.source(training, 'test').names == ('wide.png',)
  with pytest.raises(CodaxError, match='^wide.png: 40 x 3 pixels are too many'):
    pipeline.eval_batches(training, 2)  # it would become a file at the end


# --- Training a model -----------------------------------------------------------------


@pytest.mark.parametrize('where', ['device', 'host'])
def test_training_names_all_bad_images_before_its_first_step(folder, where):
  """Cut ones too where all images are read at once; else those of bad headers."""
  data = config(folder, max_resident_mb=512 if where == 'device' else 0)
  with pytest.raises(CodaxError, match='images cannot be used: ') as e:
    pipeline.make(data, 0)
  named = {name for name in BAD if name in str(e.value)}
  assert named == (BAD if where == 'device' else {'text.png', 'clear.png'})
  assert str(e.value).endswith('(--config.data.skip_bad=True passes over bad images)')


def test_resident_training_without_bad_images_is_that_of_the_others(folder, tmp_path):
  bad = []
  found = pipeline.make(config(folder, skip_bad=True), 0, pass_over=bad.append)
  assert {one.image for one in bad} == BAD and len(bad) == 4
  for i in range(6):
    write(tmp_path / 'sound' / f'{i}.png', i)
  sound = pipeline.make(config(tmp_path / 'sound'), 0)
  assert found.source.names == sound.source.names
  assert found.source.fingerprint() == sound.source.fingerprint()
  for key, value in sound.arrays.items():
    np.testing.assert_array_equal(found.arrays[key], value)


def test_image_that_turns_out_bad_is_replaced_by_the_next_readable_one(folder):
  """A batch stays a function of seed and step, whatever was read before."""
  data, bad = config(folder, skip_bad=True, max_resident_mb=0), []
  whole = pipeline.make(data, 0, pass_over=bad.append)
  assert {one.image for one in bad} == {'text.png', 'clear.png'}
  assert len(whole.source) == 8  # the cut ones are not known yet
  batches = [whole.host_batch(step)['image'] for step in range(12)]
  assert {one.image for one in bad} == BAD and len(bad) == 4
  again = pipeline.make(data, 0, pass_over=lambda one: None)
  for step in reversed(range(12)):
    np.testing.assert_array_equal(again.host_batch(step)['image'], batches[step])
  epoch = np.concatenate(batches[:4])[:, 0, 0, 0]
  counts = np.bincount(epoch, minlength=6)
  # in order of names '5.png' comes before 'cut_1.png', and the first after the last
  assert counts.tolist() == [3, 1, 1, 1, 1, 1]


def test_image_that_turns_out_bad_without_the_option_is_named_with_advice(folder):
  for name in ('text.png', 'clear.png'):
    (folder / name).unlink()
  found = pipeline.make(config(folder, max_resident_mb=0), 0)
  with pytest.raises(CodaxError, match='cut_.*skip_bad=True.*the same command goes on'):
    for step in range(4):
      found.host_batch(step)


def test_held_out_images_are_treated_alike(folder):
  data = config(folder, test_fraction=0.999)  # all but one are held out
  with pytest.raises(CodaxError, match='images cannot be used: '):
    pipeline.eval_batches(data, 3)
  bad = []
  batches = pipeline.eval_batches({**data, 'skip_bad': True}, 3, bad.append)
  held_out = set(pipeline.source(data, 'test').names)
  assert {one.image for one in bad} == BAD & held_out
  assert sum(len(b['image']) for b in batches) == 4 * len(held_out - BAD)


def test_data_set_of_bad_images_only_is_refused_with_the_option_too(tmp_path):
  (tmp_path / 'a.png').write_text('x')
  cut(tmp_path / 'b.png')
  for data in (config(tmp_path, skip_bad=True), config(tmp_path)):
    with pytest.raises(CodaxError, match=r'b\.png: '):
      pipeline.make(data, 0)
  with pytest.raises(CodaxError, match='none of 2 can be used'):
    images.load_images(
      {'name': 'folder', 'path': str(tmp_path), 'split': 'all', 'skip_bad': True}
    )


def test_option_is_true_or_false(folder):
  with pytest.raises(CodaxError, match='data.skip_bad is 1; valid: True or False'):
    pipeline.make(config(folder, skip_bad=1), 0)


# --- Training on each image -----------------------------------------------------------


def test_images_to_encode_without_bad_ones(folder):
  data = {'name': 'folder', 'path': str(folder), 'split': 'all'}
  with pytest.raises(CodaxError, match='^4 images cannot be used: '):
    images.load_images(data)
  bad = []
  found = images.load_images({**data, 'skip_bad': True}, bad.append)
  assert [name for name, _ in found] == [f'{i}.png' for i in range(6)]
  assert {one.image for one in bad} == BAD
  for i, (_, image) in enumerate(found):
    assert (image == [i, 2 * i, 7]).all()


def test_limit_counts_images_that_can_be_used(tmp_path):
  cut(tmp_path / '0.png')
  for i in range(1, 6):
    write(tmp_path / f'{i}.png', i)
  cut(tmp_path / '9.png')
  data = {'name': 'folder', 'path': str(tmp_path), 'split': 'all', 'limit': 3}
  bad = []
  found = images.load_images({**data, 'skip_bad': True}, bad.append)
  assert [name for name, _ in found] == ['1.png', '2.png', '3.png']
  assert [one.image for one in bad] == ['0.png']  # the others are not looked at


def test_image_passed_over_is_named_in_the_log(folder, monkeypatch):
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  data = {'name': 'folder', 'path': str(folder), 'split': 'all', 'skip_bad': True}
  images.load_images(data)
  assert len(lines) == 4
  assert all(line.startswith(f'passed over: {folder}') for line in lines)


# --- Several runs ---------------------------------------------------------------------


def test_preflight_finds_the_bad_headers_of_all_splits(folder, monkeypatch):
  monkeypatch.setattr(image_io, 'read', lambda path: pytest.fail('decoded'))
  for data in (config(folder, test_fraction=0.4), {**config(folder), 'split': 'all'}):
    data = {k: v for k, v in data.items() if k != 'batch_size' or 'split' not in data}
    found = preflight.find_bad(data)
    assert {one.image for one in found} == {'text.png', 'clear.png'}
    assert preflight.find_bad({**data, 'skip_bad': True}) == []
  with pytest.raises(CodaxError, match='no such directory'):
    preflight.find_bad(config(folder / 'none'))

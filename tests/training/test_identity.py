"""The identity of data: equal for equal images, another for any change."""

import os

import numpy as np
import pytest
from PIL import Image

from codax.data import pipeline, sources
from codax.errors import CodaxError
from codax.training import identity


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / 'images'
  root.mkdir()
  for i in range(4):
    pixels = np.random.default_rng(i).integers(0, 255, (9, 8, 3), np.uint8)
    Image.fromarray(pixels).save(root / f'{i}.png')
  return root


def _describe(folder, resident=True):
  data = {'name': 'folder', 'path': str(folder), 'test_fraction': 0.3, 'crop': 8}
  data |= {'batch_size': 2, 'max_resident_mb': 10.0 if resident else 0.0}
  return identity.describe(pipeline.make(data, 0), pipeline.eval_batches(data, 2))


@pytest.mark.parametrize('resident', [True, False])
def test_added_image_is_another_data_set(folder, tmp_path, resident):
  first = _describe(folder, resident)
  identity.save(first, tmp_path)
  identity.check_same(_describe(folder, resident), tmp_path)
  Image.new('RGB', (8, 8), (9, 9, 9)).save(folder / 'new.png')
  with pytest.raises(CodaxError, match='other data: the .*; use another --workdir'):
    identity.check_same(_describe(folder, resident), tmp_path)


def test_edited_image_of_the_same_file_size_is_told_by_its_pixels(tmp_path):
  root = tmp_path / 'images'
  root.mkdir()
  for name, value in (('a', 1), ('b', 2)):
    Image.new('RGB', (8, 8), (value,) * 3).save(root / f'{name}.bmp')
  first = _describe(root)
  for name, value in (('a', 3), ('b', 4)):
    Image.new('RGB', (8, 8), (value,) * 3).save(root / f'{name}.bmp')
  second = _describe(root)
  assert first['names'] == second['names'] and first['sizes'] == second['sizes']
  assert first['content'] != second['content']
  assert first['held_out'] != second['held_out']


def test_file_edited_without_a_change_of_size_is_told_by_its_contents(folder, tmp_path):
  """Of images that are not held on the device, which nobody decodes for this."""
  first = _describe(folder, resident=False)
  assert 'files' in first and 'files' not in _describe(folder)
  identity.save(first, tmp_path)
  names = sources.folder('train', path=str(folder), test_fraction=0.3).names
  data = bytearray((folder / names[0]).read_bytes())
  data[-1] ^= 1
  (folder / names[0]).write_bytes(data)
  second = _describe(folder, resident=False)
  assert first['sizes'] == second['sizes'] and first['names'] == second['names']
  with pytest.raises(CodaxError, match='the contents of the training images changed'):
    identity.check_same(second, tmp_path)


def test_only_some_files_of_a_large_set_are_read(folder, monkeypatch):
  source = sources.folder('train', path=str(folder), test_fraction=0)
  read = []
  counted = sources.dataclasses.replace(
    source, read=lambda i: read.append(i) or source.read(i)
  )
  counted.fingerprint(contents=True)
  assert read == [0, 1, 2, 3]
  monkeypatch.setattr(sources, '_MAX_READ', 10)
  monkeypatch.setattr(sources, '_MAX_SAMPLES', 2)
  read.clear()
  counted.fingerprint(contents=True)
  assert read == [0, 2]


def test_version_of_a_tfds_set_is_part_of_its_identity(tmp_path):
  tfds = pytest.importorskip('tensorflow_datasets')
  with tfds.testing.mock_data(num_examples=3):
    found = sources.get('tfds', 'train', dataset='mnist').fingerprint()
  assert found['origin'].startswith('mnist/')
  identity.save({**found, 'held_out': ''}, tmp_path)
  with pytest.raises(CodaxError, match='the version of the data set changed'):
    identity.check_same({**found, 'origin': 'mnist/9.0.0', 'held_out': ''}, tmp_path)


def test_data_of_an_earlier_version_have_fewer_entries(folder, tmp_path):
  old = _describe(folder, resident=False)
  del old['files']
  identity.save(old, tmp_path)
  identity.check_same(_describe(folder, resident=False), tmp_path)


@pytest.mark.parametrize('text', ['{}', '[]', '', '{"images": 3}', '"x"', '[' * 9999])
def test_file_that_describes_no_data_is_damaged(tmp_path, text):
  (tmp_path / identity.FILE_NAME).write_text(text)
  with pytest.raises(CodaxError, match='data.json is damaged'):
    identity.check_same({'images': 3}, tmp_path)


def test_message_has_both_numbers_of_images(folder, tmp_path):
  identity.save(_describe(folder), tmp_path)
  names = sources.folder('train', path=str(folder), test_fraction=0.3).names
  os.remove(folder / names[0])
  with pytest.raises(
    CodaxError, match=rf'\({len(names)} there, {len(names) - 1} here\)'
  ):
    identity.check_same(_describe(folder), tmp_path)


def test_damaged_file_is_named_and_a_missing_one_passes(tmp_path):
  identity.check_same({'images': 1}, tmp_path)
  (tmp_path / identity.FILE_NAME).write_text('{"ima')
  with pytest.raises(CodaxError, match='data.json is damaged'):
    identity.check_same({'images': 1}, tmp_path)


def test_endless_source_is_described_at_once():
  out = sources.get('dead_leaves', 'train').fingerprint()
  assert out['images'] == 2**31 - 1 and out['shape'] == [128, 128]

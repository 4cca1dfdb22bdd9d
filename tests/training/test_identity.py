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

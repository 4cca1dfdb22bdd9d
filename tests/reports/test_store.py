"""Results as files: kinds, schemas, what cannot be read is one line."""

import json
import math

import pytest

from codax.errors import CodaxError
from codax.reports import store


def write(path, content):
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', 'is damaged: it is empty'),
    ('{"kind": "held_out", "sche', 'is damaged'),
    ('[1, 2]', 'is damaged: it holds no JSON object'),
    ('{}', 'holds no results'),
    ({'kind': 'held_out'}, 'holds no results'),
    ({'kind': 'held-out', 'schema': 1}, "unknown kind of results 'held-out'; did you"),
    ({'kind': 'sweep', 'schema': 2}, 'results of schema 2, .*up to 1: update codax'),
    ({'kind': 'sweep', 'schema': 'x'}, 'results of schema x'),
    ({'rows': [{'picture': 'a'}, 3]}, 'holds no results'),
  ],
)
def test_results_that_cannot_be_read_are_one_line(tmp_path, content, message):
  path = write(tmp_path / 'r.json', content)
  for read in (lambda: store.load(path), lambda: store.load_all(tmp_path)):
    with pytest.raises(CodaxError, match=message) as caught:
      read()
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_results_of_another_kind_are_refused(tmp_path):
  store.save(tmp_path / 'r.json', 'sweep', {'runs': []})
  assert store.load(tmp_path / 'r.json', 'sweep')['name'] == 'r'
  with pytest.raises(
    CodaxError, match=r"r\.json: results of kind 'sweep', not 'study'"
  ):
    store.load(tmp_path / 'r.json', 'study')
  with pytest.raises(CodaxError, match='unknown kind'):
    store.save(tmp_path / 'r.json', 'sweeps', {})


def test_saved_results_are_strict_json_with_kind_and_schema(tmp_path):
  content = {'x': math.nan, 'y': [math.inf, {'z': math.nan}], 'name': 'not kept'}
  store.save(tmp_path / 'r.json', 'study', content)
  raw = json.loads((tmp_path / 'r.json').read_text(), parse_constant=pytest.fail)
  wanted = {'x': None, 'y': ['inf', {'z': None}]}
  assert len(raw.pop('checksum').removeprefix('sha256:')) == 64
  assert raw == {'kind': 'study', 'schema': store.SCHEMA, **wanted}


def test_rows_of_schema_0_name_image_and_point(tmp_path):
  base = {'codec': 'c', 'bytes': 1, 'bpp': 0.5, 'psnr': 30.0}
  rows = [
    {'picture': 'a.png', **base},
    {'picture': 'a.png_0.004', 'image': 'a.png', 'lmbda': 0.004, **base},
    {'picture': 'a.png_0.28bpp', 'image': 'a.png', **base},
    {'picture': 'a.png_1500', 'image': 'a.png', **base},
    {'picture': 'a.png', 'point': 'q5', **base},
  ]
  write(tmp_path / 'r.json', {'command': 'x', 'commit': 'y', 'rows': rows})
  found = store.load(tmp_path / 'r.json')
  assert (found['kind'], found['schema'], found['command']) == ('held_out', 1, 'x')
  assert [row['image'] for row in found['rows']] == ['a.png'] * 5
  assert [row['point'] for row in found['rows']] == [
    'default', 'lmbda 0.004', 'bpp 0.28', 'count 1500', 'q5',
  ]  # fmt: skip
  assert all(row.items() >= base.items() for row in found['rows'])


def test_every_old_file_has_a_kind(tmp_path):
  old = {
    'sweep': {'runs': [], 'switches': [1]},
    'study': {'claims': [{'picture': 'a', 'count': 3, 'numbers': {'x': 1}, 'fits': {}}],
              'columns': {'x': 'X'}, 'command': 'python launch/some.py --crop=2'},
    'published': {'published': []},
    'decode_times': {'decoded': []},
    'step_times': {'steps_timed': 3, 'pictures': '1 of 8 x 8'},
    'train_times': {'steps_timed': 3, 'batch': '1 of 8 x 8'},
    'comparison': {'rows': [], 'means': [{'picture': 'mean of 2'}], 'missed': []},
  }  # fmt: skip
  for kind, content in old.items():
    assert store.load(write(tmp_path / f'{kind}.json', content))['kind'] == kind
  found = {result['kind']: result for result in store.load_all(tmp_path)}
  assert found['sweep']['comparison'] == 'ablation' and found['sweep']['settings'] == [
    1
  ]
  assert found['comparison']['means'] == [{'image': 'mean of 2'}]
  (image,) = found['study']['images']
  assert found['study']['study'] == 'some'
  assert image['image'] == 'a' and image['numbers'] == {'count': 3, 'x': 1}
  assert list(found['study']['columns']) == ['count', 'x']


def test_only_the_same_request_is_taken_up_again(tmp_path):
  path = write(tmp_path / 'row.json', {'seed': 3, 'asked': {'steps': 5}, 'x': 1})
  load = store.load_if_same_request
  assert load(path, tmp_path, {'seed': 3})['x'] == 1
  assert load(path, tmp_path, {'steps': 5}, 'asked')['x'] == 1
  assert load(path, tmp_path, {'other': 3}) is None
  assert load(tmp_path / 'absent.json', tmp_path, {'seed': 3}) is None
  with pytest.raises(CodaxError, match='holds a run with seed = 3, not 4'):
    load(path, tmp_path, {'seed': 4})
  assert load(write(path, '{"seed": 3'), tmp_path, {'seed': 4}) is None

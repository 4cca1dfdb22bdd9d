"""The held-out table: numbers of real files, layout, errors."""

import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from codax.codec import Codec, Encoded
from codax.errors import CodaxError
from codax.reports import held_out, measure, store
from codax.reports.measure import Row


def _codec(offset=0, images=None):
  """Stores pixels rounded to multiples of 8; decodes them wrongly by `offset`."""

  def encode(image, *, progress=None, should_stop=None):
    del progress
    coarse = np.uint8(image // 8 * 8)
    data = bytes(image.shape) + coarse.tobytes()[: image.size // 40]
    return Encoded(data, coarse, 8.0 * len(data) + 1, {})

  images = dict(images or _images())

  def decode(data):
    image = next(x for x in images.values() if bytes(x.shape) == data[:3])
    return np.uint8(image // 8 * 8 + offset)

  return Codec('toy', encode, decode)


def _images():
  ramp = np.add.outer(np.arange(30), np.arange(40)) * 3
  colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1).astype(np.uint8)
  return [('a', colour), ('sub/b', colour[:17, :23, :1])]


def _measured(codec, folder):
  found = [held_out.measure_file(codec, *image, folder) for image in _images()]
  return sum(found, [])


def test_rows_are_measured_on_files(tmp_path):
  rows = _measured(_codec(), tmp_path)
  assert [(r.image, r.codec) for r in rows] == [
    (p, c) for p in ('a', 'sub/b') for c in ('toy', 'jpeg', 'webp')
  ]
  for row, (name, image) in zip(rows[::3], _images(), strict=True):
    path = tmp_path / 'files' / f'{name}.cdx'
    assert row.bytes == path.stat().st_size == 3 + image.size // 40
    assert row.bpp == 8 * row.bytes / (image.shape[0] * image.shape[1])
    oracle = peak_signal_noise_ratio(image, np.uint8(image // 8 * 8))
    assert row.psnr == pytest.approx(oracle, abs=1e-9)
    assert row.estimated_bits == 8 * row.bytes + 1
    assert (row.height, row.width, row.channels) == image.shape
    assert row.decoded_as_encoded and row.point == measure.DEFAULT
    assert (tmp_path / 'images' / f'{name}.png').is_file()


def test_decoder_with_other_pixels_is_an_error(tmp_path):
  with pytest.raises(CodaxError, match=r'a\.cdx does not decode'):
    _measured(_codec(offset=1), tmp_path)


def test_table_of_rows_has_their_means():
  rows = [
    Row(p, c, 'default', bytes=n, bpp=n / 100, psnr=30 + n / 1000, ssim=0.5)
    for p, c, n in (('x', 'toy', 10), ('x', 'jpeg', 11), ('yy', 'toy', 21))
  ]
  assert held_out.table(rows) == (
    '| image     | codec | bytes |   bpp |  PSNR |   SSIM |\n'
    '| --------- | ----- | ----: | ----: | ----: | -----: |\n'
    '| x         | toy   |    10 | 0.100 | 30.01 | 0.5000 |\n'
    '| x         | jpeg  |    11 | 0.110 | 30.01 | 0.5000 |\n'
    '| yy        | toy   |    21 | 0.210 | 30.02 | 0.5000 |\n'
    '| mean of 2 | toy   |    16 | 0.155 | 30.02 | 0.5000 |\n'
    '| mean of 1 | jpeg  |    11 | 0.110 | 30.01 | 0.5000 |\n'
  )
  assert 'mean of' not in held_out.table(rows[:2])


def test_results_of_tiny_images_are_strict_json(tmp_path):
  images = [('a', _images()[0][1][:9])]  # 9 pixels high: no SSIM
  rows = held_out.measure_file(_codec(images=images), *images[0], tmp_path)
  assert np.isnan(rows[0].ssim)
  rows[0] = rows[0]._replace(psnr=float('inf'))
  text = held_out.save(tmp_path, rows, command='run', seed=0, metrics={})

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  json.loads((tmp_path / held_out.RESULTS).read_text(), parse_constant=refuse)
  found = held_out.load(tmp_path)['rows']
  np.testing.assert_equal(found, rows)
  assert held_out.table(found) == text


def test_saved_results_have_command_and_versions(tmp_path):
  rows = _measured(_codec(), tmp_path)
  metrics = {'loss': 0.5, 'psnr': float('inf')}
  text = held_out.save(tmp_path, rows, command='run it', seed=4, metrics=metrics)
  assert (tmp_path / held_out.TABLE).read_text() == text == held_out.table(rows)
  found = held_out.load(tmp_path)
  np.testing.assert_equal(found['rows'], rows)
  assert found['command'] == 'run it' and found['seed'] == 4
  assert found['metrics'] == {'loss': 0.5, 'psnr': 'inf'}
  assert found['versions']['jax'] and found['hardware']['cores'] >= 1
  raw = (tmp_path / held_out.RESULTS).read_text()
  (tmp_path / held_out.RESULTS).write_text(raw[: len(raw) // 2])
  assert held_out.load(tmp_path) is None
  for content in ({'rows': 3}, {'kind': 'held_out', 'schema': 1}, [], {}):
    (tmp_path / held_out.RESULTS).write_text(json.dumps(content))
    assert held_out.load(tmp_path) is None
  assert held_out.load(tmp_path / 'nowhere') is None


def test_training_of_a_run_has_the_seconds_of_all_sessions(tmp_path):
  """Each session counts its own seconds; of each the last line tells."""
  assert held_out.load_training(tmp_path) is None
  rows = _measured(_codec(), tmp_path)
  held_out.save(tmp_path, rows, command='c', seed=7, metrics={})
  lines = [(1.0, 10.0), (1.0, 25.0), (2.0, 4.0)]
  text = ''.join(f'{{"step": 1, "session": {s}, "seconds": {t}}}\n' for s, t in lines)
  (tmp_path / 'timing.jsonl').write_text(text)
  found = held_out.load_training(tmp_path)
  assert (found['command'], found['seed'], found['seconds']) == ('c', 7, 29.0)
  assert found['hardware']['cores'] >= 1 and 'rows' not in found
  assert held_out.load_training(tmp_path / 'results.json') is None


def test_results_of_a_newer_codax_are_not_made_again_silently(tmp_path):
  path = tmp_path / held_out.RESULTS
  path.write_text(json.dumps({'kind': 'held_out', 'schema': 99, 'rows': []}))
  with pytest.raises(CodaxError, match=r'results\.json: results of schema 99'):
    held_out.load(tmp_path)


def test_files_of_fits_name_image_and_point(tmp_path):
  """Facts of a fit are figures of its own row; baselines have their quality."""

  codec, (_, image) = _codec(), _images()[0]
  facts = {'image': 'a.png', 'lmbda': 0.004, 'share': 0.25}
  rows = held_out.measure_file(codec, 'a.png_0.004', image, tmp_path, facts)
  assert (tmp_path / 'files' / 'a.png_0.004.cdx').is_file()
  assert {(r.image, r.point) for r in rows} == {('a.png', 'lmbda 0.004')}
  assert rows[0].extras == {'lmbda': 0.004, 'share': 0.25}
  assert 1 <= rows[1].extras['quality'] <= 100 and rows[1].codec == 'jpeg'
  held_out.save(tmp_path, rows, command='run', seed=0, metrics={})
  assert store.load(tmp_path / held_out.RESULTS)['rows'][0]['share'] == 0.25
  np.testing.assert_equal(held_out.load(tmp_path)['rows'], rows)


def test_run_without_files_is_a_table_of_its_metrics(tmp_path):
  metrics = {'loss': 0.123456, 'accuracy': 97}
  text = held_out.save(tmp_path, [], command='run', seed=0, metrics=metrics)
  assert text == held_out.summary([], held_out.load(tmp_path)['metrics'])
  assert text.splitlines()[2:] == ['| accuracy | 97 |', '| loss | 0.1235 |']

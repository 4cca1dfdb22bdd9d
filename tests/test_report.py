"""The held-out table: numbers of real files, layout, errors."""

import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from codax import report
from codax.codec import Codec, Encoded
from codax.errors import CodaxError


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


def test_rows_are_measured_on_files(tmp_path):
  seen = []
  rows = report.held_out(_codec(), _images(), tmp_path, seen.append)
  assert seen == ['a', 'sub/b']
  assert [(r['picture'], r['codec']) for r in rows] == [
    (p, c) for p in ('a', 'sub/b') for c in ('toy', 'jpeg', 'webp')
  ]
  for row, (name, image) in zip(rows[::3], _images(), strict=True):
    path = tmp_path / 'files' / f'{name}.cdx'
    assert row['bytes'] == path.stat().st_size == 3 + image.size // 40
    assert row['bpp'] == 8 * row['bytes'] / (image.shape[0] * image.shape[1])
    oracle = peak_signal_noise_ratio(image, np.uint8(image // 8 * 8))
    assert row['psnr'] == pytest.approx(oracle, abs=1e-9)
    assert row['estimated_bits'] == 8 * row['bytes'] + 1
    assert (tmp_path / 'images' / f'{name}.png').is_file()


def test_wrong_decoder_is_caught(tmp_path):
  with pytest.raises(CodaxError, match=r'a\.cdx does not decode'):
    report.held_out(_codec(offset=1), _images(), tmp_path)


def test_table_and_means():
  rows = [
    dict(picture=p, codec=c, bytes=n, bpp=n / 100, psnr=30 + n / 1000, ssim=0.5)
    for p, c, n in (('x', 'toy', 10), ('x', 'jpeg', 11), ('yy', 'toy', 21))
  ]
  assert report.table(rows) == (
    '| picture | codec | bytes |   bpp |  PSNR |   SSIM |\n'
    '| ------- | ----- | ----: | ----: | ----: | -----: |\n'
    '| x       | toy   |    10 | 0.100 | 30.01 | 0.5000 |\n'
    '| x       | jpeg  |    11 | 0.110 | 30.01 | 0.5000 |\n'
    '| yy      | toy   |    21 | 0.210 | 30.02 | 0.5000 |\n'
    '| (mean)  | toy   |    16 | 0.155 | 30.02 | 0.5000 |\n'
    '| (mean)  | jpeg  |    11 | 0.110 | 30.01 | 0.5000 |\n'
  )
  assert '(mean)' not in report.table(rows[:2])


def test_results_of_tiny_pictures_are_strict_json(tmp_path):
  images = [('a', _images()[0][1][:9])]  # 9 pixels high: no SSIM
  rows = report.held_out(_codec(images=images), images, tmp_path)
  assert np.isnan(rows[0]['ssim'])
  rows[0]['psnr'] = float('inf')
  text = report.save(tmp_path, rows, command='run', seed=0, metrics={})

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  json.loads((tmp_path / report.RESULTS).read_text(), parse_constant=refuse)
  found = report.load(tmp_path)['rows']
  np.testing.assert_equal(found, rows)
  assert report.table(found) == text


def test_saved_results_say_where_they_come_from(tmp_path):
  rows = report.held_out(_codec(), _images(), tmp_path)
  metrics = {'loss': 0.5, 'psnr': float('inf')}
  text = report.save(tmp_path, rows, command='run it', seed=4, metrics=metrics)
  assert (tmp_path / report.TABLE).read_text() == text == report.table(rows)
  found = report.load(tmp_path)
  assert found['rows'] == rows and found['command'] == 'run it' and found['seed'] == 4
  assert found['metrics'] == {'loss': 0.5, 'psnr': 'inf'}
  assert found['versions']['jax'] and found['hardware']['cores'] >= 1
  raw = (tmp_path / report.RESULTS).read_text()
  (tmp_path / report.RESULTS).write_text(raw[: len(raw) // 2])
  assert report.load(tmp_path) is None
  (tmp_path / report.RESULTS).write_text(json.dumps({'rows': 3}))
  assert report.load(tmp_path) is None
  assert report.load(tmp_path / 'nowhere') is None

"""Rows and means: numbers against their definitions."""

import json
import math

import numpy as np
import pytest

from codax import errors
from codax.codec import Codec, Encoded
from codax.metrics import distortion
from codax.reports import measure
from codax.reports.measure import Row


def codec(error=0, shape=None, raises=None):
  def encode(image, *, progress=None, should_stop=None):
    if raises is not None:
      raise raises('no')
    return Encoded(image.tobytes()[:100], image, 790.0, {})

  def decode(data):
    return np.full(shape, data[0] + error, np.uint8)

  return Codec('toy', encode, decode)


def test_a_row_is_of_the_decoded_file():
  image = np.full((20, 30, 3), 100, np.uint8)
  row = measure.measure(codec(5, (20, 30, 3)), image, 'a.png', 'q5', label='toy:run')
  assert (row.image, row.codec, row.point) == ('a.png', 'toy:run', 'q5')
  assert (row.height, row.width, row.channels, row.bytes) == (20, 30, 3, 100)
  assert row.bpp == 800 / 600 and row.mse == 25 and row.estimated_bits == 790
  assert row.psnr == pytest.approx(20 * math.log10(255 / 5))
  assert row.ssim < 1 and math.isnan(row.ms_ssim) and not row.decoded_as_encoded
  assert row.encode_s >= 0 and row.decode_s >= 0
  equal = measure.measure(codec(0, (20, 30, 3)), image, 'a.png')
  assert (
    equal.decoded_as_encoded and equal.psnr == math.inf and equal.point == 'default'
  )


def test_grey_that_comes_back_as_color_is_compared_as_grey():
  image = np.full((20, 30, 1), 100, np.uint8)
  row = measure.measure(codec(5, (20, 30, 3)), image, 'a.png')
  assert row.channels == 1 and row.mse == 25


def test_errors_name_image_and_codec():
  image = np.zeros((20, 30, 3), np.uint8)
  for kind in (errors.OutOfReach, errors.CodaxError):
    with pytest.raises(kind, match='^a.png with x: no'):
      measure.measure(codec(raises=kind), image, 'a.png', label='x')
  with pytest.raises(
    errors.CodaxError, match=r'a.png: toy decodes to shape \(9, 9, 3\)'
  ):
    measure.measure(codec(shape=(9, 9, 3)), image, 'a.png')


def row(psnr, size=(10, 10, 3), **more):
  mse = 255**2 * 10 ** (-psnr / 10)
  fields = {'image': 'a', 'codec': 'c', 'point': 'p', 'bytes': 100, 'bpp': 1.0}
  height, width, channels = size
  shape = {'height': height, 'width': width, 'channels': channels}
  return Row(**{**fields, 'psnr': psnr, 'mse': mse, **shape, **more})


def test_a_mean_has_psnr_by_both_conventions():
  rows = [row(30.0), row(40.0, (20, 10, 3), bytes=200, bpp=2.0)]
  mean = measure.mean(rows)
  assert (mean.image, mean.images, mean.bytes, mean.bpp) == ('mean of 2', 2, 150, 1.5)
  assert mean.psnr == pytest.approx(35)
  pooled = (rows[0].mse + 2 * rows[1].mse) / 3  # the second has twice the samples
  assert mean.psnr_pooled == pytest.approx(distortion.psnr_of_mse(pooled))
  with pytest.raises(errors.CodaxError, match='no row'):
    measure.mean([])


def test_old_rows_without_shape_and_mse_have_the_same_mean():
  rows = [row(30.0, bpp=8.0), row(40.0, (20, 10, 3), bpp=4.0)]
  unknown = {'height': None, 'width': None, 'channels': None, 'mse': math.nan}
  old = [one._replace(**unknown) for one in rows]  # 100 bytes: 100 and 200 pixels
  assert measure.mean(old).psnr_pooled == pytest.approx(measure.mean(rows).psnr_pooled)


def test_means_are_over_what_is_known():
  rows = [row(30.0, ssim=0.5, extras={'x': 1, 'y': 2, 'z': 'text', 'flag': True})]
  rows += [row(math.inf, ssim=math.nan, extras={'x': 4, 'z': 'text', 'flag': True})]
  mean = measure.mean(rows)
  assert mean.ssim == 0.5 and mean.psnr == math.inf and math.isnan(mean.ms_ssim)
  assert mean.extras == {'x': 2.5}


def test_rows_survive_json():
  first = row(math.inf, ssim=math.nan, extras={'x': [1, {'y': 2}]})
  content = json.loads(json.dumps(measure.to_json(first)).replace('Infinity', '"inf"'))
  assert content['ssim'] is None and content['x'] == [1, {'y': 2}]
  np.testing.assert_equal(measure.from_json(content), first)
  for key in ('image', 'codec', 'bytes', 'bpp', 'psnr'):
    with pytest.raises(KeyError):
      measure.from_json({k: v for k, v in content.items() if k != key})


def test_rows_are_grouped_in_order():
  rows = [row(1.0), row(2.0, point='q'), row(3.0, image='b'), row(4.0, codec='d')]
  assert list(measure.by_point(rows)) == [('c', 'p'), ('c', 'q'), ('d', 'p')]
  assert list(measure.by_image(rows)) == [('c', 'a'), ('c', 'b'), ('d', 'a')]

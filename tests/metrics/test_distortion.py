"""Distortion against scikit-image and against slow NumPy in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import sliding_window_view
from skimage import metrics as reference

from codax.errors import CodaxError
from codax.metrics import distortion

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)
PAIRS = SHAPES.flatmap(
  lambda s: st.tuples(hnp.arrays(np.uint8, s), hnp.arrays(np.uint8, s))
)


def _noisy(shape, amount, seed=0):
  """A smooth image and a noisy copy of it."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[: shape[0], : shape[1]]
  smooth = 128 + 90 * np.sin(x / 9.0) * np.cos(y / 7.0)
  a = np.clip(smooth[..., None] + 20 * np.arange(shape[2]), 0, 255)
  b = np.clip(a + amount * rng.standard_normal(shape), 0, 255)
  return np.rint(a).astype(np.uint8), np.rint(b).astype(np.uint8)


@given(PAIRS)
def test_mse_and_psnr_are_scikit_images(pair):
  a, b = pair
  assert distortion.mse(a, b) == pytest.approx(reference.mean_squared_error(a, b))
  if (a == b).all():
    assert distortion.psnr(a, b) == math.inf
  else:
    expected = reference.peak_signal_noise_ratio(a, b, data_range=255)
    assert distortion.psnr(a, b) == pytest.approx(expected, abs=1e-9)


def test_mse_of_extremes_is_exact():
  black, white = (
    np.zeros((500, 700, 3), np.uint8),
    np.full((500, 700, 3), 255, np.uint8),
  )
  assert distortion.mse(black, white) == distortion.mse(white, black) == 255**2
  assert distortion.psnr(black, white) == 0


def test_summary_tells_the_two_means_apart():
  result = distortion.summarize([1.0, 100.0])
  psnr = lambda m: 10 * math.log10(255**2 / m)
  assert result.mean == pytest.approx((psnr(1) + psnr(100)) / 2)
  assert result.pooled == pytest.approx(psnr(50.5))
  weighted = distortion.summarize([1.0, 100.0], [3, 1])
  assert weighted.pooled == pytest.approx(psnr(103 / 4))
  assert weighted.mean == result.mean
  assert all(math.isnan(x) for x in distortion.summarize([]))


@pytest.mark.parametrize('channels', [1, 3])
def test_ssim_is_the_window_formula(channels):
  a, b = _noisy((17, 14, channels), 15)
  k = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
  k = np.outer(k, k) / k.sum() ** 2
  total = []
  for c in range(channels):
    wa = sliding_window_view(a[..., c].astype(np.float64), (11, 11))
    wb = sliding_window_view(b[..., c].astype(np.float64), (11, 11))
    mean = lambda w: (w * k).sum((2, 3))
    ma, mb = mean(wa), mean(wb)
    va, vb, cov = mean(wa**2) - ma**2, mean(wb**2) - mb**2, mean(wa * wb) - ma * mb
    c1, c2 = 2.55**2, 7.65**2
    total.append(
      (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    )
  assert distortion.ssim(a, b) == pytest.approx(np.mean(total), abs=1e-12)


def test_ms_ssim_of_one_scale_is_ssim():
  a, b = _noisy((40, 31, 3), 10)
  assert distortion.ms_ssim(a, b, weights=(1.0,)) == pytest.approx(
    distortion.ssim(a, b), abs=1e-12
  )


def _slow_ms_ssim(a, b):
  """MS-SSIM of one channel, term by term with 2-D windows, in float64."""
  k = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
  k = np.outer(k, k) / k.sum() ** 2
  a, b = a.astype(np.float64), b.astype(np.float64)
  result = 1.0
  weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
  for scale, weight in enumerate(weights):
    mean = lambda x: np.einsum('ijkl,kl', sliding_window_view(x, (11, 11)), k)
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    term = (2 * cov + 7.65**2) / (va + vb + 7.65**2)
    if scale == 4:
      term = term * (2 * ma * mb + 2.55**2) / (ma**2 + mb**2 + 2.55**2)
    result *= max(term.mean(), 0) ** weight
    halves = []
    for x in (a, b):
      rows = np.minimum(np.arange(2 * math.ceil(x.shape[0] / 2)), x.shape[0] - 1)
      columns = np.minimum(np.arange(2 * math.ceil(x.shape[1] / 2)), x.shape[1] - 1)
      x = x[rows][:, columns]
      halves.append(x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3)))
    a, b = halves
  return result


def test_ms_ssim_is_the_slow_oracle():
  a, b = _noisy((165, 178, 3), 25)
  expected = np.mean([_slow_ms_ssim(a[..., c], b[..., c]) for c in range(3)])
  assert distortion.ms_ssim(a, b) == pytest.approx(expected, abs=1e-10)
  assert distortion.ms_ssim(a[..., 0], b[..., 0]) == pytest.approx(
    _slow_ms_ssim(a[..., 0], b[..., 0]), abs=1e-10
  )


def test_similarity_is_1_for_equal_and_falls_with_noise():
  a, _ = _noisy((170, 170, 1), 0)
  values = [_noisy((170, 170, 1), amount)[1] for amount in (0, 5, 20, 60)]
  for metric in (distortion.ssim, distortion.ms_ssim):
    scores = [metric(a, b) for b in values]
    assert scores[0] == pytest.approx(1, abs=1e-12)
    assert scores == sorted(scores, reverse=True) and scores[-1] < 0.9


def test_ms_ssim_of_negative_structure_is_zero():
  a, _ = _noisy((161, 161, 1), 0)
  assert distortion.ms_ssim(a, 255 - a) == 0.0


def test_small_images_have_no_similarity():
  for size, ssim_known, ms_known in [
    (10, False, False),
    (11, True, False),
    (160, True, False),
    (161, True, True),
  ]:
    a = np.full((size, 200, 3), 9, np.uint8)
    assert math.isnan(distortion.ssim(a, a)) is not ssim_known
    assert math.isnan(distortion.ms_ssim(a, a)) is not ms_known


def test_decibels_of_known_similarities():
  assert distortion.decibels(0.99) == pytest.approx(20)
  assert distortion.decibels(1.0) == math.inf


def test_to_uint8_clamps_and_rounds():
  x = np.array([-3.0, 0.49, 0.51, 1.5, 2.5, 254.6, 300.0])
  assert distortion.to_uint8(x).tolist() == [0, 0, 1, 2, 2, 255, 255]
  with pytest.raises(CodaxError, match='NaN'):
    distortion.to_uint8(np.array([np.nan]))


def test_images_that_cannot_be_compared_are_refused():
  a = np.zeros((4, 4, 3), np.uint8)
  for metric in (distortion.mse, distortion.ssim, distortion.ms_ssim):
    with pytest.raises(CodaxError, match='shapes'):
      metric(a, a[:3])
    with pytest.raises(CodaxError, match='uint8'):
      metric(a, a.astype(np.float32))


def test_psnr_of_one_color_is_of_the_best_one():
  image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
  best = distortion.psnr_of_one_color(image)
  flat = np.empty_like(image)
  for c in range(3):
    errors = (image[..., c].astype(int) - np.arange(256)[:, None, None]) ** 2
    flat[..., c] = errors.sum((1, 2)).argmin()
  assert best == distortion.psnr(image, flat)
  assert distortion.psnr_of_one_color(flat) == np.inf

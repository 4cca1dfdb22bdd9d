"""Rate: published curves, closed forms, and conventions of others."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax.errors import CodaxError
from codax.metrics import distortion, rate

# Kodak means published by CompressAI (VTM, JPEG) and by Cool-Chic 5.0: (bpp, dB).
VTM = [
  (0.048245, 26.1448),
  (0.112495, 28.493),
  (0.245817, 31.1999),
  (0.490545, 34.2615),
  (0.87481, 37.4198),
  (1.43085, 40.4244),
  (2.324607, 43.5058),
  (3.632609, 46.5918),
]
JPEG = [
  (0.221153, 23.7799),
  (0.326614, 26.5772),
  (0.423126, 28.0422),
  (0.508386, 29.0418),
  (0.587866, 29.7847),
  (0.660127, 30.3783),
  (0.728946, 30.9032),
  (0.786027, 31.3078),
  (0.849719, 31.7048),
  (0.906001, 32.0587),
  (0.96438, 32.3993),
  (1.037212, 32.7899),
  (1.127396, 33.2347),
  (1.239846, 33.7926),
  (1.368827, 34.3943),
  (1.571807, 35.239),
  (1.858816, 36.3289),
  (2.350199, 37.9121),
  (3.40134, 40.5567),
]
COOL_CHIC_5 = [
  (0.083855, 27.4353),
  (0.218562, 30.8587),
  (0.4819, 34.521),
  (0.759425, 37.2474),
  (1.357134, 41.1675),
]


def _bd(anchor, test, **kwargs):
  return rate.bd_rate(*zip(*anchor), *zip(*test), **kwargs)


@pytest.mark.parametrize(
  ('curve', 'percent'), [(JPEG, 208.5), (COOL_CHIC_5, -6.6), (VTM, 0.0)]
)
@pytest.mark.parametrize('method', ['pchip', 'akima'])
def test_bd_rate_of_published_curves_is_as_published(curve, percent, method):
  assert _bd(VTM, curve, method=method) == pytest.approx(percent, abs=0.05)
  backwards = _bd(VTM, curve[::-1], method=method)  # Order is no matter.
  assert backwards == pytest.approx(percent, abs=0.05)


@given(st.floats(0.2, 5))
def test_bd_rate_of_a_scaled_curve_is_the_scale(factor):
  test = [(r * factor, p) for r, p in VTM]
  assert _bd(VTM, test) == pytest.approx(100 * (factor - 1), abs=1e-6)
  assert _bd(test, VTM) == pytest.approx(100 * (1 / factor - 1), abs=1e-6)


def test_bd_rate_ignores_dominated_points():
  worse = COOL_CHIC_5 + [(0.5, 30.0), (0.4819, 34.0), (2.0, 41.0)]
  assert _bd(VTM, worse) == _bd(VTM, COOL_CHIC_5)
  rates, psnrs = rate.pareto([3, 1, 2, 2], [9, 5, 4, 6])
  assert rates.tolist() == [1, 2, 3] and psnrs.tolist() == [5, 6, 9]
  assert rate.pareto([], [])[0].size == 0


def test_curves_that_share_no_psnr_have_no_bd_rate():
  low, high = [(i + 1, 20 + i) for i in range(4)], [(i + 1, 30 + i) for i in range(4)]
  assert math.isnan(_bd(low, high))
  assert rate.overlap([20, 23], [30, 33]) == 0
  assert rate.overlap([20, 24], [22, 28]) == pytest.approx(2 / 8)
  assert rate.overlap([20, 24], [20, 24]) == 1


@pytest.mark.parametrize(
  ('test', 'kwargs', 'message'),
  [
    (VTM[:3], {}, 'needs 4 rising points'),
    (VTM, {'method': 'pchipp'}, "did you mean 'pchip'"),
    ([(0.0, 30.0), *VTM], {}, 'positive rates'),
    ([(0.1, math.inf), *VTM], {}, 'finite PSNR'),
  ],
)
def test_points_that_form_no_curve_are_refused(test, kwargs, message):
  with pytest.raises(CodaxError, match=message):
    _bd(VTM, test, **kwargs)


def test_bits_per_pixel_count_the_whole_file():
  assert rate.bpp(49152, 512, 768) == 1
  with pytest.raises(CodaxError):
    rate.bpp(1, 0, 5)
  assert rate.nominal_bpp(64, 512, 32 * 32) == 0.5625
  assert rate.bpp_from_bits_per_dim(3.5) == 10.5
  assert rate.bpp_from_nats(1000 * math.log(2), 500) == pytest.approx(2)


def test_psnr_of_other_ranges_is_the_same_image():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 256, (2, 9, 9, 3), np.uint8)
  x, y = a / 127.5 - 1, b / 127.5 - 1  # [-1, 1]: range 2.
  mse = ((x - y) ** 2).mean()
  ours = distortion.psnr(a, b)
  assert rate.psnr_from_mse(mse, 2.0) == pytest.approx(ours)
  assert rate.psnr_from_range(10 * np.log10(1 / mse), 1, 2) == pytest.approx(ours)
  assert rate.psnr_from_mse(0.0, 2.0) == math.inf


def test_rate_at_is_linear_in_log_rate_between_undominated_points():
  rates, psnrs = [0.4, 0.1, 0.3], [32.0, 30.0, 29.0]  # the last is beaten by the second
  assert rate.rate_at(rates, psnrs, 30.0) == pytest.approx(0.1)
  assert rate.rate_at(rates, psnrs, 31.0) == pytest.approx(0.2)  # geometric mean
  assert rate.rate_at(rates, psnrs, 31.5) == pytest.approx(0.1 * 4**0.75)
  assert rate.rate_at(rates, psnrs, 32.0) == pytest.approx(0.4)
  assert math.isnan(rate.rate_at(rates, psnrs, 29.9))
  assert math.isnan(rate.rate_at(rates, psnrs, 32.1))
  assert math.isnan(rate.rate_at([], [], 32.1))

"""Integer Laplace tables against SciPy, and what their grids cost."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from codax.entropy import laplace, tables
from codax.errors import CodaxError

UNIT = 2.0**-tables.PRECISION


def scale_of(level):
  return 2.0 ** (level / laplace.SCALE_STEPS + laplace.MIN_LOG2_SCALE)


def oracle(level, mean, low, high):
  """float64 [n, high - low + 1], tails given to the ends."""
  edges = np.arange(low, high)[None] + 0.5
  loc = np.clip(mean, low * 32, high * 32)[:, None] / 32
  cdf = scipy.stats.laplace.cdf(edges, loc, scale_of(level)[:, None])
  ones = np.ones((len(level), 1))
  return np.diff(np.concatenate([0 * ones, cdf, ones], 1), axis=1)


@hypothesis.given(
  low=st.integers(-40, 0),
  high=st.integers(0, 40),
  seed=st.integers(0, 2**16),
)
def test_freqs_equal_the_laplace_distribution(low, high, seed):
  rng = np.random.default_rng(seed)
  level = rng.integers(0, laplace.LEVELS, 50)
  mean = rng.integers(-50 * 32, 50 * 32, 50)
  table = laplace.make(high - low + int(rng.integers(0, 3)))
  found = laplace.freqs(table, level, mean, low, high)
  tables.check_freqs(found)
  wanted = oracle(level, mean, low, high)
  # 2**-16 in an exponent of up to some 40 scales, and one unit for every symbol
  np.testing.assert_allclose(found * UNIT, wanted, atol=1e-4 + (high - low + 1) * UNIT)


def test_cdf_rows_never_fall():
  cdf = laplace.make(63).cdf
  assert cdf.shape == (laplace.LEVELS << laplace.MEAN_FRAC, 128)
  assert (np.diff(cdf) >= 0).all() and cdf.min() >= 0 and cdf.max() <= 2**30


def test_probabilities_of_very_unlikely_symbols_are_never_zero():
  table = laplace.make(510)
  found = laplace.freqs(table, np.array([0]), np.array([0]), -255, 255)
  assert found.min() == 1
  assert found[0, 255] >= 2**24 - 512


def test_grids_of_mean_and_scale_cost_little():
  """Exact means and scales against the nearest ones on the grids."""
  rng = np.random.default_rng(0)
  n = 4000
  log2_scale = rng.uniform(-2, 4, n)
  mean = rng.uniform(-3, 3, n)
  symbols = np.arange(-200, 201)[None]
  exact = np.diff(
    scipy.stats.laplace.cdf(
      np.arange(-200, 202)[None] - 0.5, mean[:, None], 2.0 ** log2_scale[:, None]
    ),
    axis=1,
  )
  exact /= exact.sum(1, keepdims=True)
  level = np.rint((log2_scale - laplace.MIN_LOG2_SCALE) * laplace.SCALE_STEPS)
  found = laplace.freqs(
    laplace.make(400), level.astype(int), np.rint(mean * 32).astype(int), -200, 200
  )
  assert found.shape == exact.shape == (n, symbols.size)
  divergence = (exact * np.log2(np.maximum(exact, 1e-300) / (found * UNIT))).sum(1)
  assert 0 < divergence.mean() < 1e-3


@pytest.mark.parametrize('reach', [-1, laplace.MAX_RANGE])
def test_reach_out_of_range_is_refused(reach):
  with pytest.raises(CodaxError, match='alphabet'):
    laplace.make(reach)


def test_alphabet_beyond_the_table_is_refused():
  with pytest.raises(CodaxError, match='reach'):
    laplace.freqs(laplace.make(3), np.array([0]), np.array([0]), -3, 3)

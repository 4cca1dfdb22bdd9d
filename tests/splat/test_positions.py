"""Sets of points to bits and back."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from codax.entropy import range_coder, tables
from codax.splat import positions


def coded(counts):
  encoder = range_coder.Encoder()
  bits = positions.put(encoder, counts)
  data = encoder.finish()
  found = positions.get(range_coder.Decoder(data), int(counts.sum()), *counts.shape)
  return data, bits, found


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 300), st.integers(0, 9))
def test_round_trip(height, width, points, seed):
  rng = np.random.default_rng(seed)
  counts = np.zeros((height, width), np.int64)
  where = rng.integers(0, (height, width), (points, 2)) // (1 + seed % 2)
  np.add.at(counts, tuple(where.T), 1)
  data, bits, found = coded(counts)
  np.testing.assert_array_equal(found, counts)
  assert abs(8 * len(data) - bits) < 100


def test_many_points_in_one_cell():
  counts = np.zeros((9, 30), np.int64)
  counts[4, 7] = 65000
  np.testing.assert_array_equal(coded(counts)[2], counts)


def test_the_order_of_the_points_costs_nothing():
  """The bits of a random set are those of its number among all such sets."""
  rng = np.random.default_rng(0)
  counts = np.zeros((512, 768), np.int64)
  chosen = rng.choice(counts.size, 2400, replace=False)
  counts.ravel()[chosen] = 1
  cells = counts.size
  sets = math.lgamma(cells + 1) - math.lgamma(2401) - math.lgamma(cells - 2399)
  bits = coded(counts)[1]
  assert bits / 2400 == pytest.approx(sets / math.log(2) / 2400, abs=0.1)


@pytest.mark.parametrize('n', [1, 2, 17, 200])
@pytest.mark.parametrize('share', [1, 5, 8, 15])
def test_tables_are_beta_binomial(n, share):
  freqs = positions.table(n, share)
  tables.check_freqs(freqs)
  expected = stats.betabinom(n, share, 16 - share).pmf(np.arange(n + 1))
  np.testing.assert_allclose(freqs / 2**tables.PRECISION, expected, atol=2e-5)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 5))
def test_order_is_that_of_the_halvings(height, width, seed):
  rng = np.random.default_rng(seed)
  rows, columns = rng.integers(0, height, 60), rng.integers(0, width, 60)
  by = positions.order(rows, columns, height, width)
  # the first halving, but of lines, is of rows: what is above it comes first
  first, size = (columns, width) if height == 1 else (rows, height)
  half = 1 << max((size - 1).bit_length() - 1, 0)
  assert np.all(np.diff((first[by] >= half).astype(int)) >= 0)
  assert sorted(by) == list(range(60))

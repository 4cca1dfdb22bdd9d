"""Sets of points to bits and back."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from codax.entropy import range_coder, tables
from codax.splat.format import positions


def coded(cells, size):
  """(data, ideal bits, cells found) of points in any order."""
  cells = cells[positions.order(cells, size)]
  encoder = range_coder.Encoder()
  bits = positions.put(encoder, cells, size)
  data = encoder.finish()
  found = positions.get(range_coder.Decoder(data), len(cells), size)
  np.testing.assert_array_equal(found, cells)
  return data, bits, found


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 300), st.integers(0, 9))
def test_coded_points_are_decoded_unchanged(height, width, points, seed):
  rng = np.random.default_rng(seed)
  cells = rng.integers(0, (width, height), (points, 2)) // (1 + seed % 2)
  data, bits, found = coded(cells, (height, width))
  assert sorted(map(tuple, found)) == sorted(map(tuple, cells))
  assert abs(8 * len(data) - bits) < 100


def test_many_points_in_one_cell_are_decoded_unchanged():
  cells = np.full((65000, 2), [65530, 3])
  found = coded(cells, (4000, 65535))[2]
  np.testing.assert_array_equal(found, cells)


def test_the_order_of_the_points_costs_nothing():
  """The bits of a random set are those of its number among all such sets."""
  rng = np.random.default_rng(0)
  chosen = rng.choice(512 * 768, 2400, replace=False)
  cells = np.stack([chosen % 768, chosen // 768], 1)
  total = 512 * 768
  sets = math.lgamma(total + 1) - math.lgamma(2401) - math.lgamma(total - 2399)
  bits = coded(cells, (512, 768))[1]
  assert bits / 2400 == pytest.approx(sets / math.log(2) / 2400, abs=0.1)


@pytest.mark.parametrize('n', [1, 2, 17, 200])
@pytest.mark.parametrize('share', [1, 5, 8, 15])
def test_tables_are_beta_binomial(n, share):
  freqs = positions.make_table(n, share)
  tables.check_freqs(freqs)
  expected = stats.betabinom(n, share, 16 - share).pmf(np.arange(n + 1))
  np.testing.assert_allclose(freqs / 2**tables.PRECISION, expected, atol=2e-5)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 5))
def test_order_is_that_of_the_halvings(height, width, seed):
  rng = np.random.default_rng(seed)
  cells = rng.integers(0, (width, height), (60, 2))
  by = positions.order(cells, (height, width))
  columns, rows = cells.T
  # the first halving, but of lines, is of rows: what is above it comes first
  first, size = (columns, width) if height == 1 else (rows, height)
  half = 1 << max((size - 1).bit_length() - 1, 0)
  assert np.all(np.diff((first[by] >= half).astype(int)) >= 0)
  assert sorted(by) == list(range(60))

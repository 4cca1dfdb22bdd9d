"""Integer tables against float64 arithmetic and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codax.entropy import tables
from codax.errors import CodaxError

PRECISIONS = st.integers(10, 24)


@given(
  hnp.arrays(
    np.float64, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(0, 1e9)
  ),
  PRECISIONS,
)
def test_quantize_pmf_rows_sum_and_stay_close(p, precision):
  p = p + 1e-9
  freqs = tables.quantize_pmf(p, precision)
  assert freqs.dtype == np.int64 and freqs.shape == p.shape
  assert (freqs >= 1).all()
  assert (freqs.sum(-1) == 2**precision).all()
  k = p.shape[-1]
  share = p / p.sum(-1, keepdims=True) * 2**precision
  assert (np.abs(freqs - share) <= k + 1).all()


def test_quantize_pmf_is_exact_for_tables_that_already_fit():
  # 1 + (2**p - K) * share with remainders by size: equal shares come out equal.
  assert (tables.quantize_pmf(np.ones((2, 256)), 16) == 256).all()
  np.testing.assert_array_equal(tables.quantize_pmf(np.array([0.0, 1.0]), 4), [1, 15])
  # A tie goes to the lower index.
  np.testing.assert_array_equal(tables.quantize_pmf(np.ones(3), 4), [6, 5, 5])


def test_quantize_pmf_costs_little_against_the_entropy():
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.full(512, 0.1), size=8)
  freqs = tables.quantize_pmf(p)
  entropy = -(p * np.log2(np.maximum(p, 1e-300))).sum(-1)
  cross = (p * (24 - np.log2(freqs))).sum(-1)
  np.testing.assert_allclose(cross, entropy, atol=1e-3)


@pytest.mark.parametrize(
  'p', [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [-1.0, 2.0], np.ones(17), 1.0, []]
)
def test_quantize_pmf_of_bad_input_is_refused(p):
  with pytest.raises(CodaxError):
    tables.quantize_pmf(np.array(p), 4)


def test_exp2_table_is_near_float64():
  table = tables.exp2_table()
  exact = 2.0 ** (30 - np.arange(len(table) - 1) / 2**tables.LOGIT_FRAC)
  assert np.abs(table[:-1] - exact).max() <= 0.5 + 1e-5
  assert table[0] == 2**30 and table[-1] == 0
  assert (np.diff(table) <= 0).all()


@given(
  hnp.arrays(
    np.int64,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=12),
    elements=st.integers(-(2**14), 2**14),
  ),
  st.integers(12, 24),
)
def test_logits_to_freqs_is_near_the_float64_softmax(logits, precision):
  freqs = tables.logits_to_freqs(logits, precision)
  assert freqs.dtype == np.int64 and (freqs >= 1).all()
  assert (freqs.sum(-1) == 2**precision).all()
  scores = (logits - logits.max(-1, keepdims=True)) / 2**tables.LOGIT_FRAC
  p = 2.0**scores
  p /= p.sum(-1, keepdims=True)
  k = logits.shape[-1]
  # One unit each, rounding down, the remainder to the first maximum.
  expected = 1 + p * (2**precision - k)
  first = np.arange(k) == logits.argmax(-1)[..., None]
  error = np.where(first, 0, freqs - expected)
  assert error.max(initial=0) <= 1e-2 and error.min(initial=0) >= -1.01
  assert np.where(first, freqs - expected, 0).max() <= k + 0.01


def test_logits_to_freqs_ignores_an_offset_and_far_logits_get_one_unit():
  logits = np.array([[0, -300, -7000, -(2**40)], [5, 5, 5, 5]])
  freqs = tables.logits_to_freqs(logits)
  np.testing.assert_array_equal(freqs, tables.logits_to_freqs(logits + 12345))
  assert freqs[0, 3] == 1
  assert (freqs[1] == 2**22).all()


def test_logits_to_freqs_equals_exact_fractions():
  # The definition once more in Python integers, for a small case.
  logits = [0, -100, -256, -1000]
  weights = [int(tables.exp2_table()[-x]) for x in logits]
  share = [Fraction(w, sum(weights)) * (2**24 - 4) for w in weights]
  expected = [1 + int(s) for s in share]
  expected[0] += 2**24 - sum(expected)
  assert tables.logits_to_freqs(np.array(logits)).tolist() == expected


@pytest.mark.parametrize(
  'freqs',
  [
    [0, 16], [1, 14], [1, 16], [-1, 17], [], [8.0, 8.0],
    [2**62, 2**62, 2**62, 2**62, 8, 8],  # wraps round to 16 in int64
  ],
)  # fmt: skip
def test_check_freqs_of_bad_tables_is_refused(freqs):
  with pytest.raises(CodaxError):
    tables.check_freqs(np.array(freqs), 4)


def test_bits_is_the_code_length():
  freqs = np.array([[1, 3, 4, 8], [4, 4, 4, 4]])
  assert tables.bits(freqs, np.array([3, 0]), 4) == pytest.approx(1 + 2)
  assert tables.bits(freqs[0], np.array([0, 2, 3]), 4) == pytest.approx(4 + 2 + 1)

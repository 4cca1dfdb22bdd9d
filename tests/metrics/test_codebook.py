"""Codebook use against SciPy and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from codax.metrics import codebook


@pytest.mark.parametrize('xp', [np, jnp])
def test_count_is_a_histogram_for_each_group(xp):
  codes = np.random.default_rng(0).integers(0, 7, (3, 5, 4, 2), np.int32)
  counts = codebook.count(xp.asarray(codes), 7)
  assert counts.shape == (2, 7) and int(counts.sum()) == 120
  for g in range(2):
    expected = [(codes[..., g] == k).sum() for k in range(7)]
    np.testing.assert_array_equal(counts[g], expected)


def test_count_works_under_jit_and_adds_up():
  codes = jnp.array([[[0], [3]], [[3], [1]]], jnp.int32)
  count = jax.jit(codebook.count, static_argnums=1)
  total = count(codes, 4)
  np.testing.assert_array_equal(total, [[1, 1, 0, 2]])
  np.testing.assert_array_equal(count(codes[:1], 4) + count(codes[1:], 4), total)


def test_count_refuses_codes_out_of_range():
  for bad in (-1, 4):
    with pytest.raises(ValueError, match=r'0\.\.3'):
      codebook.count(np.array([[0], [bad]]), 4)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_entropy_is_scipys(counts):
  counts = np.array(counts)
  expected = scipy.stats.entropy(counts, base=2)
  assert codebook.entropy(counts) == pytest.approx(expected, abs=1e-9)
  assert codebook.perplexity(counts) == pytest.approx(2**expected)
  assert codebook.usage(counts) == np.count_nonzero(counts) / len(counts)
  np.testing.assert_allclose(codebook.entropy(jnp.asarray(counts)), expected, atol=2e-5)


def test_metrics_of_known_counts_are_the_closed_forms():
  uniform, one = np.full(512, 3), np.eye(512, dtype=int)[5]
  assert codebook.perplexity(uniform) == pytest.approx(512)
  assert codebook.perplexity(one) == 1 and codebook.usage(one) == 1 / 512
  assert codebook.entropy(np.zeros(8)) == 0
  both = codebook.summary(np.stack([uniform, one]))
  assert both['entropy'] == pytest.approx(4.5)
  assert both['perplexity'] == pytest.approx(513 / 2)
  assert both['usage'] == pytest.approx(513 / 1024)


def test_entropy_has_a_finite_gradient_at_unused_codes():
  gradient = jax.grad(codebook.entropy)(jnp.array([2.0, 1.0, 0.0, 1.0]))
  assert np.isfinite(gradient).all()


class VariantsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_counts_and_entropy_equal_numpy_compiled_or_not(self):
    codes = np.random.default_rng(5).integers(0, 7, (4, 5, 2))
    counts = self.variant(codebook.count, static_argnums=1)(jnp.asarray(codes), 7)
    np.testing.assert_array_equal(counts, codebook.count(codes, 7))
    found = self.variant(codebook.entropy)(counts)
    np.testing.assert_allclose(found, codebook.entropy(np.asarray(counts)), rtol=1e-5)


def test_codes_that_are_no_integers_are_refused():
  with pytest.raises(AssertionError):
    codebook.count(np.zeros((3, 1)), 4)

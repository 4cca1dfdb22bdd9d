"""Reverse water-filling against closed forms and bisection in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from codax.quantize.ops import water_filling

fill = jax.jit(water_filling.fill)


def bisected(variances, bits):
  """Level at which the rate is `bits`, by SciPy's root finder."""
  rate = lambda log_t: 0.5 * np.maximum(np.log2(variances) - log_t, 0).sum() - bits
  low = np.log2(variances).min() - 2 * bits - 1
  return 2.0 ** optimize.brentq(rate, low, np.log2(variances).max())


def test_two_directions_have_the_textbook_levels():
  """Variances 4 and 1: below 1 bit the second one gets nothing."""
  below = fill(jnp.array([1.0, 4.0]), 0.5)
  assert below.active == 1
  np.testing.assert_allclose([below.level, below.distortion], [2.0, 3.0], rtol=1e-5)
  above = fill(jnp.array([1.0, 4.0]), 3.0)
  assert above.active == 2
  np.testing.assert_allclose([above.level, above.distortion], [0.25, 0.5], rtol=1e-5)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('bits', [0.3, 8.0, 9.0, 40.0])
def test_level_of_a_random_spectrum_is_that_of_bisection(seed, bits):
  variances = np.exp(np.random.default_rng(seed).normal(0, 2.0, 16))
  found = fill(jnp.asarray(variances, jnp.float32), bits)
  level = bisected(variances, bits)
  np.testing.assert_allclose(found.level, level, rtol=1e-3)
  assert found.active == (variances > level).sum()
  np.testing.assert_allclose(
    found.distortion, np.minimum(variances, level).sum(), rtol=1e-3
  )


def test_white_source_has_all_directions_and_the_gaussian_distortion():
  found = fill(jnp.full(8, 3.0), 9.0)
  assert found.active == 8
  np.testing.assert_allclose(found.distortion, 8 * 3 * 2 ** (-2 * 9 / 8), rtol=1e-5)


def test_directions_without_variance_get_no_bits():
  found = fill(jnp.array([1.0, 0.0, 0.0, 1.0]), 9.0)
  assert found.active == 2 and np.isfinite(found.level)


def test_effective_dimension_counts_equal_directions():
  for count in (1, 3, 8):
    variances = jnp.zeros(8).at[:count].set(2.0)
    np.testing.assert_allclose(
      water_filling.effective_dimension(variances), count, rtol=1e-6
    )


def test_spectrum_is_that_of_numpy():
  rng = np.random.default_rng(0)
  z, weight = rng.normal(2.0, 1.0, (50, 4)), rng.uniform(0, 1, 50)
  weight /= weight.sum()
  covariance = np.cov(z.T, aweights=weight, ddof=0)
  found = jax.jit(water_filling.spectrum)(
    jnp.asarray(z, jnp.float32), jnp.asarray(weight, jnp.float32)
  )
  np.testing.assert_allclose(found, np.linalg.eigvalsh(covariance), rtol=1e-3)

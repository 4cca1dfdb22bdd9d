"""Divergence, free bits, warm-up and active units against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.vae import kl


def integrate(mean, log_var):
  """KL(N(mean, e^log_var) || N(0, 1)) in float64, by the trapezoidal rule."""
  deviation = np.exp(log_var / 2)
  x = mean + deviation * np.linspace(-12, 12, 200_001)
  log_q = -0.5 * ((x - mean) / deviation) ** 2 - log_var / 2
  log_p = -0.5 * x**2  # both lack the same constant
  return np.trapezoid(np.exp(log_q) * (log_q - log_p), x) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize(
  ('mean', 'log_var'), [(0.0, 0.0), (1.5, -2.0), (-0.3, 1.0), (3.0, -8.0), (0.1, 0.01)]
)
def test_divergence_equals_the_integral(mean, log_var):
  found = kl.divergence(jnp.float32(mean), jnp.float32(log_var))
  np.testing.assert_allclose(found, integrate(mean, log_var), rtol=1e-5, atol=1e-6)


def posterior():
  """Means and log-variances [2, 3, 3, 4] whose channels hold 0 to a few nats."""
  rng = np.random.default_rng(0)
  scale = np.float32([0.0, 0.1, 1.0, 2.0])
  mean = rng.normal(size=(2, 3, 3, 4)).astype(np.float32) * scale
  return jnp.asarray(mean), jnp.asarray(np.broadcast_to(-0.5 * scale, mean.shape))


def test_per_dimension_averages_batch_and_positions():
  mean, log_var = posterior()
  wanted = kl.divergence(mean, log_var).reshape(-1, 4).mean(0)
  np.testing.assert_allclose(kl.per_dimension(mean, log_var), wanted, rtol=1e-6)


def test_gradient_under_free_bits_is_whole_above_them_and_zero_below():
  mean, log_var = posterior()
  nats = np.asarray(kl.per_dimension(mean, log_var))
  free_bits = 0.5
  assert nats[1] < free_bits < nats[2]

  def gradient(penalty):
    total = lambda m, v: penalty(kl.per_dimension(m, v))
    return jax.grad(total, argnums=(0, 1))(mean, log_var)

  free = gradient(lambda k: kl.penalty(k, free_bits))
  whole = gradient(lambda k: kl.penalty(k, 0.0))
  for f, w in zip(free, whole):
    assert not np.any(f[..., :2])  # dimensions below their free bits
    np.testing.assert_array_equal(f[..., 2:], w[..., 2:])
    assert np.abs(w[..., 2:]).max() > 0


def test_clamped_elements_of_the_report_have_no_gradient_where_dimensions_do():
  """The report clamped every element at 1024 nats: its KL could teach nothing."""
  mean, log_var = posterior()
  clamped = lambda m: jnp.maximum(kl.divergence(m, log_var), 1024.0).sum()
  assert not np.any(jax.grad(clamped)(mean))
  ours = lambda m: kl.penalty(kl.per_dimension(m, log_var), 0.5)
  assert np.any(jax.grad(ours)(mean))


def test_penalty_counts_free_bits_of_dimensions_below():
  value = kl.penalty(jnp.float32([0.1, 0.7, 2.0]), 0.5)
  np.testing.assert_allclose(value, 0.5 + 0.7 + 2.0, rtol=1e-6)


def test_weight_rises_and_stays():
  weights = [float(kl.weight(jnp.int32(i), 1e-4, 4)) for i in (0, 1, 3, 4, 99)]
  np.testing.assert_allclose(weights, 1e-4 * np.array([0.25, 0.5, 1, 1, 1]), rtol=1e-6)
  assert float(kl.weight(jnp.int32(0), 1e-4, 0)) == np.float32(1e-4)


def test_active_units_are_counted_over_batches():
  rng = np.random.default_rng(1)
  scale = np.array([0.0, 0.05, 0.2, 3.0])  # standard deviations; 0.1 is the border
  mean = rng.normal(size=(500, 4)) * scale + 5
  sums = sum(np.asarray(kl.moments(jnp.asarray(m))) for m in np.split(mean, 5))
  assert kl.active_units(sums) == 2

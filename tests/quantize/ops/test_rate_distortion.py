"""Blahut's algorithm against the known curves (Cover & Thomas, chapter 10)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax.quantize.ops import rate_distortion

HAMMING = jnp.array([[0.0, 1.0], [1.0, 0.0]])
solve = jax.jit(rate_distortion.solve, static_argnames='iterations')


def entropy(p):
  p = np.asarray(p, np.float64)
  return -(p * np.log2(np.where(p > 0, p, 1.0))).sum()


@pytest.mark.parametrize('beta', [0.5, 1.0, 2.0, 4.0, 8.0])
def test_solve_of_symmetric_bits_equals_the_formula(beta):
  point = solve(jnp.array([0.5, 0.5]), HAMMING, beta, iterations=300)
  d = 1 / (1 + np.exp(beta))
  np.testing.assert_allclose(point.distortion, d, atol=1e-6)
  np.testing.assert_allclose(point.rate, 1 - entropy([d, 1 - d]), atol=1e-5)
  np.testing.assert_allclose(point.violation, 0, atol=1e-5)


@pytest.mark.parametrize('beta', [1.5, 3.0, 6.0])
def test_solve_of_skewed_bits_equals_the_formula(beta):
  point = solve(jnp.array([0.3, 0.7]), HAMMING, beta, iterations=300)
  d = float(point.distortion)
  np.testing.assert_allclose(d, 1 / (1 + np.exp(beta)), rtol=1e-3)
  np.testing.assert_allclose(
    point.rate, entropy([0.3, 0.7]) - entropy([d, 1 - d]), atol=1e-4
  )


@pytest.mark.parametrize('distortion', [0.5, 0.25, 0.1])
def test_solve_of_a_gaussian_equals_the_formula(distortion):
  """R = 1/2 log2(sigma^2 / D) within 1 %, at the slope beta = 1 / (2 D)."""
  x = np.linspace(-4.5, 4.5, 121)
  p = np.exp(-(x**2) / 2)
  p /= p.sum()
  with jax.enable_x64(True):
    point = solve(
      jnp.asarray(p),
      jnp.asarray((x[:, None] - x[None]) ** 2),
      0.5 / distortion,
      iterations=600,
    )
    rate, lower, d = float(point.rate), float(point.lower), float(point.distortion)
  exact = 0.5 * np.log2((p * x**2).sum() / d)
  assert d == pytest.approx(distortion, rel=0.02)
  assert rate == pytest.approx(exact, rel=0.01)
  assert lower <= rate


@functools.cache
def random_problem(seed):
  rng = np.random.default_rng(seed)
  p = rng.dirichlet(np.full(6, 0.5)) * (rng.uniform(size=6) < 0.8)
  p = p / p.sum() if p.sum() else np.full(6, 1 / 6)
  d = rng.uniform(0, 2, (6, 4)) * rng.choice([1.0, 100.0])
  return p, d, float(np.exp(rng.uniform(-2, 4)))


@given(st.integers(0, 10**6))
def test_objective_never_rises_and_bounds_hold(seed):
  p, d, beta = random_problem(seed)
  point = solve(*(jnp.asarray(x, jnp.float32) for x in (p, d, beta)), iterations=60)
  objective = np.asarray(point.objective)
  scale = np.abs(objective).max() + 1
  assert (np.diff(objective) <= 2e-6 * scale).all()
  assert np.isfinite(point.rate) and -1e-5 <= point.rate <= 2 + 1e-5
  assert point.lower <= point.rate + 1e-5 * scale
  assert point.violation >= -1e-5 * scale
  np.testing.assert_allclose(point.marginal.sum(), 1, atol=1e-5)


def test_solve_equals_the_iteration_in_float64():
  p, d, beta = random_problem(5)
  q = np.full(4, 0.25)
  for _ in range(60):
    post = q * np.exp(-beta * d)
    post /= post.sum(1, keepdims=True)
    q = p @ post
  post = q * np.exp(-beta * d)
  post /= post.sum(1, keepdims=True)
  joint = p[:, None] * post
  ratio = np.where(joint > 0, post / (p @ post), 1.0)
  point = solve(*(jnp.asarray(x, jnp.float32) for x in (p, d, beta)), iterations=60)
  np.testing.assert_allclose(point.rate, (joint * np.log2(ratio)).sum(), atol=1e-5)
  np.testing.assert_allclose(point.distortion, (joint * d).sum(), rtol=1e-4)
  np.testing.assert_allclose(point.marginal, p @ post, atol=1e-5)


def test_unused_letters_cost_nothing():
  """An underflown posterior (e^-5000) and an impossible symbol are zeros, not NaN."""
  d = jnp.array([[0.0, 1.0, 100.0], [1.0, 0.0, 100.0]])
  point = solve(jnp.array([0.5, 0.5]), d, 50.0, iterations=60)
  np.testing.assert_allclose(point.rate, 1, atol=1e-6)
  sure = solve(jnp.array([1.0, 0.0]), d, 50.0, iterations=60)
  np.testing.assert_allclose(sure.rate, 0, atol=1e-6)


def test_bracket_of_latents_at_a_steep_slope_is_the_nearest_codeword():
  rng = np.random.default_rng(0)
  z, e = rng.normal(size=(64, 2)), rng.normal(size=(4, 2))
  d = ((z[:, None] - e[None]) ** 2).sum(-1)
  use = np.bincount(d.argmin(1), minlength=4) / 64
  bracket = jax.jit(rate_distortion.bracket, static_argnums=3)
  point = bracket(jnp.asarray(z, jnp.float32), jnp.asarray(e, jnp.float32), 1e4, 50)
  np.testing.assert_allclose(point.rate, entropy(use), atol=1e-4)
  np.testing.assert_allclose(point.distortion, d.min(1).mean(), rtol=1e-4)
  assert point.lower <= point.rate + 1e-5

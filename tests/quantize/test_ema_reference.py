"""The described codebook of averages does what its source does, faults included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_oracles import distances

from codax.quantize import get

KEY = jax.random.key(0)


def latents(seed, scale=1.0):
  z = np.random.default_rng(seed).normal(size=(64, 3)) * scale
  return jnp.asarray(z, jnp.float32)


@functools.cache
def machine(**values):
  q = get('ema_reference', **values)
  return q, jax.jit(q.init), jax.jit(functools.partial(q.quantize, train=True))


def source_step(book, size, sums, z, decay, epsilon):
  """The source's update in float64: counts of vectors, all codes moved."""
  z, k = np.asarray(z, np.float64), len(book)
  hot = np.eye(k)[distances(z, book).argmin(1)]
  size = decay * size + (1 - decay) * hot.sum(0)
  sums = decay * sums + (1 - decay) * hot.T @ z
  total = size.sum()
  smooth = (size + epsilon) / (total + k * epsilon) * total
  return sums / smooth[:, None], size, sums


@pytest.mark.parametrize('decay,epsilon', [(0.99, 1e-5), (0.9, 1e-2)])
def test_state_over_several_steps_follows_the_source(decay, epsilon):
  q, init, step = machine(num_codes=16, decay=decay, epsilon=epsilon)
  params, state = init(KEY, latents(0))
  book = np.asarray(state.codebook[0], np.float64)
  size, sums = np.zeros(16), book.copy()
  for i in range(8):
    z = latents(i)
    out = step(params, state, z)
    np.testing.assert_array_equal(out.codes[:, 0], distances(z, book).argmin(1))
    book, size, sums = source_step(book, size, sums, z, decay, epsilon)
    state = out.state
    np.testing.assert_allclose(state.sizes[0], size, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.sums[0], sums, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.codebook[0], book, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(q.code_prior(state)[0], size / size.sum(), atol=1e-5)


def test_initial_codes_are_uniform_in_the_sources_range():
  _, init, _ = machine(num_codes=64)
  state = init(KEY, latents(0, scale=100.0))[1]
  book = np.asarray(state.codebook)
  assert np.abs(book).max() <= 1 / 64 and np.abs(book).max() > 0.9 / 64
  assert abs(book.mean()) < 0.2 / 64
  np.testing.assert_array_equal(state.sizes, 0)
  np.testing.assert_array_equal(state.sums, book)


def test_fault_1_unused_code_is_thrown_far_away_in_the_first_step():
  _, init, step = machine(num_codes=16)
  params, state = init(KEY, latents(0))
  out = step(params, state, latents(0))
  is_used = np.isin(np.arange(16), out.codes)
  norms = np.linalg.norm(out.state.codebook[0], axis=-1)
  assert not is_used.all() and norms[~is_used].min() > 100 * norms[is_used].max()


def test_gradient_to_latents_is_the_closed_form():
  q, init, _ = machine(num_codes=16)
  params, state = init(KEY, latents(0))
  z, g = latents(1), latents(2)

  def loss(z):
    out = q.quantize(params, state, z, train=True)
    return (out.values * g).sum() + sum(out.losses.values()), out.values

  to_z, values = jax.jit(jax.grad(loss, has_aux=True))(z)
  exact = np.asarray(g) + 0.25 * 2 * np.asarray(z - values) / z.size
  np.testing.assert_allclose(to_z, exact, rtol=1e-5, atol=1e-6)

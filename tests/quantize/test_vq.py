"""The codebook learnt by gradient, and DiVeQ's gradients, against float64 oracles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_oracles import distances

from codax.quantize import get
from codax.quantize.ops import straight_through

KEY = jax.random.key(0)


def normal(seed, n=32, d=3):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


@functools.cache
def machine(**values):
  q = get('vq', num_codes=5, **values)
  params, state = jax.jit(q.init)(KEY, normal(0))

  @jax.jit
  def gradients(params, z, g, rng):
    def loss(params, z):
      out = q.quantize(params, state, z, train=True, rng=rng)
      return (out.values * g).sum() + sum(out.losses.values()), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, z)

  return q, params, state, gradients


def test_gradients_are_those_of_the_two_losses():
  _, params, _, gradients = machine(commitment=0.5, codebook_loss=2.0)
  z, g = normal(1), normal(2)
  (to_book, to_z), out = gradients(params, z, g, KEY)
  book, x = np.asarray(params['codebook'][0], np.float64), np.asarray(z, np.float64)
  codes = distances(x, book).argmin(1)
  np.testing.assert_array_equal(out.codes[:, 0], codes)
  away = x - book[codes]
  np.testing.assert_allclose(to_z, g + 0.5 * 2 * away / z.size, rtol=1e-5, atol=1e-6)
  exact = -2.0 * 2 * np.eye(5)[codes].T @ away / z.size
  np.testing.assert_allclose(to_book['codebook'][0], exact, rtol=1e-4, atol=1e-6)


def diveq_oracle(z, v, g, noise):
  """Value, and gradients of g . value to z and v, in float64."""
  z, v, g, noise = (np.asarray(x, np.float64) for x in (z, v, g, noise))
  error = v - z
  length = np.linalg.norm(error, axis=-1, keepdims=True)
  u = error + noise
  u /= np.linalg.norm(u, axis=-1, keepdims=True)
  along = (u * g).sum(-1, keepdims=True) * error / length
  return z + length * u, g - along, along


def test_diveq_equals_its_closed_form():
  z, v, g = normal(1), normal(2), normal(3)
  value_and_grad = jax.jit(
    lambda z, v, rng: jax.value_and_grad(
      lambda z, v: (straight_through.diveq(z, v, rng) * g).sum(), argnums=(0, 1)
    )(z, v)
  )
  noise = straight_through.NOISE * jax.random.normal(KEY, z.shape)
  exact, to_z, to_v = diveq_oracle(z, v, g, noise)
  total, found = value_and_grad(z, v, KEY)
  np.testing.assert_allclose(total, (exact * np.asarray(g)).sum(), rtol=1e-4)
  np.testing.assert_allclose(found[0], to_z, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(found[1], to_v, rtol=1e-3, atol=1e-4)
  # the error keeps its length, whatever its direction
  value = jax.jit(straight_through.diveq)(z, v, KEY)
  np.testing.assert_allclose(
    np.linalg.norm(value - z, axis=-1), np.linalg.norm(v - z, axis=-1), rtol=1e-4
  )


def test_diveq_without_noise_is_the_codeword():
  z, v = normal(1), normal(2)
  np.testing.assert_allclose(straight_through.diveq(z, v, None), v, atol=1e-6)


def test_diveq_of_a_latent_on_its_codeword_is_finite():
  z = normal(1)
  gradient = jax.jit(jax.grad(lambda z: straight_through.diveq(z, z, KEY).sum()))(z)
  assert np.isfinite(gradient).all()


def test_diveq_moves_codewords_by_the_decoders_gradient_alone():
  _, params, _, gradients = machine(estimator='diveq')
  z, g = normal(1), normal(2)
  (to_book, to_z), out = gradients(params, z, g, KEY)
  assert out.losses == {}
  book = np.asarray(params['codebook'][0], np.float64)
  codes = distances(z, book).argmin(1)
  noise_key = jax.random.split(KEY)[1]
  noise = straight_through.NOISE * jax.random.normal(noise_key, (32, 1, 3))[:, 0]
  value, exact_z, exact_v = diveq_oracle(z, book[codes], g, noise)
  np.testing.assert_allclose(out.values, value, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(to_z, exact_z, rtol=1e-3, atol=1e-4)
  exact = np.eye(5)[codes].T @ exact_v
  np.testing.assert_allclose(to_book['codebook'][0], exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', ['vq_ema', 'blahut_arimoto'])
def test_diveq_sends_hard_codes_in_evaluation(name):
  q = get(name, num_codes=5, estimator='diveq')
  params, state = jax.jit(q.init)(KEY, normal(0))
  out = jax.jit(functools.partial(q.quantize, train=False))(params, state, normal(1))
  np.testing.assert_array_equal(out.values, q.decode(params, state, out.codes))

"""Codes chosen at a context model's prices, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ba_machine import KEY, STILL, latents
from jax.test_util import check_grads
from quantize_oracles import assert_same_codes, distances, lambda_max, posterior

from codax import averages
from codax.errors import CodaxError
from codax.quantize import get

K = 8


def setup(balance):
  q = get('blahut_arimoto', num_codes=K, balance=balance, beta_end=8.0, **STILL)
  z = latents(n=96)
  params, state = jax.jit(q.init)(KEY, z)
  step = jax.jit(functools.partial(q.quantize, train=True))
  for _ in range(3):  # so that the marginal is not uniform
    state = step(params, state, z).state
  log_prior = jax.nn.log_softmax(2 * jax.random.normal(KEY, (96, 1, K)))
  return q, z, params, state, step, np.asarray(log_prior)


@pytest.mark.parametrize('balance', [0.0, 0.25])
def test_codes_given_side_information_minimize_the_coders_cost(balance):
  _, z, params, state, step, log_prior = setup(balance)
  out = step(params, state, z, log_prior=log_prior)
  price = (1 - 2 * balance) / (1 - balance)
  w = np.asarray(state.log_weights[0], np.float64)
  m = np.asarray(averages.value(state.counts)[0], np.float64)
  w = w[None] + price * (
    log_prior[:, 0].astype(np.float64) - np.log(np.maximum(m, 1e-9))
  )
  book = np.asarray(params['codebook'][0])
  beta = 8.0 / (2 * lambda_max(z))
  cost = distances(z, book) - w / beta
  assert_same_codes(out.codes[:, 0], cost)
  # the marginal that goes on is that of the conditional assignment
  np.testing.assert_allclose(
    averages.value(out.state.marginal)[0], posterior(z, book, w, beta)[0].mean(0),
    atol=1e-4,
  )  # fmt: skip


def test_marginal_as_side_information_changes_no_code():
  _, z, params, state, step, log_prior = setup(0.0)
  m = np.maximum(np.asarray(averages.value(state.counts)), 1e-9)
  told = np.broadcast_to(np.log(m)[None], log_prior.shape)
  plain, informed = step(params, state, z), step(params, state, z, log_prior=told)
  np.testing.assert_array_equal(plain.codes, informed.codes)


@pytest.mark.parametrize('balance', [0.5, 1.0])
def test_side_information_where_codes_have_no_cost_is_ignored(balance):
  _, z, params, state, step, log_prior = setup(balance)
  plain = step(params, state, z)
  informed = step(params, state, z, log_prior=log_prior)
  np.testing.assert_array_equal(plain.codes, informed.codes)


# --- latents that feel the prices ---------------------------------------------------


def pull(beta, log_prior, commitment=0.5, offset=0.0, **values):
  """(loss of latents, latents, P in float64, codebook, beta, log-weights)."""
  values = {
    'num_codes': K,
    'beta_end': beta,
    'commitment': commitment,
    **STILL,
    **values,
  }
  q = get('blahut_arimoto', encoder_loss='free_energy', **values)
  z = latents(n=96) + offset
  params, state = jax.jit(q.init)(KEY, z)
  loss = jax.jit(
    lambda z: q.quantize(params, state, z, train=True, log_prior=log_prior).losses[
      'commitment'
    ]
  )
  book = np.asarray(params['codebook'][0], np.float64)
  true_beta = beta / (2 * lambda_max(z))
  w = np.full(K, -np.log(K))
  if log_prior is not None:
    w = np.asarray(log_prior, np.float64)[:, 0]
  return loss, z, posterior(z, book, w, true_beta), book, true_beta


@pytest.mark.parametrize('offset', [0.0, 100.0])
@pytest.mark.parametrize('conditional', [False, True])
def test_free_energy_commitment_pulls_to_the_mean_codeword(conditional, offset):
  """commitment * 2 (z - P e) / (N d) in float64, the derivative of the loss."""
  log_prior = jax.nn.log_softmax(2 * jax.random.normal(KEY, (96, 1, K)))
  loss, z, (post, log_z), book, beta = pull(
    4.0, log_prior if conditional else None, offset=offset
  )
  away = np.asarray(z, np.float64) - post @ book
  exact = 0.5 * 2 * away / z.size
  found = np.asarray(jax.jit(jax.grad(loss))(z))
  np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())
  np.testing.assert_allclose(loss(z), -0.5 * log_z.sum() / beta / z.size, rtol=1e-3)
  if not offset:
    check_grads(loss, (z,), order=1, modes=['rev'], rtol=5e-2, atol=5e-3, eps=1e-2)


def test_free_energy_commitment_draws_latents_to_cheap_codes():
  """Between two codes the commitment is to one of them; the pull to the cheap one."""
  prices = jnp.zeros((96, 1, K)).at[:, :, 0].set(3.0)
  cheap, z, *_, book, _ = pull(2.0, jax.nn.log_softmax(prices))
  even = pull(2.0, jax.nn.log_softmax(jnp.zeros((96, 1, K))))[0]
  drawn = -(jax.jit(jax.grad(cheap))(z) - jax.jit(jax.grad(even))(z))
  towards = jnp.asarray(book[:1], jnp.float32) - z
  inner = (drawn * towards).sum(-1)
  assert float(inner.mean()) > 0 and float((inner > 0).mean()) > 0.9


def test_free_energy_commitment_at_large_beta_is_the_commitment():
  soft, z, *_ = pull(1e5, None)
  q = get('blahut_arimoto', num_codes=K, beta_end=1e5, commitment=0.5, **STILL)
  params, state = jax.jit(q.init)(KEY, z)
  hard = lambda z: q.quantize(params, state, z, train=True).losses['commitment']
  exact = np.asarray(jax.jit(jax.grad(hard))(z))
  found = np.asarray(jax.jit(jax.grad(soft))(z))
  np.testing.assert_allclose(found, exact, atol=1e-2 * np.abs(exact).max())


def test_free_energy_commitment_moves_latents_alone():
  values = {'num_codes': K, 'groups': 2, 'beta_end': 4.0, **STILL}
  q = get('blahut_arimoto', encoder_loss='free_energy', **values)
  params, state = jax.jit(q.init)(KEY, latents())
  loss = lambda params, z: q.quantize(params, state, z, train=True).losses['commitment']
  gradient = jax.jit(jax.grad(loss, (0, 1)))
  to_params, to_z = gradient(params, latents())
  np.testing.assert_array_equal(to_params['codebook'], 0)
  # a latent's groups are pulled apart from each other: each half by its own codebook
  moved = latents().at[:, 2:].add(0.5)
  _, other = gradient(params, moved)
  assert np.abs(to_z[:, 2:] - other[:, 2:]).max() > 1e-3
  with pytest.raises(CodaxError, match='encoder_loss'):
    get('blahut_arimoto', encoder_loss='rate')
  with pytest.raises(CodaxError, match='chunk'):
    get('blahut_arimoto', encoder_loss='free_energy', chunk=8)

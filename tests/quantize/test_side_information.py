"""Codes chosen at a context model's prices, against float64."""

import functools

import jax
import numpy as np
import pytest
from ba_machine import KEY, STILL, jit, latents
from quantize_oracles import assert_same_codes, distances, lambda_max, posterior

from codax import averages
from codax.quantize import get

K = 8


def setup(balance):
  q = get('blahut_arimoto', num_codes=K, balance=balance, beta_end=8.0, **STILL)
  z = latents(n=96)
  params, state = q.init(KEY, z)
  step = jit(functools.partial(q.quantize, train=True))
  for _ in range(3):  # so that the marginal is not uniform
    state = step(params, state, z).state
  log_prior = jax.nn.log_softmax(2 * jax.random.normal(KEY, (96, 1, K)))
  return q, z, params, state, step, np.asarray(log_prior)


@pytest.mark.parametrize('balance', [0.0, 0.25])
def test_codes_minimise_distance_plus_what_the_coder_charges(balance):
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


def test_the_marginal_as_side_information_says_nothing_new():
  _, z, params, state, step, log_prior = setup(0.0)
  m = np.maximum(np.asarray(averages.value(state.counts)), 1e-9)
  told = np.broadcast_to(np.log(m)[None], log_prior.shape)
  plain, informed = step(params, state, z), step(params, state, z, log_prior=told)
  np.testing.assert_array_equal(plain.codes, informed.codes)


@pytest.mark.parametrize('balance', [0.5, 1.0])
def test_where_codes_have_no_price_it_is_ignored(balance):
  _, z, params, state, step, log_prior = setup(balance)
  plain = step(params, state, z)
  informed = step(params, state, z, log_prior=log_prior)
  np.testing.assert_array_equal(plain.codes, informed.codes)

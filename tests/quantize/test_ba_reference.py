"""The described quantizer does what its description says, faults included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_oracles import distances

from codax.quantize import ba_reference, get

KEY = jax.random.key(0)
assign = jax.jit(ba_reference.assign, static_argnums=3)


def latents(seed, n=64, d=4):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def oracle(z, book, beta, iterations):
  """T times P = softmax(log Q - beta d), Q = mean P, from uniform Q, in float64."""
  d = distances(z, book)
  d = d - d.min(1, keepdims=True)
  q = np.full(len(book), 1 / len(book))
  for _ in range(iterations):
    p = q * np.exp(-beta * d)
    p /= p.sum(1, keepdims=True)
    q = p.mean(0)
  return p, q


def information(p):
  """Bits of I(z; k) for P [N, K], all z alike likely."""
  q = p.mean(0)
  ratio = np.where(p > 0, p / np.maximum(q, 1e-300), 1.0)
  return (p * np.log2(ratio)).sum(1).mean()


@functools.cache
def machine(**values):
  q = get('ba_reference', **{'num_codes': 8, **values})
  params, state = jax.jit(q.init)(KEY, latents(0))
  book = latents(1, n=8)[None]
  return q, {'codebook': book}, state


@pytest.mark.parametrize('beta', [0.1, 1.0, 5.0])
@pytest.mark.parametrize('iterations', [1, 5])
def test_assignment_equals_the_description(beta, iterations):
  z, book = latents(2), latents(1, n=8)
  p, q = assign(z, book, beta, iterations)
  exact_p, exact_q = oracle(z, book, beta, iterations)
  np.testing.assert_allclose(p, exact_p, rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(q, exact_q, rtol=1e-3, atol=1e-6)


def test_quantize_equals_the_description():
  """Soft values P E; commitment 0.25; -0.01 H(mean P) in nats; codes are the mode."""
  q, params, state = machine()
  z = latents(2)
  quantize = jax.jit(functools.partial(q.quantize, train=True))
  out = quantize(params, state, z, step=1950)
  book = np.asarray(params['codebook'][0], np.float64)
  beta = 0.1 + 4.9 * (1 - np.cos(np.pi * 10 / 100)) / 2
  p, m = oracle(z, book, beta, 5)
  np.testing.assert_allclose(out.stats['beta'], beta, rtol=1e-5)
  np.testing.assert_allclose(out.values, p @ book, atol=1e-4)
  np.testing.assert_allclose(
    out.losses['commitment'], 0.25 * ((z - p @ book) ** 2).mean(), rtol=1e-4
  )
  np.testing.assert_allclose(
    out.losses['entropy'], 0.01 * (m * np.log(m)).sum(), rtol=1e-4
  )
  np.testing.assert_array_equal(out.codes[:, 0], p.argmax(1))
  counts = np.bincount(p.argmax(1), minlength=8) / 64
  new = np.asarray(q.code_prior(out.state)[0])
  np.testing.assert_allclose(new, (0.99 / 8 + counts) / 1.99, atol=1e-6)


def test_fault_1_codebook_is_moved_by_the_entropy_term_alone():
  z, g = latents(2), latents(3)

  def gradient(entropy_weight, decoder):
    q, params, state = machine(entropy_weight=entropy_weight)

    def loss(params):
      out = q.quantize(params, state, z, train=True)
      return decoder * (out.values * g).sum() + sum(out.losses.values())

    return np.asarray(jax.jit(jax.grad(loss))(params)['codebook'])

  np.testing.assert_array_equal(gradient(0.0, 1.0), 0)
  both, alone = gradient(0.01, 1.0), gradient(0.01, 0.0)
  assert np.abs(both).max() > 0
  np.testing.assert_array_equal(both, alone)


def test_fault_2_training_values_cannot_be_sent():
  q, params, state = machine()
  out = q.quantize(params, state, latents(2), train=False)
  sent = q.decode(params, state, out.codes)
  assert np.abs(sent - out.values).max() > 0.5


def test_fault_3_beta_never_reaches_its_end():
  cfg = ba_reference.Config(epochs=10, epoch_steps=7)
  beta = np.array([ba_reference.schedule(cfg, jnp.float32(s)) for s in range(80)])
  assert (beta[:7] == beta[0]).all() and beta[0] == np.float32(0.1)
  assert (np.diff(beta) >= 0).all() and len(set(beta)) == 10
  np.testing.assert_allclose(beta[-1], 0.1 + 4.9 * (1 - np.cos(0.9 * np.pi)) / 2)
  assert beta[-1] < 4.9


def test_fault_4_beta_means_another_thing_at_another_scale():
  """White 256-d latents at the first codebook: no rate at the first beta of 0.1.

  Where rate begins, R = d / 2 log2(2 beta) of a white Gaussian source passes from 0 to
  log2 512 between beta = 0.5 and 0.53; a thousandfold scale undoes all of it.
  """
  bits = lambda beta: 128 * np.log2(2 * beta)
  assert bits(0.5) == 0 and bits(0.525) < 9.1 and bits(0.53) > 9
  z = latents(4, n=64, d=256)
  start = jax.jit(get('ba_reference', num_codes=8).init)(KEY, z)[0]['codebook'][0]
  rate = lambda z, book, beta: information(np.asarray(assign(z, book, beta, 5)[0]))
  assert rate(z, start, 0.1) < 0.05
  assert rate(1e3 * z, 1e3 * start, 0.1) > 2.5


def test_fault_5_the_rich_get_richer():
  """From uniform Q at still codewords (data), iterations lower the hard perplexity."""
  z = latents(5, n=512, d=16)
  book = latents(6, n=64, d=16)
  perplexity = []
  for iterations in (1, 5, 50):
    use = np.bincount(np.asarray(assign(z, book, 0.5, iterations)[0]).argmax(1)) / 512
    use = use[use > 0]
    perplexity.append(np.exp(-(use * np.log(use)).sum()))
  assert perplexity[0] > 1.3 * perplexity[1] > 1.3 * perplexity[2]


def test_fault_6_the_entropy_bonus_is_largest_where_codes_say_nothing():
  z, book = latents(2), latents(1, n=8)
  soft = [assign(z, book, beta, 1) for beta in (1e-3, 0.1, 1.0, 5.0)]
  entropy = [float(-(q * jnp.log(q)).sum()) for _, q in soft]
  rates = [information(np.asarray(p)) for p, _ in soft]
  assert entropy[0] == max(entropy) and rates[0] == min(rates) < 1e-3

"""The theory of the Blahut–Arimoto quantizer, against closed forms and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ba_machine import (
  EXACT,
  KEY,
  STILL,
  codebook_of,
  latents,
  machine,
  settled,
  started,
)
from jax.test_util import check_grads
from quantize_oracles import (
  assert_same_codes,
  distances,
  free_energy,
  lambda_max,
  log_sum_exp,
  posterior,
)
from scipy.stats import norm

from codax import averages
from codax.quantize import blahut_arimoto

# --- the phase transition -----------------------------------------------------------


def gaussian_grid():
  """256 points at the quantiles of a Gaussian of deviations (1, 1/2), turned, moved."""
  quantiles = lambda n: norm.ppf((np.arange(n) + 0.5) / n)
  grid = np.stack(np.meshgrid(quantiles(32), 0.5 * quantiles(8)), -1).reshape(-1, 2)
  turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
  return jnp.asarray(grid @ turn + 3.0, jnp.float32)


@pytest.mark.parametrize('balance', [0.0, 0.5])
@pytest.mark.parametrize('ratio', [0.95, 1.05])
def test_codewords_part_at_the_critical_beta(balance, ratio):
  """Rose 1998, section III: one distinct codeword below beta_c, more above."""
  values = {'num_codes': 4, 'balance': balance, 'beta_schedule': 'constant'}
  _, state, _ = settled(800, gaussian_grid(), beta_end=ratio, **values, **EXACT)
  width = np.ptp(np.asarray(state.codebook[0]), axis=0).max()
  if ratio < 1:
    assert width < 1e-3  # of a deviation of 1; they started 1.5 apart
  else:
    assert width > 0.1


# --- the family of fixed points -----------------------------------------------------

FAMILY = {'num_codes': 5, 'beta_end': 4.0, **STILL}


def fixed_point(z, book, beta, c, rounds=4000):
  """w = c log m(w) by damped substitution, not the map that is tested."""
  w = np.full(len(book), -np.log(len(book)))
  for _ in range(rounds):
    m = posterior(z, book, w, beta)[0].mean(0)
    w = 0.8 * w + 0.2 * c * np.log(m)
    w -= log_sum_exp(w)
  return w


def objective(post, d, beta, c):
  """E d + (c H(m) - H(P | z)) / beta, the module docstring's, in float64."""
  h = lambda p: -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
  bracket = c * h(post.mean(0)) - h(post).mean()
  return (post * d).sum(1).mean() + bracket / beta


@pytest.mark.parametrize('balance', [0.0, 0.25, 0.5, 0.75])
def test_fixed_points_are_c_log_m_and_minimize_the_objective(balance):
  z, c = latents(), (1 - 2 * balance) / (1 - balance)
  params, state, _ = settled(1000, z, balance=balance, **FAMILY)
  book = codebook_of(params, state)[0]
  beta = 4.0 / (2 * lambda_max(z))
  w = np.asarray(state.log_weights[0], np.float64)
  log_m = np.log(np.asarray(averages.value(state.marginal)[0], np.float64))
  away = w - c * log_m
  np.testing.assert_allclose(away, away.mean(), atol=2e-4)
  np.testing.assert_allclose(w, fixed_point(z, book, beta, c), atol=2e-3)
  # the objective is convex in P for c <= 1: no other assignment is better
  post, _ = posterior(z, book, w, beta)
  best = objective(post, distances(z, book), beta, c)
  rng = np.random.default_rng(0)
  for size in (1e-3, 1e-2, 0.1, 1.0):
    other = np.log(post) + size * rng.normal(size=post.shape)
    other = np.exp(other - log_sum_exp(other)[:, None])
    assert objective(other, distances(z, book), beta, c) > best
  shift = np.log(post) + 0.05 * rng.normal(size=5)
  shift = np.exp(shift - log_sum_exp(shift)[:, None])
  assert objective(shift, distances(z, book), beta, c) > best


def test_balance_one_uses_all_codes_equally():
  """Sinkhorn: uniform marginals to 1e-4, where Blahut–Arimoto's are far from it."""
  z = latents(1)
  even = settled(1000, z, balance=1.0, **FAMILY)[1]
  np.testing.assert_allclose(averages.value(even.marginal), 0.2, atol=1e-4)
  cheap = settled(1000, z, balance=0.0, **FAMILY)[1]
  assert np.ptp(averages.value(cheap.marginal)) > 0.05


def test_more_balance_raises_the_entropy_of_use():
  entropies = []
  for balance in (0.0, 0.25, 0.5, 0.75, 1.0):
    state = settled(1000, latents(2), balance=balance, **FAMILY)[1]
    m = averages.value(state.marginal)[0]
    entropies.append(float(-(m * jnp.log(m)).sum()))
  assert (np.diff(entropies) > 0).all()


@pytest.mark.parametrize('values', [STILL, {**EXACT, 'beta_schedule': 'constant'}])
def test_objective_over_steps_never_rises(values):
  """b = 0, codebook still or moving: each step is a descent of the free energy."""
  z = latents(3)
  q, _, run = machine(num_codes=5, beta_end=8.0, **values)
  params, state = started(q, z)
  beta = 8.0 / (2 * lambda_max(z))
  _, (w, books, _) = run(params, state, z, 40)
  still = params.get('codebook')
  path = [free_energy(z, codebook_of(params, state)[0], state.log_weights[0], beta)]
  for i in range(40):
    book = still[0] if books is None else books[i][0]
    path.append(free_energy(z, book, w[i, 0], beta))
  assert (np.diff(path) <= 1e-6).all() and path[-1] < path[0] - 1e-3


def test_iterations_equal_steps_on_the_same_batch():
  z = latents(4)
  values = {'num_codes': 5, 'balance': 0.25, 'beta_end': 3.0, **STILL}
  thrice = settled(1, z, iterations=3, **values)[1]
  once = settled(3, z, iterations=1, **values)[1]
  np.testing.assert_allclose(thrice.log_weights, once.log_weights, atol=1e-5)
  assert np.abs(settled(1, z, **values)[1].log_weights - once.log_weights).max() > 1e-3


# --- codes --------------------------------------------------------------------------


@pytest.mark.parametrize('offset', [0.0, 300.0])
def test_codes_at_infinite_beta_are_the_nearest(offset):
  z = latents(5, n=200) + offset
  params, state, _ = settled(3, z, num_codes=16, balance=0.5, beta_end=1e6, **STILL)
  out = machine(num_codes=16, balance=0.5, beta_end=1e6, **STILL)[1](params, state, z)
  assert_same_codes(out.codes[:, 0], distances(z, codebook_of(params, state)[0]))


def test_codes_are_the_entropy_constrained_choice():
  """argmin d - w / beta in float64, for weights far from uniform."""
  z = latents(6, n=200)
  q, step, _ = machine(num_codes=16, beta_end=5.0, **STILL)
  params, state = started(q, z)
  w = np.random.default_rng(0).normal(size=(1, 16)) * 4
  state = state.replace(log_weights=jnp.asarray(w, jnp.float32))
  codes = step(params, state, z).codes[:, 0]
  beta = 5.0 / (2 * lambda_max(z))
  d = distances(z, codebook_of(params, state)[0])
  assert_same_codes(codes, d - w / beta)
  assert (d.argmin(1) != np.asarray(codes)).mean() > 0.2


@pytest.mark.parametrize('chunk', [16, 24])
@pytest.mark.parametrize('codebook', ['ema', 'free_energy'])
def test_chunks_of_any_size_change_nothing(chunk, codebook):
  """Also where the last chunk is short: 64 = 2 * 24 + 16."""
  z, values = latents(7), {'num_codes': 5, 'iterations': 3, 'codebook': codebook}
  outs = []
  for c in (0, chunk):
    q, step, _ = machine(chunk=c, **values)
    params, state = started(q, z)
    outs.append(step(params, state, z))
  np.testing.assert_array_equal(outs[0].codes, outs[1].codes)
  same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(same, outs[0][2:], outs[1][2:])


def test_stochastic_codes_are_drawn_from_p_and_later_the_mode():
  q, step, _ = machine(num_codes=5, stochastic_steps=10, beta_end=1.5, **STILL)
  params, state = started(q, latents(8))
  z = jnp.tile(latents(8)[:1], (4000, 1))
  beta = 1.5 * blahut_arimoto.critical_beta(state)[0]
  p = posterior(z[:1], params['codebook'][0], state.log_weights[0], float(beta))[0][0]
  early = step(params, state, z, rng=KEY, step=9)
  found = np.bincount(early.codes[:, 0], minlength=5) / 4000
  assert (np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()
  assert p.max() < 0.9
  picked = np.asarray(params['codebook'][0])[early.codes[:, 0]]
  np.testing.assert_array_equal(early.values, picked)
  again = step(params, state, z, rng=jax.random.key(1), step=9)
  assert (early.codes != again.codes).any()
  late = step(params, state, z, rng=KEY, step=10)
  np.testing.assert_array_equal(late.codes, p.argmax())
  test = jax.jit(functools.partial(q.quantize, train=False))(params, state, z)
  np.testing.assert_array_equal(test.codes, p.argmax())
  with pytest.raises(ValueError, match='rng'):
    q.quantize(params, state, z, train=True, step=0)


# --- gradients ----------------------------------------------------------------------


@pytest.mark.parametrize('chunk', [0, 24])
def test_codebook_gradient_is_the_closed_form(chunk):
  """2 mean_n P (e - z), and it is the derivative of the loss that is reported."""
  z = latents(9) + 5.0
  values = {**STILL, 'beta_end': 3.0, 'chunk': chunk}
  q, _, _ = machine(num_codes=5, **values)
  params, state = started(q, z)
  w = jnp.asarray(np.random.default_rng(1).normal(size=(1, 5)), jnp.float32)
  state = state.replace(log_weights=w)
  loss = jax.jit(
    lambda book: q.quantize({'codebook': book}, state, z, train=True).losses[
      'free_energy'
    ]
  )
  book = params['codebook']
  beta = float(3.0 * blahut_arimoto.critical_beta(state)[0])
  post, _ = posterior(z, book[0], w[0], beta)
  book64, z64 = np.asarray(book[0], np.float64), np.asarray(z, np.float64)
  exact = 2 * (post[:, :, None] * (book64[None] - z64[:, None])).mean(0)
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(book)[0], exact, rtol=1e-3, atol=1e-5
  )
  np.testing.assert_allclose(loss(book), free_energy(z, book[0], w[0], beta), rtol=1e-5)
  check_grads(loss, (book,), order=1, modes=['rev'], rtol=5e-2, atol=5e-3, eps=1e-2)


def test_gradient_to_latents_is_the_decoders_and_the_commitments():
  z, g = latents(10), latents(11)
  q, _, _ = machine(num_codes=5, commitment=0.5, **STILL)
  params, state = started(q, z)

  def loss(params, z):
    out = q.quantize(params, state, z, train=True)
    return (out.values * g).sum() + out.losses['commitment'], out.values

  (to_params, to_z), values = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, z)
  exact = np.asarray(g) + 0.5 * 2 * np.asarray(z - values) / z.size
  np.testing.assert_allclose(to_z, exact, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(to_params['codebook'], 0)

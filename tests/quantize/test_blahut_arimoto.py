"""The theory of the Blahut–Arimoto quantiser, and its arithmetic against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from codax import averages
from codax.quantize import annealing, blahut_arimoto, get
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

# One call is one exact step on the batch at hand: nothing is averaged over calls.
EXACT = {'marginal_decay': 0.0, 'codebook_decay': 0.0, 'revive_below': 0.0}
STILL = {**EXACT, 'codebook': 'free_energy', 'beta_schedule': 'constant'}
KEY = jax.random.key(0)


def latents(seed=0, n=64, d=4):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


@functools.cache
def machine(**knobs):
  """(quantiser, jitted train step, jitted scan of train steps on one batch)."""
  q = get('blahut_arimoto', **knobs)
  step = jax.jit(functools.partial(q.quantize, train=True))

  def run(params, state, z, steps):
    def body(state, i):
      out = q.quantize(params, state, z, train=True, step=i)
      return out.state, (out.state.log_weights, out.state.codebook, out.stats)

    return jax.lax.scan(body, state, jnp.arange(steps))

  return q, step, jax.jit(run, static_argnums=3)


def settled(steps, z, **knobs):
  """Params, state and history after `steps` steps on one batch."""
  q, _, run = machine(**knobs)
  params, state = q.init(KEY, z)
  state, history = run(params, state, z, steps)
  return params, state, history


def codebook_of(params, state):
  book = params['codebook'] if state.codebook is None else state.codebook
  return np.asarray(book, np.float64)


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
  knobs = {'num_codes': 4, 'balance': balance, 'beta_schedule': 'constant'}
  _, state, _ = settled(800, gaussian_grid(), beta_end=ratio, **knobs, **EXACT)
  width = np.ptp(np.asarray(state.codebook[0]), axis=0).max()
  if ratio < 1:
    assert width < 1e-3  # of a deviation of 1; they started 1.5 apart
  else:
    assert width > 0.1


# --- the family of fixed points -----------------------------------------------------


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
def test_fixed_points_are_c_log_m_and_minimise_the_objective(balance):
  z, c = latents(), (1 - 2 * balance) / (1 - balance)
  knobs = {'num_codes': 5, 'balance': balance, 'beta_end': 4.0}
  params, state, _ = settled(1500, z, **knobs, **STILL)
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


@pytest.mark.parametrize('ratio', [2.0, 10.0])
def test_balance_one_uses_all_codes_alike(ratio):
  """Sinkhorn: uniform marginals to 1e-4, where Blahut–Arimoto's are far from it."""
  z = latents(1)
  knobs = {'num_codes': 5, 'beta_end': ratio}
  even = settled(1000, z, balance=1.0, **knobs, **STILL)[1]
  np.testing.assert_allclose(averages.value(even.marginal), 0.2, atol=1e-4)
  cheap = settled(1000, z, balance=0.0, **knobs, **STILL)[1]
  assert np.ptp(averages.value(cheap.marginal)) > 0.05


def test_more_balance_is_more_use():
  z = latents(2)
  entropies = []
  for balance in (0.0, 0.25, 0.5, 0.75, 1.0):
    knobs = {'num_codes': 5, 'balance': balance, 'beta_end': 4.0}
    m = averages.value(settled(1000, z, **knobs, **STILL)[1].marginal)[0]
    entropies.append(float(-(m * jnp.log(m)).sum()))
  assert (np.diff(entropies) > 0).all()


@pytest.mark.parametrize('knobs', [STILL, {**EXACT, 'beta_schedule': 'constant'}])
def test_the_objective_never_rises(knobs):
  """b = 0, codebook still or moving: each step is a descent of the free energy."""
  z = latents(3)
  q, _, run = machine(num_codes=8, beta_end=8.0, **knobs)
  params, state = q.init(KEY, z)
  beta = 8.0 / (2 * lambda_max(z))
  _, (w, books, _) = run(params, state, z, 40)
  still = params.get('codebook')
  path = [free_energy(z, codebook_of(params, state)[0], state.log_weights[0], beta)]
  for i in range(40):
    book = still[0] if books is None else books[i][0]
    path.append(free_energy(z, book, w[i, 0], beta))
  assert (np.diff(path) <= 1e-6).all() and path[-1] < path[0] - 1e-3


def test_iterations_are_steps_on_the_same_batch():
  z = latents(4)
  knobs = {'num_codes': 5, 'balance': 0.25, 'beta_end': 3.0, **STILL}
  thrice = settled(1, z, iterations=3, **knobs)[1]
  once = settled(3, z, iterations=1, **knobs)[1]
  np.testing.assert_allclose(thrice.log_weights, once.log_weights, atol=1e-5)
  assert np.abs(settled(1, z, **knobs)[1].log_weights - once.log_weights).max() > 1e-3


# --- codes --------------------------------------------------------------------------


@pytest.mark.parametrize('offset', [0.0, 300.0])
def test_an_infinite_beta_is_the_nearest_neighbour(offset):
  z = latents(5, n=200) + offset
  params, state, _ = settled(3, z, num_codes=16, balance=0.5, beta_end=1e6, **STILL)
  out = machine(num_codes=16, balance=0.5, beta_end=1e6, **STILL)[1](params, state, z)
  assert_same_codes(out.codes[:, 0], distances(z, codebook_of(params, state)[0]))


def test_codes_are_the_entropy_constrained_choice():
  """argmin d - w / beta in float64, for weights far from uniform."""
  z = latents(6, n=200)
  q, step, _ = machine(num_codes=16, beta_end=5.0, **STILL)
  params, state = q.init(KEY, z)
  w = np.random.default_rng(0).normal(size=(1, 16)) * 4
  state = state.replace(log_weights=jnp.asarray(w, jnp.float32))
  codes = step(params, state, z).codes[:, 0]
  beta = 5.0 / (2 * lambda_max(z))
  d = distances(z, codebook_of(params, state)[0])
  assert_same_codes(codes, d - w / beta)
  assert (d.argmin(1) != np.asarray(codes)).mean() > 0.2


@pytest.mark.parametrize('chunk', [16, 24, 63])
@pytest.mark.parametrize('codebook', ['ema', 'free_energy'])
def test_chunks_change_nothing(chunk, codebook):
  """Also where the last chunk is short: 64 = 2 * 24 + 16 = 63 + 1."""
  z, knobs = latents(7), {'num_codes': 5, 'iterations': 3, 'codebook': codebook}
  outs = []
  for c in (0, chunk):
    q, step, _ = machine(chunk=c, **knobs)
    params, state = q.init(KEY, z)
    outs.append(step(params, state, z))
  np.testing.assert_array_equal(outs[0].codes, outs[1].codes)
  same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(same, outs[0][2:], outs[1][2:])


def test_stochastic_codes_are_drawn_from_p_and_later_hard():
  q, step, _ = machine(
    num_codes=5, codes='stochastic', stochastic_steps=10, beta_end=1.5, **STILL
  )
  params, state = q.init(KEY, latents(8))
  z = jnp.tile(latents(8)[:1], (4000, 1))
  beta = 1.5 * blahut_arimoto.critical_beta(state)[0]
  p = posterior(z[:1], params['codebook'][0], state.log_weights[0], float(beta))[0][0]
  early = step(params, state, z, rng=KEY, step=9)
  found = np.bincount(early.codes[:, 0], minlength=5) / 4000
  assert (np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()
  assert p.max() < 0.9
  np.testing.assert_array_equal(
    early.values, q.decode(params, state, early.codes)
  )
  again = step(params, state, z, rng=jax.random.key(1), step=9)
  assert (early.codes != again.codes).any()
  late = step(params, state, z, rng=KEY, step=10)
  np.testing.assert_array_equal(late.codes, p.argmax())
  test = q.quantize(params, state, z, train=False, step=0)
  np.testing.assert_array_equal(test.codes, p.argmax())
  with pytest.raises(ValueError, match='rng'):
    q.quantize(params, state, z, train=True, step=0)


# --- gradients ----------------------------------------------------------------------


@pytest.mark.parametrize('chunk', [0, 24])
def test_codebook_gradient_is_the_closed_form(chunk):
  """2 mean_n P (e - z), and it is the derivative of the loss that is reported."""
  z = latents(9) + 5.0
  knobs = {**STILL, 'beta_end': 3.0, 'chunk': chunk, 'codebook_weight': 0.5}
  q, _, _ = machine(num_codes=5, **knobs)
  params, state = q.init(KEY, z)
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
  np.testing.assert_allclose(jax.grad(loss)(book)[0], 0.5 * exact, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(
    loss(book), 0.5 * free_energy(z, book[0], w[0], beta), rtol=1e-5
  )
  check_grads(loss, (book,), order=1, modes=['rev'], rtol=5e-2, atol=5e-3, eps=1e-2)


def test_latents_get_the_decoders_gradient_and_the_commitment():
  z, g = latents(10), latents(11)
  q, _, _ = machine(num_codes=5, commitment=0.5, **STILL)
  params, state = q.init(KEY, z)

  def loss(params, z):
    out = q.quantize(params, state, z, train=True)
    return (out.values * g).sum() + out.losses['commitment'], out.values

  (to_params, to_z), values = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, z)
  exact = np.asarray(g) + 0.5 * 2 * np.asarray(z - values) / z.size
  np.testing.assert_allclose(to_z, exact, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(to_params['codebook'], 0)


# --- running averages ---------------------------------------------------------------


class Oracle:
  """The quantiser's state in float64, one group, 'ema' codebook."""

  def __init__(self, codebook, first, balance, decay, code_decay):
    k = len(codebook)
    uniform = np.full(k, 1 / k)
    self.b, self.k, self.decay, self.code_decay = balance, k, decay, code_decay
    self.e, self.w = np.asarray(codebook, np.float64), np.log(uniform)
    centred = first - first.mean(0)
    cov = centred.T @ centred / len(first)
    seen = [uniform, np.ones(k), uniform, first.mean(0), cov]
    self.history = [(decay, seen)]
    self.centroids = [(code_decay, [uniform, self.e * uniform[:, None]])]

  @staticmethod
  def average(history):
    """Debiased: weights decay^age, divided by their sum."""
    decay = history[0][0]
    weights = decay ** np.arange(len(history) - 1, -1, -1.0)
    weights /= weights.sum()
    columns = zip(*(values for _, values in history))
    return [sum(a * x for a, x in zip(weights, col)) for col in columns]

  def step(self, z, ratio):
    *_, mean, cov = self.average(self.history)
    beta = ratio / (2 * np.linalg.eigvalsh(cov)[-1])
    post, _ = posterior(z, self.e, self.w, beta)
    codes = post.argmax(1)
    m = post.mean(0)
    hard = np.bincount(codes, minlength=self.k) / len(z)
    about = (z - mean).T @ (z - mean) / len(z)
    seen = [m, m / np.exp(self.w), hard, z.mean(0), about]
    self.history.append((self.decay, seen))
    m, f, *_ = self.average(self.history)
    w = (1 - self.b) * np.log(m) - self.b * np.log(f) - self.b * np.log(self.k)
    self.w = w - log_sum_exp(w)
    self.centroids.append((self.code_decay, [post.mean(0), post.T @ z / len(z)]))
    mass, total = self.average(self.centroids)
    self.e = total / mass[:, None]
    return codes


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_training_follows_the_oracle(balance):
  knobs = {'num_codes': 6, 'balance': balance, 'beta_schedule': 'constant'}
  decays = {'marginal_decay': 0.9, 'codebook_decay': 0.8}
  q, step, _ = machine(beta_end=3.0, **knobs, **decays)
  mix = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.3, 0], [1, 0, 0, 0.5]])
  batch = lambda i: np.asarray(latents(20 + i), np.float64) @ mix + [4, 0, -2, 0.1 * i]
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  params, state = q.init(KEY, f32(batch(0)))
  oracle = Oracle(state.codebook[0], batch(0), balance, 0.9, 0.8)
  for i in range(6):
    out = step(params, state, f32(batch(i)))
    codes = oracle.step(batch(i), 3.0)
    state = out.state
    assert (np.asarray(out.codes[:, 0]) == codes).mean() > 0.96
    np.testing.assert_allclose(state.codebook[0], oracle.e, atol=2e-3)
    np.testing.assert_allclose(state.log_weights[0], oracle.w, atol=5e-3)
    prior = oracle.average(oracle.history)[2]
    np.testing.assert_allclose(q.code_prior(state)[0], prior, atol=2e-3)


def test_groups_are_independent_quantisers():
  z = latents(12, d=6)
  q2, step2, _ = machine(num_codes=5, groups=2)
  _, step1, _ = machine(num_codes=5)
  params, state = q2.init(KEY, z)
  out = step2(params, state, z)
  assert out.codes.shape == (64, 2)
  for g in range(2):
    own = lambda x: x[g : g + 1] if x.ndim and x.shape[0] == 2 else x
    part = step1(params, jax.tree.map(own, state), z[:, 3 * g : 3 * g + 3])
    np.testing.assert_array_equal(out.codes[:, g : g + 1], part.codes)
    np.testing.assert_allclose(out.values[:, 3 * g : 3 * g + 3], part.values)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, jax.tree.map(own, out.state), part.state)


# --- beta ---------------------------------------------------------------------------


@pytest.mark.parametrize('offset', [0.0, 1e4])
def test_critical_beta_is_that_of_the_covariance(offset):
  z = np.asarray(latents(13, d=5)) @ np.diag([3, 1, 1, 0.5, 0.1]) + offset
  _, state, _ = settled(3, jnp.asarray(z, jnp.float32), num_codes=4, **EXACT)
  exact = 1 / (2 * lambda_max(np.asarray(z, np.float32)))
  np.testing.assert_allclose(blahut_arimoto.critical_beta(state)[0], exact, rtol=1e-3)


def test_spread_follows_moving_latents():
  """The first eigenvector changes place and the mean drifts; a dead stop in between."""
  follow = jax.jit(annealing.follow)
  batch = lambda seed, scale, mean: latents(seed, d=3)[None] * jnp.array(
    [[scale]]
  ) + mean
  spread = annealing.start(batch(0, [5.0, 1.0, 1.0], 0.0), 0.5)
  spread = follow(spread, jnp.ones((1, 64, 3)), 0.0)  # no spread at all
  assert np.isfinite(annealing.critical_beta(spread)).all()
  for i in range(100):
    z = batch(i, [0.5, 2.0, 1.0], 7.0)
    spread = follow(spread, z, 0.9)
  pooled = np.concatenate([batch(i, [0.5, 2.0, 1.0], 7.0)[0] for i in range(60, 100)])
  exact = 1 / (2 * lambda_max(pooled))
  np.testing.assert_allclose(annealing.critical_beta(spread)[0], exact, rtol=0.1)
  np.testing.assert_allclose(annealing.variances(spread)[0], [0.25, 4, 1], rtol=0.15)


@pytest.mark.parametrize('scale', [10.0, 1e-3])
def test_the_scale_of_the_latents_does_not_matter(scale):
  q, _, run = machine(num_codes=6, beta_steps=8)
  ends = []
  for factor in (1.0, scale):
    z = latents(14) * factor
    params, state = q.init(KEY, z)
    state, (w, books, stats) = run(params, state, z, 10)
    codes = q.quantize(params, state, z, train=False, step=9).codes
    ends.append((codes, w, books / factor, stats['beta_ratio'], stats['beta'] * factor**2))
  np.testing.assert_array_equal(ends[0][0], ends[1][0])
  for one, other in zip(ends[0][1:], ends[1][1:]):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'kind,middle', [('cosine', 5.0), ('exponential', 3.0), ('constant', 9.0)]
)
def test_schedules(kind, middle):
  cfg = blahut_arimoto.Config(
    beta_schedule=kind, beta_start=1.0, beta_end=9.0, beta_steps=100
  )
  beta = [float(annealing.schedule(cfg, jnp.float32(s))) for s in (0, 50, 100, 500)]
  start = 9.0 if kind == 'constant' else 1.0
  np.testing.assert_allclose(beta, [start, middle, 9.0, 9.0], rtol=1e-5)


@pytest.mark.parametrize('target', [1.0, 2.0])
def test_the_servo_finds_the_rate(target):
  knobs = {'num_codes': 8, 'beta_steps': 20, 'servo_gain': 0.1, 'beta_end': 6.0}
  decays = {'marginal_decay': 0.5, 'codebook_decay': 0.5}
  z = latents(15, n=256)
  _, _, (_, _, stats) = settled(
    500, z, target_bits=target, revive_below=0.0, **knobs, **decays
  )
  ratio, rate = np.asarray(stats['beta_ratio']), np.asarray(stats['rate_bits'])
  np.testing.assert_allclose(ratio[20], 6.0, rtol=1e-5)  # nothing before beta_steps
  assert abs(rate[-100:].mean() - target) < 0.1
  assert abs(rate[20] - target) > 0.2


def test_a_rate_out_of_reach_does_not_drive_beta_to_infinity():
  cfg = blahut_arimoto.Config(target_bits=8.0, servo_gain=1.0)
  log_servo = jnp.zeros(())
  for _ in range(9):
    log_servo = annealing.servo(cfg, log_servo, jnp.float32(0.5), jnp.float32(1e6))
  assert 2 < log_servo < 30


# --- knobs --------------------------------------------------------------------------

BASE = {'num_codes': 6, 'beta_end': 6.0, 'beta_steps': 4, 'kmeans_iterations': 2}
BASE |= {'revive_below': 0.9, 'marginal_decay': 0.5, 'codebook_decay': 0.5}
DRAWN = {'codes': 'stochastic', 'stochastic_steps': 1}
FREE = {'codebook': 'free_energy'}
SERVO = {'target_bits': 0.5}
CHANGES = {
  'num_codes': (7, {}),
  'groups': (2, {}),
  'iterations': (2, {}),
  'balance': (0.7, {}),
  'beta_start': (2.0, {}),
  'beta_end': (9.0, {}),
  'beta_steps': (2, {}),
  'beta_schedule': ('cosine', {}),
  'target_bits': (0.5, {}),
  'servo_gain': (0.1, SERVO),
  'codebook': ('free_energy', {}),
  'codes': ('stochastic', {'stochastic_steps': 3}),
  'stochastic_steps': (3, DRAWN),
  'marginal_decay': (0.8, {}),
  'codebook_decay': (0.8, {}),
  'commitment': (1.0, {}),
  'codebook_weight': (2.0, FREE),
  'revive_below': (0.0, {}),
  'revive_to': ('data', {}),
  'estimator': ('rotation', {}),
  'kmeans_iterations': (0, {}),
}


@functools.cache
def outcome(**knobs):
  """Leaves of everything that a few steps show: outputs, gradient, final state."""
  q = get('blahut_arimoto', **knobs)
  z = latents(16, n=48) ** 3  # a crowd and some far away: uneven use
  params, state = q.init(KEY, z)

  def loss(z, params, state, key, i):
    out = q.quantize(params, state, z, train=True, rng=key, step=i)
    return (out.values**3).sum() + sum(out.losses.values()), out

  def step(carry, i):
    params, state = carry
    key = jax.random.fold_in(KEY, i)
    grads, out = jax.grad(loss, (0, 1), has_aux=True)(z, params, state, key, i)
    params, state, _ = q.revive(params, out.state, key)
    return (params, state), (grads, out.codes, out.stats)

  return jax.tree.leaves(jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(6)))(
    (params, state)
  ))


@pytest.mark.parametrize('knob', CHANGES)
def test_every_knob_changes_something(knob):
  value, needs = CHANGES[knob]
  before = outcome(**BASE, **needs)
  after = outcome(**{**BASE, **needs, knob: value})
  assert all(np.isfinite(x).all() for x in after)
  assert [x.shape for x in before] != [x.shape for x in after] or any(
    (np.asarray(a) != np.asarray(b)).any() for a, b in zip(before, after)
  )


def test_no_knob_is_left_out():
  assert set(CHANGES) | {'chunk'} == set(blahut_arimoto.Config._fields)


@pytest.mark.parametrize('count', [10, 48, 100])
def test_batches_may_change_in_size(count):
  """Few latents at the start, fewer than codes even, and another number later."""
  q = get('blahut_arimoto', num_codes=24, revive_to='data')
  params, state = q.init(KEY, latents(17, n=16))
  out = q.quantize(params, state, latents(18, n=count), train=True)
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(out.state) == shapes(state)
  assert np.isfinite(out.state.codebook).all()

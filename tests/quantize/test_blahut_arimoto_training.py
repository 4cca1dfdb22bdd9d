"""What the Blahut–Arimoto quantizer keeps from batch to batch, beta, and its values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ba_machine import EXACT, KEY, latents, machine, settled, started
from quantize_oracles import lambda_max, log_sum_exp, posterior

from codax.quantize import blahut_arimoto, get
from codax.quantize.ops import annealing

# --- running averages ---------------------------------------------------------------


class Oracle:
  """The quantizer's state in float64, one group, 'ema' codebook."""

  def __init__(self, codebook, first, balance, decay, code_decay):
    k = len(codebook)
    uniform = np.full(k, 1 / k)
    self.b, self.k, self.decay, self.code_decay = balance, k, decay, code_decay
    self.e, self.w = np.asarray(codebook, np.float64), np.log(uniform)
    centered = first - first.mean(0)
    cov = centered.T @ centered / len(first)
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
def test_state_over_batches_follows_the_oracle(balance):
  values = {'num_codes': 5, 'balance': balance, 'beta_schedule': 'constant'}
  decays = {'marginal_decay': 0.9, 'codebook_decay': 0.8}
  q, step, _ = machine(beta_end=3.0, **values, **decays)
  mix = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.3, 0], [1, 0, 0, 0.5]])
  batch = lambda i: np.asarray(latents(20 + i), np.float64) @ mix + [4, 0, -2, 0.1 * i]
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  params, state = started(q, f32(batch(0)))
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


def test_groups_are_independent_quantizers():
  z = latents(12, d=6)
  q2, step2, _ = machine(num_codes=5, groups=2)
  _, step1, _ = machine(num_codes=5)
  params, state = started(q2, z)
  out = step2(params, state, z)
  assert out.codes.shape == (64, 2)
  for g in range(2):
    group = functools.partial(jax.tree.map, lambda x: x[g])  # noqa: B023
    alone = step1(params, group(state), z[:, 3 * g : 3 * g + 3])
    np.testing.assert_array_equal(out.codes[:, g : g + 1], alone.codes)
    np.testing.assert_allclose(out.values[:, 3 * g : 3 * g + 3], alone.values)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, group(out.state), alone.state)


# --- beta ---------------------------------------------------------------------------


@pytest.mark.parametrize('offset', [0.0, 1e4])
def test_critical_beta_is_that_of_the_covariance(offset):
  z = np.asarray(latents(13)) @ np.diag([3, 1, 1, 0.5]) + offset
  _, state, _ = settled(3, jnp.asarray(z, jnp.float32), num_codes=5, **EXACT)
  exact = 1 / (2 * lambda_max(np.asarray(z, np.float32)))
  np.testing.assert_allclose(blahut_arimoto.critical_beta(state)[0], exact, rtol=1e-3)


def test_covariance_of_moving_latents_follows_them():
  """The first eigenvector changes place and the mean drifts; a dead stop in between."""
  update = jax.jit(annealing.update)
  batch = lambda seed, scale, mean: (
    latents(seed, d=3)[None] * jnp.array([[scale]]) + mean
  )
  spread = annealing.init(batch(0, [5.0, 1.0, 1.0], 0.0), 0.5)
  for _ in range(2):  # no spread at all
    spread = update(spread, jnp.ones((1, 64, 3)), 0.0)
  assert np.isfinite(annealing.critical_beta(spread)).all()
  for i in range(100):
    z = batch(i, [0.5, 2.0, 1.0], 7.0)
    spread = update(spread, z, 0.9)
  pooled = np.concatenate([batch(i, [0.5, 2.0, 1.0], 7.0)[0] for i in range(60, 100)])
  exact = 1 / (2 * lambda_max(pooled))
  np.testing.assert_allclose(annealing.critical_beta(spread)[0], exact, rtol=0.1)
  np.testing.assert_allclose(annealing.variances(spread)[0], [0.25, 4, 1], rtol=0.15)


@pytest.mark.parametrize('scale', [10.0, 1e-3])
def test_codes_of_scaled_latents_stay_the_same(scale):
  q, _, run = machine(num_codes=5, beta_steps=8)
  ends = []
  for factor in (1.0, scale):
    z = latents(14) * factor
    params, state = started(q, z)
    state, (w, books, stats) = run(params, state, z, 10)
    quantize = jax.jit(functools.partial(q.quantize, train=False, step=9))
    codes = quantize(params, state, z).codes
    ends.append(
      (codes, w, books / factor, stats['beta_ratio'], stats['beta'] * factor**2)
    )
  np.testing.assert_array_equal(ends[0][0], ends[1][0])
  for one, other in zip(ends[0][1:], ends[1][1:]):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'kind,middle', [('cosine', 5.0), ('exponential', 3.0), ('constant', 9.0)]
)
def test_schedule_at_start_middle_and_end_has_known_values(kind, middle):
  cfg = blahut_arimoto.Config(
    beta_schedule=kind, beta_start=1.0, beta_end=9.0, beta_steps=100
  )
  beta = [float(annealing.schedule(cfg, jnp.float32(s))) for s in (0, 50, 100, 500)]
  start = 9.0 if kind == 'constant' else 1.0
  np.testing.assert_allclose(beta, [start, middle, 9.0, 9.0], rtol=1e-5)


@pytest.mark.parametrize('target', [1.0, 2.0])
def test_rate_controller_after_beta_steps_finds_the_rate(target):
  values = {
    'num_codes': 8,
    'beta_steps': 20,
    'rate_controller_gain': 0.1,
    'beta_end': 6.0,
  }
  decays = {'marginal_decay': 0.5, 'codebook_decay': 0.5}
  z = latents(15, n=256)
  _, _, (_, _, stats) = settled(500, z, target_bits=target, **values, **decays)
  ratio, rate = np.asarray(stats['beta_ratio']), np.asarray(stats['rate_bits'])
  np.testing.assert_allclose(ratio[20], 6.0, rtol=1e-5)  # nothing before beta_steps
  assert abs(rate[-100:].mean() - target) < 0.1
  assert abs(rate[20] - target) > 0.2


def test_rate_controller_of_an_unreachable_rate_stays_bounded():
  cfg = blahut_arimoto.Config(target_bits=8.0, rate_controller_gain=1.0)
  log_scale = jnp.zeros(())
  for _ in range(9):
    log_scale = annealing.rate_controller(
      cfg, log_scale, jnp.float32(0.5), jnp.float32(1e6)
    )
  assert 2 < log_scale < 30


# --- keys --------------------------------------------------------------------------

BASE = {'num_codes': 5, 'beta_end': 6.0, 'beta_steps': 2, 'kmeans_iterations': 2}
BASE |= {'marginal_decay': 0.5, 'codebook_decay': 0.5}
CONTROLLED = {'target_bits': 0.5}
CHANGES = {
  'iterations': (2, {}),
  'balance': (0.7, {}),
  'beta_start': (2.0, {}),
  'beta_end': (9.0, {}),
  'beta_steps': (1, {}),
  'beta_schedule': ('cosine', {}),
  'target_bits': (0.5, {}),
  'rate_controller_gain': (0.1, CONTROLLED),
  'codebook': ('free_energy', {}),
  'stochastic_steps': (3, {}),
  'marginal_decay': (0.8, {}),
  'codebook_decay': (0.8, {}),
  'commitment': (1.0, {}),
  'encoder_loss': ('free_energy', {}),
  'kmeans_iterations': (0, {}),
}


@functools.cache
def outcome(**values):
  """Leaves of everything that a few steps show: outputs, gradient, final state."""
  q = get('blahut_arimoto', revival={'below': 0.9}, **values)
  z = latents(16) ** 3  # a crowd and some far away: uneven use
  params, state = started(q, z)
  shown = []

  @jax.jit
  def step(z, params, state, i):
    key = jax.random.fold_in(KEY, i)

    def loss(z, params):
      out = q.quantize(params, state, z, train=True, rng=key, step=i)
      return (out.values**3).sum() + sum(out.losses.values()), out

    grads, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(z, params)
    params, state, _ = q.revive(params, out.state, key)
    return (grads, out.codes, out.stats), params, state

  for i in range(3):
    seen, params, state = step(z, params, state, i)
    shown.append(seen)
  return jax.tree.leaves((shown, params, state))


@pytest.mark.parametrize('key', CHANGES)
def test_config_key_changed_alone_changes_the_outcome(key):
  value, needs = CHANGES[key]
  before = outcome(**BASE, **needs)
  after = outcome(**{**BASE, **needs, key: value})
  assert all(np.isfinite(x).all() for x in after)
  shapes = lambda leaves: [x.shape for x in leaves]
  assert shapes(before) != shapes(after) or any(
    (np.asarray(a) != np.asarray(b)).any() for a, b in zip(before, after)
  )


def test_config_keys_are_all_tested():
  """The others: shapes are in test_registry.py, chunks change nothing, see above."""
  others = {'num_codes', 'chunk'}
  assert set(CHANGES) | others == set(blahut_arimoto.Config._fields)


@pytest.mark.parametrize('count', [10, 100])
def test_batches_of_another_size_keep_the_state_shapes(count):
  """Few latents at the start, fewer than codes even, and another number later."""
  q = get('blahut_arimoto', num_codes=24, revival={'to': 'data'})
  step = jax.jit(functools.partial(q.quantize, train=True))
  params, state = started(q, latents(17, n=16))
  out = step(params, state, latents(18, n=count))
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(out.state) == shapes(state)
  assert np.isfinite(out.state.inner.codebook).all()

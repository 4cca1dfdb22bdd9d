"""Optimisers: each option changes the update as its definition says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from codax.errors import CodaxError
from codax.training import optim

PARAMS = {
  'encoder': {'kernel': np.full((2, 3), 0.5, np.float32), 'bias': np.ones(3, 'f4')},
  'codebook': np.full((4, 2), -2.0, np.float32),
}
GRADS = jax.tree.map(
  lambda p: np.linspace(-1, 2, p.size, dtype=np.float32).reshape(p.shape), PARAMS
)


def _updates(steps=3, total=10, **options):
  """The last of `steps` updates and the learning rates, on a changing gradient."""
  tx, rates = optim.make(options, total, PARAMS)
  state, params = tx.init(PARAMS), PARAMS
  for i in range(steps):
    grads = jax.tree.map(lambda g, i=i: g * (1 + i) - 0.1 * i, GRADS)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return updates, rates


def _differ(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return any(not np.array_equal(x, y) for x, y in leaves)


@pytest.mark.parametrize(
  ('base', 'option'),
  [
    ({}, {'name': 'sgd'}),
    ({}, {'name': 'rmsprop'}),
    ({}, {'learning_rate': 1e-3}),
    ({}, {'schedule': 'cosine'}),
    ({}, {'schedule': 'linear'}),
    ({'schedule': 'cosine'}, {'end_factor': 0.5}),
    ({'schedule': 'linear'}, {'end_factor': 0.5}),
    ({}, {'warmup_steps': 5}),
    ({}, {'weight_decay': 0.1}),
    ({'weight_decay': 0.1}, {'decay_pattern': 'bias'}),
    ({'name': 'sgd'}, {'clip_norm': 0.1}),
    ({}, {'groups': (('codebook', 10.0),)}),
    ({}, {'b1': 0.5}),
    ({}, {'b2': 0.5}),
    ({}, {'eps': 1.0}),
    ({'name': 'sgd'}, {'momentum': 0.9}),
    ({'name': 'sgd', 'momentum': 0.9}, {'nesterov': True}),
    ({'name': 'rmsprop'}, {'decay': 0.5}),
    ({'name': 'rmsprop'}, {'eps': 1.0}),
    ({'name': 'rmsprop'}, {'momentum': 0.9}),
    ({'name': 'rmsprop'}, {'centered': True}),
  ],
)
def test_option_changed_alone_changes_the_update(base, option):
  assert _differ(_updates(**base)[0], _updates(**{**base, **option})[0])


def test_options_are_all_tested():
  tested = {
    key
    for mark in test_option_changed_alone_changes_the_update.pytestmark
    for _, option in mark.args[1]
    for key in option
  }
  assert tested == {*optim._COMMON, *(k for own in optim._OWN.values() for k in own)}


def test_option_of_none_is_the_default():
  options = dict.fromkeys([*optim._COMMON, 'b1', 'momentum'])
  assert not _differ(_updates()[0], _updates(**options)[0])


def test_sgd_with_clip_decay_and_groups_equals_the_hand_calculation():
  options = {
    'name': 'sgd',
    'learning_rate': 0.1,
    'clip_norm': 0.5,
    'weight_decay': 0.2,
    'groups': (('^codebook$', 3.0), ('bias', 0.0)),
  }
  updates, _ = _updates(steps=1, **options)
  flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(GRADS)])
  clip = 0.5 / np.linalg.norm(flat.astype(np.float64))
  for name, lr in (('codebook', 0.3), ('encoder', 0.1)):
    g, p = GRADS[name], PARAMS[name]
    g, p, u = (x['kernel'] if name == 'encoder' else x for x in (g, p, updates[name]))
    np.testing.assert_allclose(u, -lr * (clip * g + 0.2 * p), rtol=1e-5)
  np.testing.assert_array_equal(updates['encoder']['bias'], np.zeros(3))


def test_adamw_equals_a_float64_recurrence():
  updates, _ = _updates(
    steps=3, learning_rate=0.01, weight_decay=0.1, b1=0.8, b2=0.9, eps=1e-3
  )
  g0, p = GRADS['codebook'].astype(np.float64), PARAMS['codebook'].astype(np.float64)
  m = v = 0.0
  for i in range(3):
    g = g0 * (1 + i) - 0.1 * i
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
    m_hat, v_hat = m / (1 - 0.8 ** (i + 1)), v / (1 - 0.9 ** (i + 1))
    u = -0.01 * (m_hat / (np.sqrt(v_hat) + 1e-3) + 0.1 * p)
    p = p + u
  np.testing.assert_allclose(updates['codebook'], u, rtol=1e-4)


def test_centered_rmsprop_equals_a_float64_recurrence():
  updates, _ = _updates(
    steps=3, name='rmsprop', learning_rate=0.01, centered=True, decay=0.9, momentum=0.5,
    eps=1e-3,
  )  # fmt: skip
  g0 = GRADS['codebook'].astype(np.float64)
  m = v = u = 0.0
  for i in range(3):
    g = g0 * (1 + i) - 0.1 * i
    m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g * g
    u = 0.5 * u + g / np.sqrt(v - m * m + 1e-3)
  np.testing.assert_allclose(updates['codebook'], -0.01 * u, rtol=1e-4)


def test_centered_rmsprop_stays_finite_on_a_gradient_that_never_changes():
  """Rounding makes the variance of such a gradient negative, and its root NaN."""
  tx = optim._scale_by_deviation(0.9, 1e-8)
  grads = {'w': jnp.float32([3e4, 1e-30, 0.1])}
  state = tx.init(grads)
  for _ in range(300):
    updates, state = tx.update(grads, state)
  assert np.isfinite(updates['w']).all()


def test_components_are_optimized_apart():
  """Each as `make` does it alone: the clip norm is of the component's own gradient."""
  configs = {
    'encoder': {'name': 'sgd', 'learning_rate': 0.1, 'clip_norm': 0.5},
    'codebook': {'name': 'rmsprop', 'learning_rate': 0.2, 'schedule': 'cosine'},
  }
  tx, rates = optim.make_each(configs, 10, PARAMS)
  updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  for name, config in configs.items():
    alone, _ = optim.make(config, 10, PARAMS[name])
    wanted, _ = alone.update(GRADS[name], alone.init(PARAMS[name]), PARAMS[name])
    jax.tree.map(np.testing.assert_array_equal, updates[name], wanted)
  assert set(state) == set(PARAMS)
  logged = optim.rate_metrics(rates, jnp.int32(5))
  assert {k: round(float(v), 6) for k, v in logged.items()} == {
    'learning_rate/encoder': 0.1,
    'learning_rate/codebook': 0.1,
  }
  with pytest.raises(CodaxError, match="optimizers.codebook: unknown optimiser 'sgdd'"):
    optim.make_each({**configs, 'codebook': {'name': 'sgdd'}}, 10, PARAMS)


def test_restarted_schedules_begin_again_and_keep_moments():
  config = {'learning_rate': 1.0, 'schedule': 'linear', 'b1': 0.5}
  tx, _ = optim.make(config, 4, PARAMS)
  state = tx.init(PARAMS)
  for _ in range(3):
    _, state = tx.update(GRADS, state, PARAMS)
  again = optim.restart_schedules(state)
  late, early = (tx.update(GRADS, s, PARAMS)[0]['codebook'] for s in (state, again))
  np.testing.assert_allclose(late * 4, early, rtol=1e-5)


def test_weight_decay_spares_vectors_unless_told():
  plain, decayed = _updates()[0], _updates(weight_decay=0.5)[0]
  np.testing.assert_array_equal(plain['encoder']['bias'], decayed['encoder']['bias'])
  assert _differ(plain['codebook'], decayed['codebook'])
  only = _updates(weight_decay=0.5, decay_pattern='encoder/bias')[0]
  np.testing.assert_array_equal(plain['codebook'], only['codebook'])
  assert _differ(plain['encoder']['bias'], only['encoder']['bias'])


def test_schedules_at_known_points():
  options = {'learning_rate': 1.0, 'warmup_steps': 4, 'end_factor': 0.2}
  for name, middle in (('constant', 1.0), ('linear', 0.6), ('cosine', 0.6)):
    _, rates = optim.make({**options, 'schedule': name}, 24, PARAMS)
    found = [float(rates['base'](s)) for s in (0, 1, 3, 4, 14, 24)]
    end = 1.0 if name == 'constant' else 0.2
    np.testing.assert_allclose(found, [0.25, 0.5, 1.0, 1.0, middle, end], rtol=1e-6)


def test_rates_are_logged_for_each_group():
  _, rates = _updates(learning_rate=0.5, groups=(('bias', 0.1), ('encoder', 2.0)))
  found = optim.rate_metrics(rates, jnp.int32(0))
  assert {k: round(float(v), 6) for k, v in found.items()} == {
    'learning_rate': 0.5,
    'learning_rate/bias': 0.05,
    'learning_rate/encoder': 1.0,
  }


def test_reset_rows_forgets_moments_of_these_rows_only():
  tx, _ = optim.make({'groups': (('codebook', 2.0),)}, 10, PARAMS)
  _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  rows = jnp.array([True, False, False, True])
  after = optim.reset_rows(state, 'codebook', rows)
  for moment in ('mu', 'nu'):
    old, new = getattr(state[0], moment), getattr(after[0], moment)
    np.testing.assert_array_equal(new['codebook'][rows], 0)
    np.testing.assert_array_equal(new['codebook'][~rows], old['codebook'][~rows])
    np.testing.assert_array_equal(new['encoder']['bias'], old['encoder']['bias'])
    assert np.all(old['codebook'][0] != 0)
  assert after[0].count == state[0].count


@pytest.mark.parametrize('name', ['adamw', 'rmsprop'])
def test_reset_rows_of_the_same_scale_keep_their_second_moments(name):
  options = {'name': name} | ({'momentum': 0.5} if name == 'rmsprop' else {})
  tx, _ = optim.make(options, 10, PARAMS)
  _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  rows = jnp.array([True, False, False, True])
  after = optim.reset_rows(state, 'codebook', rows, has_same_scale=True)
  leaves = {}
  for tree in (state, after):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      leaves.setdefault(optim.path_name(path), []).append(leaf)
  changed = [name for name, (a, b) in leaves.items() if not np.array_equal(a, b)]
  first = '0/mu/codebook' if name == 'adamw' else '0/1/trace/codebook'
  assert changed == [first]
  np.testing.assert_array_equal(leaves[first][1][rows], 0)


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'name': 'adamm'}, "unknown optimiser 'adamm'; did you mean 'adam"),
    ({'schedule': 'cosin'}, "did you mean 'cosine'"),
    ({'learning_rat': 1.0}, "did you mean 'learning_rate'"),
    ({'name': 'sgd', 'b1': 0.9}, "option of the optimiser sgd 'b1'"),
    ({'learning_rate': -1.0}, 'learning_rate is -1.0; valid: 0 or more'),
    ({'learning_rate': float('nan')}, 'learning_rate is nan; valid: a number'),
    ({'b1': 1.0}, r'b1 must be in \[0, 1\)'),
    ({'groups': (('codebok', 2.0),)}, 'matches no parameter.*codebook'),
    ({'groups': (('code', 2.0), ('book', 3.0))}, "'book' matches no parameter"),
    ({'groups': (('(', 2.0),)}, 'not a regular expression'),
    ({'groups': (('codebook', 2.0, 3.0),)}, 'pairs'),
    ({'weight_decay': 0.1, 'decay_pattern': 'zzz'}, 'zzz'),
  ],
)
def test_bad_option_is_named(options, text):
  with pytest.raises(CodaxError, match=text):
    optim.make(options, 10, PARAMS)

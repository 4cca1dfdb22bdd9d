"""Activations against float64 oracles: values, gradients, starts, bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import errors
from codax.layers import activations
from codax.layers.activations import modules

C = 3


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def silu(x):
  return x * sigmoid(x)


def halves(x, count):
  return np.split(x, count, -1)


def casteljau(t, *points):
  """Evaluates a Bezier curve by repeated interpolation."""
  points = [np.broadcast_to(p, t.shape) for p in points]
  while len(points) > 1:
    points = [(1 - t) * a + t * b for a, b in zip(points, points[1:])]
  return points[0]


def rational(x, a, b):
  """Evaluates a safe rational function, a term at a time."""
  upper = sum(c * x**k for k, c in enumerate(a))
  return upper / (1 + np.abs(sum(c * x ** (k + 1) for k, c in enumerate(b))))


def divisive(x, beta, gamma, power):
  beta = np.maximum(beta, np.sqrt(1e-6 + 2.0**-36)) ** 2 - 2.0**-36
  gamma = np.maximum(gamma, 2.0**-18) ** 2 - 2.0**-36
  norm = [
    beta[i] + sum(gamma[i, j] * x[..., j] ** 2 for j in range(C)) for i in range(C)
  ]
  return x * np.stack(norm, -1) ** power


def pade(p, x):
  a, b = (np.repeat(p[k], C // p[k].shape[1], 1) for k in ('numerator', 'denominator'))
  return rational(x, a, b)


def split(to_t, to_points=lambda p: p):
  def oracle(p, x):
    t, *points = halves(x, 5)
    return casteljau(to_t(t), *map(to_points, points))

  return oracle


def glu(p, x):
  value, gate = halves(x, 2)
  return value * sigmoid(gate)


def pade_split(bound):
  def oracle(p, x):
    x, a0, a1, a2, b1 = halves(x, 5)
    return rational(bound(x), (a0, a1, a2), (b1,))

  return oracle


ORACLES = {
  ('relu', ()): lambda p, x: np.where(x > 0, x, 0),
  ('silu', ()): lambda p, x: silu(x),
  ('gelu', ()): lambda p, x: (
    x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
  ),
  ('glu', ()): glu,
  ('gdn', ()): lambda p, x: divisive(x, p['beta'], p['gamma'], -0.5),
  ('gdn', (('inverse', True),)): lambda p, x: divisive(x, p['beta'], p['gamma'], 0.5),
  ('bezier_split', ()): split(sigmoid),
  ('bezier_split', (('gate', 'tanh'), ('points', 'silu'))): split(np.tanh, silu),
  ('bezier_split', (('gate', 'silu'),)): split(silu),
  ('bezier', ()): lambda p, x: casteljau(sigmoid(x), *p['points']),
  ('pade', ()): pade,
  ('pade', (('channel_groups', 1), ('init', 'silu'))): pade,
  ('pade_split', ()): pade_split(np.tanh),
  ('pade_split', (('gate', 'none'),)): pade_split(lambda x: x),
}


def differences(oracle, params, x, grad):
  """Returns the central differences of sum(oracle * grad), for parameters and x."""
  values, tree = jax.tree.flatten((params, x))
  out = [np.zeros_like(v) for v in values]
  for value, slope in zip(values, out):
    for at in np.ndindex(value.shape):
      ends = []
      for step in (1e-5, -1e-5):
        kept, value[at] = value[at], value[at] + step
        ends.append(np.sum(oracle(*jax.tree.unflatten(tree, values)) * grad))
        value[at] = kept
      slope[at] = (ends[0] - ends[1]) / 2e-5
  return jax.tree.unflatten(tree, out)


@pytest.mark.parametrize(('name', 'options'), ORACLES)
def test_activation_has_the_values_and_gradients_of_its_oracle(name, options):
  act, oracle = activations.get(name, **dict(options)), ORACLES[name, options]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 4, act.expansion * C))
  grad = rng.normal(size=(2, 4, C))
  params = {k: v + 0.1 * rng.random(v.shape) for k, v in act.init(C).items()}
  expected = oracle(params, x)
  np.testing.assert_allclose(act.apply(params, x, np), expected, rtol=1e-6, atol=1e-6)

  @jax.jit
  def run(params, x, grad, large):
    small = lambda x: x.astype(jnp.bfloat16)
    value, pull = jax.vjp(act.apply, params, x)
    coarse, pull_coarse = jax.vjp(act.apply, params, small(large))
    return value, pull(grad), coarse, pull_coarse(small(grad))

  large = x * np.array([[[1e-3]], [[300.0]]])
  value, slopes, coarse, coarse_slopes = run(
    *jax.tree.map(np.float32, (params, x, grad, large))
  )
  np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves(slopes),
    jax.tree.leaves(differences(oracle, params, x, grad)),
    strict=True,
  ):
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-4)
  assert coarse.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves((coarse, coarse_slopes)):
    assert np.isfinite(np.float32(leaf)).all()


def test_activations_begin_as_stated():
  points = activations.get('bezier').init(2)['points']
  np.testing.assert_array_equal(points, [[-2] * 2, [-0.5] * 2, [0.5] * 2, [2] * 2])
  for init, ends in (('log_variance', (-3, 3)), ('rgb', (-1, 1))):
    act = activations.get('bezier', init=init)
    y = act.apply(act.init(1), np.array([[-40.0], [40.0]]), np)
    np.testing.assert_allclose(y[:, 0], ends, atol=1e-6)  # a curve ends at p0 and p3
  x = np.linspace(-3, 3, 61)[:, None]
  for init, target, error in (
    ('leaky_relu', np.where(x > 0, x, 0.01 * x), 0.034),
    ('silu', silu(x), 2e-5),
  ):
    act = activations.get('pade', init=init)
    assert np.abs(act.apply(act.init(1), x, np) - target).max() < error
  gdn = activations.get('gdn')
  np.testing.assert_allclose(
    gdn.apply(gdn.init(1), x, np), x / np.sqrt(1 + 0.1 * x**2), rtol=1e-6
  )


def test_rational_stays_finite_far_out():
  act = activations.get('pade')
  x = jnp.array([[-1e30], [1e30]])
  run = jax.jit(jax.value_and_grad(lambda p, x: act.apply(p, x).sum(), (0, 1)))
  value, slopes = run(act.init(1), x)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slopes)))


def test_bound_of_gdn_lets_a_parameter_return_and_fall_no_further():
  act = activations.get('gdn')
  params = {'beta': np.zeros(1, np.float32), 'gamma': np.full((1, 1), -1, np.float32)}
  x = jnp.ones((1, 1))
  # a greater beta makes y smaller: descent on y raises it, descent on -y lowers it
  slopes_of = jax.jit(jax.grad(lambda p, sign: (sign * act.apply(p, x)).sum()))
  for sign, is_passed in ((1, True), (-1, False)):
    slopes = slopes_of(params, jnp.full((1, 1), sign, jnp.float32))
    assert bool(slopes['beta'][0] != 0) is is_passed
    assert bool(slopes['gamma'][0, 0] != 0) is is_passed


def test_module_holds_the_parameters_of_its_activation():
  act = activations.get('bezier')
  assert act is activations.get('bezier')  # programs are compiled once
  module, x = modules.Activated(act), jnp.ones((2, C))
  params = module.init(jax.random.key(0), x)['params']
  np.testing.assert_array_equal(params['points'], act.init(C)['points'])
  np.testing.assert_array_equal(
    module.apply({'params': params}, x), act.apply(params, x)
  )
  relu = modules.Activated(activations.get('relu'))
  assert not jax.tree.leaves(relu.init(jax.random.key(0), x))


@pytest.mark.parametrize(
  ('name', 'options', 'text'),
  [
    ('bezir', {}, "unknown activation 'bezir'; did you mean 'bezier'"),
    ('relu', {'gate': 'tanh'}, "unknown option of the activation relu 'gate'"),
    ('bezier_split', {'gate': 'relu'}, 'valid: sigmoid, silu, tanh'),
    ('bezier', {'init': (1.0, 2.0)}, r'must be 4 numbers, not \(1.0, 2.0\)'),
    ('pade', {'channel_groups': 0}, 'a number of 1 or more'),
  ],
)
def test_bad_activation_is_one_line(name, options, text):
  with pytest.raises(errors.CodaxError, match=text):
    activations.get(name, **options)


def test_channels_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='7 channels are not 5 groups'):
    activations.get('bezier_split').apply({}, np.zeros((1, 7)), np)
  with pytest.raises(errors.CodaxError, match='3 channels are not 2 groups'):
    activations.get('pade', channel_groups=2).init(3)

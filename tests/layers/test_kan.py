"""KAN layers against SciPy's B-splines, closed forms, finite differences and XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.interpolate import BSpline

from codax.errors import CodaxError
from codax.layers import kan
from codax.metrics import complexity

# one program: operation by operation there are dozens
apply = jax.jit(kan.apply, static_argnums=2)
SPECS = [
  kan.Spec(5, 3, -2.0, 2.0, 'linear'),
  kan.Spec(1, 3, -1.0, 2.0, 'none'),
  kan.Spec(2, 3, 0.5, 1.5, 'relu'),
  kan.Spec(8, 1, -4.0, 4.0, 'silu'),
  kan.Spec(1, 1, -1.0, 1.0, 'none'),
  kan.Spec(2, 1, -1.0, 3.0, 'linear'),
]


def layer(spec, d_in=3, d_out=4, seed=0):
  """A layer with splines that are not zero."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: np.float32(rng.normal(0, 1, shape))
  params = {'spline': draw(spec.size, d_in, d_out), 'bias': draw(d_out)}
  return params if spec.base == 'none' else params | {'base': draw(d_in, d_out)}


def scipy_edges(params, x, spec):
  """[N, d_in, d_out] of the splines alone, in float64, tangents outside the grid."""
  h = (spec.high - spec.low) / spec.grid
  knots = spec.low + h * np.arange(-spec.degree, spec.grid + spec.degree + 1)
  out = []
  for i in range(x.shape[1]):
    c = np.asarray(params['spline'][:, i], np.float64)
    inside = np.clip(x[:, i], spec.low, spec.high)
    spline = BSpline(knots, c, spec.degree)
    # One-sided at the upper end, where degree 1 has no derivative.
    slope = spline.derivative()(np.minimum(inside, spec.high - 1e-9))
    out.append(spline(inside) + slope * (x[:, i] - inside)[:, None])
  return np.stack(out, 1)


def oracle(params, x, spec):
  x = np.asarray(x, np.float64)
  y = scipy_edges(params, x, spec).sum(1) + np.asarray(params['bias'], np.float64)
  act = {
    'linear': lambda x: x,
    'relu': lambda x: np.maximum(x, 0),
    'silu': lambda x: x / (1 + np.exp(-x)),
  }
  if spec.base != 'none':
    y += act[spec.base](x) @ np.asarray(params['base'], np.float64)
  return y


@pytest.mark.parametrize('spec', SPECS, ids=str)
def test_values_are_scipys_inside_and_tangents_outside(spec):
  params = layer(spec)
  ends = [spec.low, spec.high]
  knots = np.linspace(*ends, spec.grid + 1)
  inside = np.linspace(*ends, 301)
  outside = np.array([spec.low - 50, spec.low - 0.3, spec.high + 0.3, spec.high + 50])
  x = np.concatenate([knots, inside, outside])
  x = np.stack([x, x[::-1], np.roll(x, 7)], 1).astype(np.float32)
  got = apply(params, x, spec)
  expected = oracle(params, x, spec)
  scale = 1 + np.abs(x).max(1, keepdims=True)
  assert np.max(np.abs(got - expected) / scale) < 1e-5


def test_closed_form_basis_is_cox_and_de_boors():
  spec = kan.Spec(7, 3, -2.0, 2.0, 'none')
  x = np.linspace(-2, 2, 2001)
  h = 4 / 7
  knots = -2 + h * np.arange(-3, 11)
  expected = BSpline(knots, np.eye(10), 3)(x)
  exact = np.stack(list(kan.basis(x, spec, np)), 1)
  assert np.abs(exact - expected).max() < 1e-14
  single = np.stack(list(kan.basis(jnp.asarray(x, jnp.float32), spec)), 1)
  assert np.abs(single - expected).max() < 4e-7


@pytest.mark.parametrize('spec', SPECS, ids=str)
def test_basis_functions_add_up_to_one_everywhere(spec):
  x = np.linspace(spec.low - 30, spec.high + 30, 999)
  assert np.allclose(sum(kan.basis(x, spec, np)), 1, atol=1e-12)


@pytest.mark.parametrize('base', ['linear', 'relu', 'silu'])
@pytest.mark.parametrize('degree', kan.DEGREES)
def test_initial_layer_is_the_dense_layer_bit_for_bit(base, degree):
  spec = kan.Spec(6, degree, -3.0, 3.0, base)
  w = jax.random.normal(jax.random.key(1), (5, 4))
  b = jax.random.normal(jax.random.key(2), (4,))
  x = 3 * jax.random.normal(jax.random.key(3), (50, 5))
  params = kan.init(jax.random.key(0), 5, 4, spec) | {'base': w, 'bias': b}
  act = {'linear': lambda x: x, 'relu': jax.nn.relu, 'silu': jax.nn.silu}[base]
  assert not np.any(params['spline'])
  assert np.array_equal(kan.apply(params, x, spec), act(x) @ w + b[None])


@pytest.mark.parametrize('degree', kan.DEGREES)
def test_initial_layer_without_base_is_linear(degree):
  spec = kan.Spec(5, degree, -1.0, 2.0, 'none')
  params = kan.init(jax.random.key(0), 300, 2, spec, scale=2.0)
  assert set(params) == {'spline', 'bias'}
  x = 4 * jax.random.normal(jax.random.key(3), (50, 300))  # far outside as well
  lines = kan.init(jax.random.key(0), 300, 2, spec._replace(base='linear'), scale=2.0)
  assert np.std(lines['base']) == pytest.approx(2 / np.sqrt(300), rel=0.1)
  assert np.allclose(apply(params, x, spec), x @ lines['base'], atol=1e-4)


def test_splines_of_an_initial_layer_get_gradients():
  """Every coefficient has a gradient although all splines are zero."""
  spec = kan.Spec(4, 3, -2.0, 2.0, 'linear')
  params = [kan.init(jax.random.key(i), 3, 3, spec) for i in range(2)]
  x = 3 * jax.random.normal(jax.random.key(5), (200, 3))

  def loss(params):
    hidden = kan.apply(params[0], x, spec)
    return ((kan.apply(params[1], hidden, spec) - jnp.sin(3 * x)) ** 2).mean()

  first, second = jax.jit(jax.grad(loss))(params)
  assert np.all(first['spline'] != 0) and np.all(second['spline'] != 0)


@pytest.mark.parametrize('spec', SPECS, ids=str)
def test_gradients_are_finite_differences(spec):
  params = layer(spec, 2, 3)
  h = spec.spacing  # off the knots, where degree 1 has corners
  x = spec.low + h * (np.array([[-7.3, 0.2], [0.7, spec.grid + 3.4]]) + 0.05)
  f = jax.jit(lambda params, x: kan.apply(params, x, spec))
  x = jnp.asarray(x, jnp.float32)
  check_grads(f, (params, x), 1, ['fwd', 'rev'], atol=2e-2, rtol=2e-2, eps=1e-2)


@pytest.mark.parametrize('degree', kan.DEGREES)
def test_slope_outside_is_the_slope_at_the_end(degree):
  """Also exactly at the ends, which integer inputs hit: nothing is halved there."""
  spec = kan.Spec(8, degree, -4.0, 4.0, 'none')
  params = layer(spec, 1, 1)
  c = np.asarray(params['spline'], np.float64)[:, 0, 0]
  left = c[1] - c[0] if degree == 1 else (c[2] - c[0]) / 2
  right = c[-1] - c[-2] if degree == 1 else (c[-1] - c[-3]) / 2
  slope = jax.jit(jax.grad(lambda x: kan.apply(params, x, spec)[0]))
  for x, expected in ((-4, left), (-5, left), (-1e4, left)):
    assert slope(jnp.array([float(x)]))[0] == pytest.approx(expected, abs=1e-5)
    assert slope(jnp.array([-float(x)]))[0] == pytest.approx(right, abs=1e-5)
  if degree == 1:  # the mean of both sides on a knot
    assert slope(jnp.array([1.0]))[0] == pytest.approx((c[6] - c[4]) / 2, abs=1e-5)


def test_degree_one_on_integers_is_a_table():
  spec = kan.Spec(8, 1, -4.0, 4.0, 'none')
  table = jax.random.normal(jax.random.key(0), (9, 3, 2))
  params = {'spline': table, 'bias': jnp.zeros(2)}
  x = np.random.default_rng(0).integers(-4, 5, (64, 3))
  looked_up = sum(np.asarray(table)[x[:, i] + 4, i] for i in range(3))
  got = apply(params, np.float32(x), spec)
  assert np.allclose(got, looked_up, atol=1e-6)


def test_layer_with_leading_axes_vmap_and_half_precision_is_the_same():
  spec = SPECS[0]
  params = [layer(spec, seed=s) for s in range(2)]
  x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
  each = [apply(p, x[i], spec) for i, p in enumerate(params)]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *params)
  both = jax.jit(jax.vmap(lambda p, x: kan.apply(p, x, spec)))(stacked, x)
  assert both.shape == (2, 4, 5, 4) and np.allclose(both, each, atol=1e-5)
  assert apply(params[0], x[0, 0, 0], spec).shape == (4,)
  assert apply(params[0], x[:0], spec).shape == (0, 4, 5, 4)
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params[0])
  wide = (100 * x).astype(jnp.bfloat16)
  total = lambda x: kan.apply(half, x, spec).sum()
  value, grad = jax.jit(jax.value_and_grad(total))(wide)
  assert value.dtype == jnp.bfloat16 and np.isfinite(np.float32(value))
  assert np.all(np.isfinite(np.float32(grad)))


def test_layer_in_blocks_equals_the_whole():
  spec = SPECS[0]
  params = layer(spec)
  x = jax.random.normal(jax.random.key(0), (37, 3))
  whole = lambda p: kan.apply(p, x, spec)
  parts = lambda p: kan.in_blocks(lambda x: kan.apply(p, x, spec), x, rows=8)
  assert np.allclose(jax.jit(whole)(params), jax.jit(parts)(params), atol=1e-6)
  grad = lambda f: jax.jit(jax.grad(lambda p: (f(p) ** 2).sum()))(params)
  for u, v in zip(jax.tree.leaves(grad(whole)), jax.tree.leaves(grad(parts))):
    assert np.allclose(u, v, rtol=1e-4, atol=1e-4)


def test_cost_of_known_layers_is_the_sheets():
  """C3's widths with cubic splines on 5 intervals: 9.5 k and 23 k MACs a pixel."""
  spec = kan.Spec(5, 3, -2.0, 2.0, 'linear')
  entropy = [(24, 18), (18, 18), (18, 2)]
  synthesis = [(7, 18), (18, 18), (18, 3)]
  totals = []
  for which in range(2):
    mac = lambda widths: sum(kan.cost(spec, *w)[which] for w in widths)  # noqa: B023
    totals.append(mac(entropy) * 524256 / 393216 + mac(synthesis) + 162 + 48)
  assert totals[0] == pytest.approx(9500, rel=0.03)
  assert totals[1] == pytest.approx(23000, rel=0.03)
  # One edge: 4 products of a spline, 1 of the base and 12 for the basis' values.
  assert kan.cost(spec, 1, 1) == (4 + 1 + 12, 9 + 9 * 8)


WIDTHS = [(7, 8), (24, 6), (18, 18), (64, 64)]


@pytest.mark.parametrize('degree', kan.DEGREES)
@pytest.mark.parametrize('base', kan.BASES)
def test_executed_counts_equal_complexity_cost(degree, base):
  n = 64
  for grid in (1, 2, 5):
    spec = kan.Spec(grid, degree, -2.0, 2.0, base)
    for d_in, d_out in WIDTHS:
      f = lambda p, x: kan.apply(p, x, spec)  # noqa: B023
      args = layer(spec, d_in, d_out), jnp.ones((n, d_in))
      macs, elementwise = kan.executed(spec, d_in, d_out)
      assert complexity.cost(f, *args) == (n * macs, n * elementwise)


@pytest.mark.parametrize('widths', WIDTHS)
@pytest.mark.parametrize(
  'spec', [SPECS[0], SPECS[0]._replace(grid=8, base='relu'), kan.Spec(8, 1)], ids=str
)
def test_executed_fused_counts_equal_xlas(spec, widths):
  n = 4096  # XLA fuses otherwise where there is little work
  f = lambda p, x: kan.apply(p, x, spec)
  x = jax.ShapeDtypeStruct((n, widths[0]), jnp.float32)
  flops = complexity.compiled_flops(f, layer(spec, *widths), x)
  fused = kan.executed(spec, *widths, fused=True)
  assert n * fused.flops == pytest.approx(flops, rel=0.05)
  if spec.degree == 3:  # and so is the sheet's formula, which counts MACs for all
    assert n * 2 * kan.cost(spec, *widths)[1] == pytest.approx(flops, rel=0.05)


FINE = np.linspace(-1.9995, 1.9995, 1333, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ((5, 3), (5, 3)),
    ((5, 3), (10, 3)),
    ((3, 3), (12, 3)),
    ((4, 1), (8, 1)),
    ((1, 1), (6, 3)),
  ],
)
def test_refit_to_a_finer_grid_keeps_the_function(old, new):
  old, new = (kan.Spec(g, k, -2.0, 2.0, 'silu') for g, k in (old, new))
  params = layer(old, 1, 4)
  fitted = jax.jit(lambda p: kan.refit_grid(p, old, new))(params)
  assert fitted['spline'].shape == (new.size, 1, 4)
  for x in (FINE, FINE * 3):  # tails too
    before = apply(params, x, old)
    assert np.allclose(apply(fitted, x, new), before, atol=1e-5)


def test_refit_to_another_range_is_the_best_fit():
  old, new = kan.Spec(8, 3, -2.0, 2.0, 'none'), kan.Spec(5, 3, -1.3, 0.9, 'none')
  params = layer(old, 1, 1)
  fitted = jax.device_get(jax.jit(lambda p: kan.refit_grid(p, old, new))(params))
  x = np.linspace(-1.3, 0.9, 801, dtype=np.float32)[:, None]
  target = np.asarray(apply(params, x, old))

  def worse(change):
    moved = fitted | {'spline': np.asarray(fitted['spline'] + change, np.float32)}
    return float(((np.asarray(apply(moved, x, new)) - target) ** 2).sum())

  for j in range(new.size):
    for step in (-0.02, 0.02):
      assert worse(step * (np.arange(new.size) == j)[:, None, None]) > worse(0)


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    ({'base': 'relv'}, "did you mean 'relu'"),
    ({'degree': 2}, 'degree 2'),
    ({'grid': 0}, 'grid of 0'),
    ({'grid': 2.5}, 'grid of 2.5'),
    ({'low': 2.0}, 'from 2.0 to 2.0'),
    ({'high': float('nan')}, 'nan'),
    ({'high': float('inf')}, 'inf'),
  ],
)
def test_spec_out_of_range_is_refused(change, match):
  with pytest.raises(CodaxError, match=match):
    kan.init(jax.random.key(0), 2, 2, SPECS[0]._replace(**change))


def test_layer_without_inputs_is_refused():
  spec = SPECS[0]
  with pytest.raises(CodaxError, match='0 inputs'):
    kan.init(jax.random.key(0), 0, 2, spec)
  params = kan.init(jax.random.key(0), 3, 2, spec)
  with pytest.raises(CodaxError, match='4 inputs'):
    kan.apply(params, jnp.ones((5, 4)), spec)
  with pytest.raises(CodaxError, match='7 coefficients'):
    kan.apply(params, jnp.ones((5, 3)), spec._replace(grid=4))
  with pytest.raises(CodaxError, match="'linear' cannot become 'relu'"):
    kan.refit_grid(params, spec, spec._replace(base='relu'))

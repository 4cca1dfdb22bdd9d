"""Wide KAN layers against SciPy, closed forms and finite differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline

from codax.errors import CodaxError
from codax.layers import kan_grids, kan_wide
from codax.layers.kan_wide import Spec

apply = jax.jit(kan_wide.apply, static_argnums=3)
init = functools.partial(kan_wide.init, jax.random.key(0))


def layer(spec, d_in=3, d_out=4, seed=0):
  """A layer whose numbers are all random, and whose grids differ."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: np.float32(rng.normal(0, 1, shape))
  params = {
    'base': draw(d_in, d_out),
    'spline': draw(spec.size, d_in, d_out),
    'scale': draw(d_in, d_out),
  }
  low = np.float32(spec.low + 0.3 * np.arange(d_in))
  return params, {'low': low, 'high': low + np.float32(spec.high - spec.low)}


def edges_float64(params, grids, x, spec):
  """Edge functions [N, d_in, d_out] by SciPy and by definitions, in float64."""
  p = {key: np.asarray(value, np.float64) for key, value in params.items()}
  out = []
  for i in range(x.shape[1]):
    at, low = np.asarray(x[:, i], np.float64), float(grids['low'][i])
    h = (float(grids['high'][i]) - low) / spec.grid
    u = (at - low) / h
    if spec.basis == 'bspline':
      knots = np.arange(-3, spec.grid + 4, dtype=np.float64)
      spline = BSpline(knots, p['spline'][:, i], 3)
      inside = np.clip(u, 0, spec.grid)
      value = spline(inside) + spline.derivative()(inside) * (u - inside)[:, None]
    elif spec.basis == 'rbf':
      middles = np.arange(-1, spec.grid + 2)
      value = np.exp(-((u[:, None] - middles) ** 2)) @ p['spline'][:, i]
    else:
      t = np.tanh(2 * u / spec.grid - 1)
      value = np.cos(np.arange(spec.size) * np.arccos(t)[:, None]) @ p['spline'][:, i]
    silu = at / (1 + np.exp(-at))
    out.append(silu[:, None] * p['base'][i] + value * p['scale'][i])
  return np.stack(out, 1)


SPECS = [
  Spec(8),
  Spec(1, low=-1.0, high=1.5),
  Spec(5, form='scan'),
  Spec(6, 'rbf'),
  Spec(4, 'chebyshev', form='scan'),
]


@pytest.mark.parametrize('spec', SPECS)
def test_values_and_gradients_are_those_of_scipy(spec):
  """Gradients by central differences of the float64 oracle."""
  params, grids = layer(spec)
  x = np.float32(np.random.default_rng(1).normal(0, 2, (20, 3)))
  oracle = lambda p, x: edges_float64(p, grids, x, spec).sum(1)
  np.testing.assert_allclose(
    apply(params, grids, x, spec), oracle(params, x), rtol=2e-5, atol=2e-4
  )
  weights = np.random.default_rng(2).normal(size=(20, 4))
  loss = lambda p, x: (kan_wide.apply(p, grids, x, spec) * weights).sum()
  found = jax.jit(jax.grad(loss, (0, 1)))(params, x)
  rng = np.random.default_rng(3)
  e = 1e-5
  for name in ('base', 'spline', 'scale', 'x'):
    value = x if name == 'x' else params[name]
    direction = rng.normal(size=value.shape)
    ends = [value + sign * e * direction for sign in (-1, 1)]
    values = [
      oracle(params, v) if name == 'x' else oracle(params | {name: v}, x) for v in ends
    ]
    wanted = ((values[1] - values[0]) * weights).sum() / (2 * e)
    gradient = found[1] if name == 'x' else found[0][name]
    assert (gradient * direction).sum() == pytest.approx(wanted, rel=1e-3, abs=2e-2)


def test_forms_are_the_same_function():
  """Inside the grid the recursion agrees too; outside its splines end."""
  spec = Spec(7)
  params, grids = layer(spec)
  x = np.float32(np.random.default_rng(1).uniform(-1.3, 1.9, (50, 3)))
  wanted = apply(params, grids, x, spec)
  for form in ('scan', 'recursion'):
    found = apply(params, grids, x, spec._replace(form=form))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
  far = x + 100
  gone = apply(
    params | {'base': 0 * params['base']}, grids, far, spec._replace(form='recursion')
  )
  assert not np.any(gone)
  assert np.abs(apply(params, grids, far, spec)).min() > 1


def test_bfloat16_is_near_and_finite():
  spec = Spec(8, dtype='bfloat16')
  params, grids = layer(spec, 32, 16)
  x = np.float32(np.random.default_rng(1).normal(0, 1, (64, 32)))
  wanted = np.asarray(apply(params, grids, x, spec._replace(dtype='float32')))
  found = np.asarray(apply(params, grids, x, spec))
  assert found.dtype == np.float32
  assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
  loss = lambda p, x, s: (kan_wide.apply(p, grids, x, s) ** 2).mean()
  grads = jax.jit(jax.grad(loss), static_argnums=2)
  exact, rough = (grads(params, x, s) for s in (spec._replace(dtype='float32'), spec))
  for key in exact:
    assert np.abs(rough[key] - exact[key]).max() < 0.05 * np.abs(exact[key]).max()
  huge = np.float32([[3e4] * 32, [-3e4] * 32])
  assert np.isfinite(apply(params, grids, huge, spec)).all()


@pytest.mark.parametrize('basis', ['bspline', 'rbf', 'chebyshev'])
def test_identity_start_is_a_linear_map(basis):
  """Every spline is x over the grid, so the layer is x times its scales."""
  spec = Spec(8, basis, base_scale=0.0)
  params, grids = init(5, 6, spec)
  x = np.float32(np.random.default_rng(0).uniform(-2, 2, (40, 5)))
  found = apply(params, grids, x, spec)
  error = {'bspline': 1e-5, 'rbf': 0.02, 'chebyshev': 0.05}[basis]
  np.testing.assert_allclose(found, x @ params['scale'], atol=error)
  if basis == 'bspline':  # tangents go on
    np.testing.assert_allclose(
      apply(params, grids, 50 * x, spec), 50 * x @ params['scale'], rtol=1e-4, atol=1e-3
    )


def test_start_has_the_deviations_that_it_says():
  spec = Spec(8, base_scale=2.5, spline_init='noise')
  params, grids = init(400, 300, spec)
  assert params['base'].std() == pytest.approx(2.5 / 20, rel=0.02)
  assert params['scale'].std() == pytest.approx(1 / 20, rel=0.02)
  assert params['spline'].std() == pytest.approx(0.1, rel=0.02)
  assert sum(x.size for x in params.values()) == 400 * 300 * 13
  assert set(np.unique(grids['low'])) == {-2.0}


def test_moved_grids_keep_the_function():
  """Straight edges can be held by any grid: all inputs move, to the batch's range."""
  spec = Spec(8)
  params, grids = init(5, 6, spec)
  x = np.float32(np.random.default_rng(0).normal(1, 0.5, (100, 5)))
  before = apply(params, grids, x, spec)
  moved = jax.jit(kan_grids.move, static_argnums=3)(params, grids, x, spec)
  assert moved.is_moved.all()
  np.testing.assert_allclose(
    moved.grids['low'], x.min(0) - 0.1 * np.ptp(x, 0), rtol=1e-4
  )
  np.testing.assert_allclose(
    moved.grids['high'], x.max(0) + 0.1 * np.ptp(x, 0), rtol=1e-4
  )
  assert kan_grids.compute_share_outside(grids, x) > 0
  assert kan_grids.compute_share_outside(moved.grids, x) == 0
  np.testing.assert_allclose(
    apply(moved.params, moved.grids, x, spec), before, atol=1e-4
  )


def test_grids_that_would_change_the_function_stay():
  """Rough edges of half of the inputs: only the others move, whatever is asked."""
  spec = Spec(8)
  params, grids = init(6, 4, spec)
  rough = np.array(params['spline'])
  rough[:, :3] = np.random.default_rng(0).normal(size=rough[:, :3].shape)
  params = params | {'spline': jnp.asarray(rough)}
  x = np.float32(np.random.default_rng(1).normal(0, 1, (100, 6)))
  before = apply(params, grids, x, spec)
  scale = np.sqrt(np.mean(before**2))
  moved = kan_grids.move(params, grids, x, spec, tolerance=1e-4 / scale)
  assert moved.is_moved.tolist() == [False] * 3 + [True] * 3
  np.testing.assert_array_equal(moved.grids['low'][:3], grids['low'][:3])
  after = apply(moved.params, moved.grids, x, spec)
  assert np.abs(after - before).max() <= 1.5e-4
  # and for inputs that the batch did not have, anywhere on the old grids
  other = np.float32(np.random.default_rng(2).uniform(-2, 2, (500, 6)))
  both = [apply(p, g, other, spec) for p, g in ((params, grids), moved[:2])]
  assert np.abs(both[1] - both[0]).max() <= 3e-4
  forced = kan_grids.move(params, grids, x, spec, tolerance=np.inf)
  assert forced.is_moved.all()
  assert np.abs(apply(forced.params, forced.grids, x, spec) - before).max() > 1e-2


def make_bent(spec, d_in=40, d_out=6):
  """A layer whose edges are bent a little, some of them more than others."""
  params, grids = init(d_in, d_out, spec)
  u = np.linspace(-1, 1, spec.size)[:, None, None]
  bends = np.logspace(-5, -1, d_in)[:, None] * u**4
  return params | {'spline': params['spline'] + np.float32(bends)}, grids


@pytest.mark.parametrize('tolerance', [1e-4, kan_grids.TOLERANCE])
@pytest.mark.parametrize('factor', [1.0, 1000.0])
def test_moves_change_outputs_by_their_tolerance_of_the_scale_at_most(
  tolerance, factor
):
  """For the batch and for others, whatever the scale; some inputs move, some do not."""
  spec = Spec(8)
  params, grids = make_bent(spec)
  params |= {key: factor * params[key] for key in ('base', 'scale')}
  rng = np.random.default_rng(1)
  x, other = (np.float32(rng.normal(0, 0.7, (200, 40))) for _ in range(2))
  moved = kan_grids.move(params, grids, x, spec, tolerance=tolerance)
  assert 5 < moved.is_moved.sum() < 40
  scale = np.sqrt(np.mean(apply(params, grids, x, spec) ** 2))
  for batch in (x, other):
    before, after = (apply(p, g, batch, spec) for p, g in ((params, grids), moved[:2]))
    assert np.abs(after - before).max() <= (tolerance + 1e-6) * scale


def test_bent_edges_move_by_default():
  """More of them than at a hundredth of the default tolerance."""
  spec = Spec(8)
  params, grids = make_bent(spec)
  x = np.float32(np.random.default_rng(1).normal(0, 0.7, (200, 40)))
  loose, strict = (
    kan_grids.move(params, grids, x, spec, tolerance=t).is_moved
    for t in (kan_grids.TOLERANCE, kan_grids.TOLERANCE / 100)
  )
  assert loose.sum() > strict.sum() + 8


def test_grid_of_an_input_that_does_not_vary_does_not_collapse():
  """A unit that is off in a batch: half of the span is kept, and a bent edge whole."""
  spec = Spec(8)
  params, grids = init(2, 4, spec)
  rough = np.array(params['spline'])
  rough[:, 1] = np.random.default_rng(0).normal(size=rough[:, 1].shape)
  params = params | {'spline': jnp.asarray(rough)}
  moved = kan_grids.move(params, grids, np.zeros((50, 2), np.float32), spec)
  np.testing.assert_allclose(moved.grids['low'], [-1, -2])
  np.testing.assert_allclose(moved.grids['high'], [1, 2])
  wide = {'low': jnp.full(2, -4.0), 'high': jnp.full(2, 6.0)}
  moved = kan_grids.move(
    params, grids, np.zeros((50, 2), np.float32), spec, ranges=wide, margin=0.0
  )
  np.testing.assert_allclose(moved.grids['low'], [-4, -2])


def test_extended_grid_is_the_same_function():
  spec = Spec(4)
  params, grids = layer(spec)
  x = np.float32(np.random.default_rng(1).normal(0, 2, (100, 3)))
  finer, new = kan_grids.extend(params, grids, spec, 12)
  assert new.grid == 12 and finer['spline'].shape == (15, 3, 4)
  np.testing.assert_allclose(
    apply(finer, grids, x, new), apply(params, grids, x, spec), atol=1e-4
  )
  with pytest.raises(CodaxError, match='4 intervals cannot become 3'):
    kan_grids.extend(params, grids, spec, 3)


def test_edges_add_up_to_the_layer_and_have_their_norms():
  spec = Spec(6)
  params, grids = layer(spec)
  x = np.float32(np.random.default_rng(1).normal(0, 1, (30, 3)))
  edges = kan_grids.evaluate_edges(params, grids, x, spec)
  np.testing.assert_allclose(edges, edges_float64(params, grids, x, spec), atol=1e-4)
  share = np.linspace(0, 1, 2001)[:, None]
  at = np.float32(grids['low'] + share * (grids['high'] - grids['low']))
  wanted = np.sqrt((edges_float64(params, grids, at, spec) ** 2).mean(0))
  np.testing.assert_allclose(
    kan_grids.compute_edge_norms(params, grids, spec), wanted, rtol=0.03
  )


def test_penalties_tell_few_edges_from_many():
  """One edge of 12: entropy 0. All alike: 1."""
  spec = Spec(6)
  params, grids = layer(spec)
  only = np.zeros((3, 4), np.float32)
  only[1, 2] = 1.0
  one = params | {'base': 0 * only, 'scale': only}
  alike = {
    'base': np.ones((3, 4), np.float32),
    'scale': np.zeros((3, 4), np.float32),
    'spline': params['spline'],
  }
  same = {key: np.broadcast_to(value[:1], 3) for key, value in grids.items()}
  assert kan_grids.compute_penalties(one, grids, spec)[1] == pytest.approx(0, abs=1e-3)
  assert kan_grids.compute_penalties(alike, same, spec)[1] == pytest.approx(1, abs=1e-5)
  norms = kan_grids.compute_edge_norms(params, grids, spec)
  assert kan_grids.compute_penalties(params, grids, spec)[0] == pytest.approx(
    norms.mean()
  )


def test_pruned_edges_are_gone():
  spec = Spec(6)
  params, grids = layer(spec)
  norms = np.asarray(kan_grids.compute_edge_norms(params, grids, spec))
  threshold = float(np.median(norms) / norms.max())
  pruned = kan_grids.prune(params, grids, spec, threshold)
  x = np.float32(np.random.default_rng(1).normal(0, 1, (30, 3)))
  edges = np.asarray(kan_grids.evaluate_edges(pruned, grids, x, spec))
  gone = norms < threshold * norms.max()
  assert 0 < gone.sum() < gone.size
  assert not edges[:, gone].any() and np.abs(edges[:, ~gone]).max(0).min() > 0


@pytest.mark.parametrize(
  'change, message',
  [
    ({'grid': 0}, 'a grid of 0 intervals'),
    ({'basis': 'spline'}, "unknown basis 'spline'.*bspline"),
    ({'form': 'products'}, 'form of a KAN layer'),
    ({'spline_init': 'zero'}, 'spline_init of a KAN layer'),
    ({'low': 2.0}, 'a grid from 2.0 to 2.0'),
    ({'basis': 'rbf', 'form': 'recursion'}, 'not of rbf'),
    ({'base_scale': -1.0}, 'base_scale'),
  ],
)
def test_bad_form_is_one_line(change, message):
  with pytest.raises(CodaxError, match=message):
    init(3, 4, Spec()._replace(**change))


def test_inputs_that_do_not_fit_are_named():
  params, grids = init(3, 4, Spec())
  with pytest.raises(CodaxError, match=r'inputs of shape \(5, 2\)'):
    kan_wide.apply(params, grids, jnp.zeros((5, 2)), Spec())

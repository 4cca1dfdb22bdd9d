"""Fixed-point KAN layers against rational arithmetic, SciPy and the float layer."""

import functools
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scipy.interpolate import BSpline

from codax.entropy import int_kan
from codax.errors import CodaxError
from codax.layers.kan_spec import Spec

FRACS = {'frac_in': 5, 'frac_w': 9, 'frac_b': 11, 'frac_out': 7}
CASES = [
  (Spec(8, 1, -4.0, 4.0, 'linear'), FRACS | {'frac_in': 0}),
  (Spec(8, 1, -4.0, 4.0, 'relu'), FRACS),
  (Spec(3, 1, -0.5, 1.0, 'none'), FRACS | {'frac_out': 30}),
  (Spec(1, 1, 0.0, 4.0, 'relu'), FRACS | {'frac_w': 0, 'frac_b': 0, 'frac_out': 0}),
  (Spec(8, 3, -4.0, 4.0, 'linear'), FRACS),
  (Spec(8, 3, -4.0, 4.0, 'linear'), FRACS | {'frac_in': 0}),
  (Spec(4, 3, -1.0, 1.0, 'relu'), FRACS | {'frac_out': 0}),
  (Spec(1, 3, 2.0, 4.0, 'none'), FRACS | {'frac_b': 30}),
  (Spec(2, 3, -1.0, 0.0, 'relu'), FRACS),
]


def weights(spec, d_in=3, d_out=4, seed=0, size=2000):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.integers(-size, size + 1, shape)
  base = None if spec.base == 'none' else draw(d_in, d_out)
  return draw(spec.size, d_in, d_out), base, draw(d_out)


def build(spec, fracs, *, input_max=500, seed=0, **more):
  return int_kan.make(
    spec, *weights(spec, seed=seed), **fracs, input_max=input_max, **more
  )


def inputs(layer, n=400, seed=1):
  """Everything within reach, the ends and the knots included."""
  rng = np.random.default_rng(seed)
  m = layer.input_max
  x = rng.integers(-m, m + 1, (n, len(layer.pieces)))
  x[0], x[1] = m, -m
  x[2 : 2 + len(layer.starts)] = np.clip(layer.starts, -m, m)[:, None]
  return x


def rational_edge(spec, c, x):
  """A spline with coefficients c at x by Cox and de Boor's recursion, tangents beyond.

  All are Fractions, so nothing is rounded.
  """
  low, high = Fraction(spec.low), Fraction(spec.high)
  h, k = (high - low) / spec.grid, spec.degree
  if not low <= x <= high:
    end = min(max(x, low), high)
    pair = (c[:3] if x < low else c[-3:]) if k == 3 else (c[:2] if x < low else c[-2:])
    slope = (pair[-1] - pair[0]) / (h * (len(pair) - 1))
    return rational_edge(spec, c, end) + slope * (x - end)
  knot = lambda j: low + (j - k) * h
  cell = min(int((x - low) / h), spec.grid - 1) + k

  @functools.cache
  def b(j, degree):
    if degree == 0:
      return Fraction(j == cell)
    left = (x - knot(j)) / (degree * h) * b(j, degree - 1)
    return left + (knot(j + degree + 1) - x) / (degree * h) * b(j + 1, degree - 1)

  return sum(c[j] * b(j, k) for j in range(spec.size))


def rational(spec, spline, base, bias, x, fracs):
  """Outputs for one row of integer inputs: list of Python integers."""
  out = []
  for o in range(len(bias)):
    total = Fraction(int(bias[o]), 2 ** fracs['frac_b'])
    for i, xi in enumerate(x):
      xi = Fraction(int(xi), 2 ** fracs['frac_in'])
      c = [Fraction(int(v), 2 ** fracs['frac_w']) for v in spline[:, i, o]]
      total += rational_edge(spec, c, xi)
      if base is not None:
        act = max(xi, Fraction(0)) if spec.base == 'relu' else xi
        total += Fraction(int(base[i, o]), 2 ** fracs['frac_w']) * act
    out.append((total * 2 ** fracs['frac_out'] + Fraction(1, 2)).__floor__())
  return out


@pytest.mark.parametrize(('spec', 'fracs'), CASES, ids=str)
def test_outputs_are_the_rational_value_rounded_once(spec, fracs):
  layer = build(spec, fracs)
  x = inputs(layer, 40)
  expected = [rational(spec, *weights(spec), row, fracs) for row in x]
  assert np.array_equal(int_kan.apply_int(layer, x), expected)


@pytest.mark.parametrize(('spec', 'fracs'), CASES, ids=str)
def test_tables_and_polynomials_agree_bit_for_bit(spec, fracs):
  tables, pieces = build(spec, fracs), build(spec, fracs, table=0)
  assert tables.tables is not None and pieces.tables is None
  x = inputs(tables, 5000)
  assert np.array_equal(int_kan.apply_int(tables, x), int_kan.apply_int(pieces, x))


@pytest.mark.parametrize(('spec', 'fracs'), CASES, ids=str)
def test_outputs_are_scipys_within_the_rounding(spec, fracs):
  layer, (spline, base, bias) = build(spec, fracs), weights(spec)
  x = inputs(layer)
  real = x * 2.0 ** -fracs['frac_in']
  h = (spec.high - spec.low) / spec.grid
  knots = spec.low + h * np.arange(-spec.degree, spec.grid + spec.degree + 1)
  y = bias * 2.0 ** -fracs['frac_b'] + np.zeros((len(x), 1))
  for i in range(x.shape[1]):
    s = BSpline(knots, spline[:, i] * 2.0 ** -fracs['frac_w'], spec.degree)
    inside = np.clip(real[:, i], spec.low, spec.high)
    slope = s.derivative()(np.minimum(inside, spec.high - 1e-12))
    y += s(inside) + slope * (real[:, i] - inside)[:, None]
  if base is not None:
    act = np.maximum(real, 0) if spec.base == 'relu' else real
    y += act @ (base * 2.0 ** -fracs['frac_w'])
  unit = 2.0 ** -fracs['frac_out']
  got = int_kan.apply_int(layer, x) * unit
  assert np.abs(got - y).max() <= unit / 2 + 1e-7


def test_outputs_of_exported_layers_are_the_float_layers():
  import jax.numpy as jnp

  from codax.layers import kan

  for spec, fracs in CASES:
    layer, (spline, base, bias) = build(spec, fracs), weights(spec)
    x = inputs(layer)
    w = 2.0 ** -fracs['frac_w']
    params = {'spline': jnp.asarray(spline * w, jnp.float32)}
    params['bias'] = jnp.asarray(bias * 2.0 ** -fracs['frac_b'], jnp.float32)
    if base is not None:
      params['base'] = jnp.asarray(base * w, jnp.float32)
    real = jnp.asarray(x * 2.0 ** -fracs['frac_in'], jnp.float32)
    unit = 2.0 ** -fracs['frac_out']
    got = int_kan.apply_int(layer, x) * unit
    expected = np.asarray(kan.apply(params, real, spec), np.float64)
    assert np.abs(got - expected).max() <= unit / 2 + 3e-6 * (1 + np.abs(got).max())


def test_rounding_of_ties_goes_up():
  """The documented rule: floor(sum / D + 1/2)."""
  spec, zero = Spec(1, 3, 0.0, 1.0, 'linear'), np.zeros((4, 1, 1), np.int64)
  layer = int_kan.make(spec, zero, np.array([[1]]), np.array([0]), frac_in=0,
                       frac_w=1, frac_b=0, frac_out=0, input_max=9)  # fmt: skip
  x = np.arange(-4, 5)[:, None]
  assert int_kan.apply_int(layer, x).ravel().tolist() == [-2, -1, -1, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize('table', [0, int_kan.TABLE])
def test_outputs_at_any_batch_size_are_the_same(table):
  layer = build(*CASES[4], table=table)
  x = inputs(layer, 9001)
  y = int_kan.apply_int(layer, x)
  assert y.dtype == np.int64 and y.shape == (9001, 4)
  rng = np.random.default_rng(0)
  assert np.array_equal(int_kan.apply_int(layer, x[::-1])[::-1], y)
  for n in (1, 2, 63, 4095, 4096, 4097):
    rows = rng.integers(0, len(x), n)
    assert np.array_equal(int_kan.apply_int(layer, x[rows]), y[rows])
  for same in (x.astype(np.int16), np.asfortranarray(x), x[::-1].copy()[::-1]):
    assert np.array_equal(int_kan.apply_int(layer, same), y)
  assert np.array_equal(int_kan.apply_int(layer, x[:9000].reshape(5, 18, 100, 3)),
                        y[:9000].reshape(5, 18, 100, 4))  # fmt: skip
  assert np.array_equal(int_kan.apply_int(layer, x[7]), y[7])
  assert int_kan.apply_int(layer, x[:0]).shape == (0, 4)
  assert np.array_equal(x, inputs(layer, 9001))  # inputs are left alone


def test_outputs_at_integer_inputs_are_table_look_ups():
  spec = Spec(8, 1, -4.0, 4.0, 'none')
  spline, _, bias = weights(spec, 24, 6)
  layer = int_kan.make(spec, spline, None, bias, frac_in=0, frac_w=8, frac_b=8,
                       frac_out=8, input_max=64)  # fmt: skip
  x = np.random.default_rng(2).integers(-4, 5, (140, 24))
  looked_up = bias + sum(spline[x[:, i] + 4, i] for i in range(24))
  assert np.array_equal(int_kan.apply_int(layer, x), looked_up)
  beyond = np.zeros((1, 24), int)
  beyond[0, 3] = 64
  tail = spline[8, 3] + 60 * (spline[8, 3] - spline[7, 3]) - spline[4, 3]
  at_zero = int_kan.apply_int(layer, 0 * beyond)
  assert np.array_equal(int_kan.apply_int(layer, beyond), at_zero + tail)


def test_saturation_bounds_the_next_layers_inputs():
  free, bounded = build(*CASES[4]), build(*CASES[4], output_max=100)
  x = inputs(free)
  y = int_kan.apply_int(free, x)
  assert np.abs(y).max() > 100
  assert np.array_equal(int_kan.apply_int(bounded, x), np.clip(y, -100, 100))


@pytest.mark.parametrize('table', [0, int_kan.TABLE])
@pytest.mark.parametrize(('spec', 'fracs'), [CASES[1], CASES[4], CASES[6]], ids=str)
def test_outputs_right_below_the_bound_are_exact_and_above_refused(spec, fracs, table):
  """Weights and inputs that make sums as large as they can be."""
  sign = np.array([-1, 1] * spec.size)[: spec.size, None, None]
  ones = np.ones((spec.size, 2, 1), np.int64) * sign
  fracs = fracs | {'frac_in': 12}  # long polynomials: 3 * 12 bits from t alone
  m = 40000

  def parts(size):
    base = np.full((2, 1), size - 1)
    base[1] = -base[1]
    return ones * size, base, np.array([2**20])

  make = lambda size: int_kan.make(
    spec, *parts(size), **fracs, input_max=m, table=table
  )
  fits, refused = 1, 2**31 - (spec.degree == 3)
  if spec.degree == 3:  # degree 1 is exact for all weights below 2**31
    with pytest.raises(CodaxError, match=r'2\*\*62 or more'):
      make(refused)
  while refused - fits > 1:
    middle = (fits + refused) // 2
    try:
      make(middle)
      fits = middle
    except CodaxError:
      refused = middle
  layer = make(fits)
  x = np.array([[m, m], [-m, -m], [m, -m], [-m, m], [1, -1], [4095, 9000]])
  expected = [rational(spec, *parts(fits), row, fracs) for row in x]
  assert np.array_equal(int_kan.apply_int(layer, x), expected)
  if spec.degree == 3:  # the bound is not far from what can be reached
    assert np.abs(expected).max() * layer.divisor > 2**58


# Only one part of the sum is large: inside the grid, beyond it, and the base branch.
FAR = 2**31 - 1
ALONE = {
  'inside': (Spec(2, 3, -1.0, 1.0, 'none'), 16, [1] * 5, 0, 2**16, 1, 2728, 2731),
  'beyond': (Spec(1, 1, 0.0, 1.0, 'none'), 0, [-1, 1], 0, FAR, 1, 2**29, 2**30 + 1),
  'base': (Spec(1, 1, 0.0, 1.0, 'linear'), 0, [0, 0], 1, FAR, 2, 2**30 - 1, 2**30 + 1),
}


@pytest.mark.parametrize('name', ALONE)
def test_every_part_of_a_sum_is_bounded(name):
  spec, frac_in, spline, base, m, d_in, fits, refused = ALONE[name]
  fracs = {'frac_in': frac_in, 'frac_w': 0, 'frac_b': 0, 'frac_out': 0}

  def parts(size):
    edges = np.array(spline)[:, None, None] * np.full((1, d_in, 1), size)
    weight = None if spec.base == 'none' else np.full((d_in, 1), base * size)
    return edges, weight, np.array([0])

  layer = int_kan.make(spec, *parts(fits), **fracs, input_max=m)
  x = np.array([[m] * d_in, [-m] * d_in])
  expected = [rational(spec, *parts(fits), row, fracs) for row in x]
  assert np.array_equal(int_kan.apply_int(layer, x), expected)
  with pytest.raises(CodaxError, match='a sum can reach'):
    int_kan.make(spec, *parts(refused), **fracs, input_max=m)


def test_factors_that_overflow_are_refused_though_all_weights_are_zero():
  spec, zero = Spec(1, 3, 0.0, 1.0, 'none'), np.zeros((4, 1, 1), int)
  with pytest.raises(CodaxError, match='a sum can reach'):
    int_kan.make(spec, zero, None, np.array([0]), frac_in=21, frac_w=0, frac_b=0,
                 frac_out=30, input_max=9)  # fmt: skip


@pytest.mark.parametrize(
  ('spec', 'match'),
  [
    (Spec(5, 3, -2.0, 2.0, 'none'), 'not a power of two'),
    (Spec(4, 3, -2.0, 2.0 + 2**-50, 'none'), 'not a power of two'),
    (Spec(4, 3, -2.3, 1.7, 'none'), 'power of two|multiples'),
    (Spec(1, 3, 0.0, 2.0**-9, 'none'), 'multiples'),
    (Spec(1, 3, 0.0, 2.0**60, 'none'), 'too far apart'),
    (Spec(1, 1, 2.0**45, 2.0**45 + 1, 'none'), 'too far apart'),
    (Spec(4, 3, -2.0, 2.0, 'silu'), 'silu'),
    (Spec(1, 3, -1.0, 1.0, 'relu'), '0 must be a knot'),
    (Spec(1, 3, 1.0, 2.0, 'relu'), '0 must be a knot'),
    (Spec(0, 3, 0.0, 1.0, 'none'), 'grid of 0'),
    (Spec(1, 2, 0.0, 1.0, 'none'), 'degree 2'),
    (Spec(1, 3, 0.0, float('nan'), 'none'), 'nan'),
    (Spec(1, 3, -float('inf'), 1.0, 'none'), 'inf'),
    (Spec(1, 3, 0.0, 1.0, 'tanh'), 'tanh'),
  ],
)
def test_grids_that_are_not_exact_are_refused(spec, match):
  with pytest.raises(CodaxError, match=match):
    int_kan.make(
      spec,
      np.ones((max(spec.size, 1), 2, 2), int),
      None if spec.base == 'none' else np.ones((2, 2), int),
      np.ones(2, int),
      **FRACS,
      input_max=9,
    )


def test_hostile_layers_are_refused():
  spec = CASES[4][0]
  good = dict(zip(('spline', 'base', 'bias'), weights(spec))) | FRACS
  good |= {'input_max': 500}
  int_kan.make(spec, **good)
  far = np.iinfo(np.int64).min
  bad = [
    {'spline': good['spline'] * 1.0},
    {'spline': good['spline'][1:]},
    {'spline': good['spline'][:, :0]},
    {'spline': np.full_like(good['spline'], far)},
    {'spline': np.full_like(good['spline'], 2**31)},
    {'spline': good['spline'].astype(np.uint64)},
    {'base': None},
    {'base': good['base'].T},
    {'base': np.full_like(good['base'], far)},
    {'bias': good['bias'][:1]},
    {'bias': good['bias'][None]},
    {'bias': np.full_like(good['bias'], far)},
    {'bias': good['bias'] * np.nan},
    {'frac_in': -1},
    {'frac_w': 31},
    {'frac_out': 10**9},
    {'input_max': -1},
    {'input_max': 2**31},
    {'output_max': -1},
    # Each alone is fine: it is the sum that is not.
    {'frac_in': 20},
    {'bias': np.full_like(good['bias'], 2**52), 'frac_b': 0},
  ]
  for change in bad:
    with pytest.raises(CodaxError, match='integer KAN'):
      int_kan.make(spec, **(good | change))
  with pytest.raises(CodaxError, match='base'):
    int_kan.make(spec._replace(base='none'), **good)


@pytest.mark.parametrize('table', [0, int_kan.TABLE])
def test_hostile_inputs_are_refused(table):
  layer = build(*CASES[4], table=table)
  x = np.zeros((2, 3), np.int64)
  for value in (501, -501, 2**62, np.iinfo(np.int64).min):
    x[1, 2] = value
    with pytest.raises(CodaxError, match='above 500'):
      int_kan.apply_int(layer, x)
  for wrong in (np.zeros((2, 4), int), np.zeros((2, 3)), np.array(3)):
    with pytest.raises(CodaxError, match='inputs'):
      int_kan.apply_int(layer, wrong)
  with pytest.raises(CodaxError, match='above 500'):
    int_kan.apply_int(layer, np.full((1, 3), 2**64 - 1, np.uint64))


def test_decoding_needs_no_jax():
  code = 'import sys, codax.entropy.int_kan\nprint("jax" in sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.stdout.strip() == 'False', done.stderr

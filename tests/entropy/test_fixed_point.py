"""Integer networks: exact at any batch size, near their float originals, bounded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax.entropy import fixed_point
from codax.errors import CodaxError


def float_mlp(seed, widths):
  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(a, b)) / np.sqrt(a), rng.normal(size=b))
    for a, b in zip(widths[:-1], widths[1:])
  ]


def quantized(layers, **changes):
  options = dict(input_frac=12, input_max=2**15, output_frac=8, activation_max=256.0)
  return fixed_point.quantize_mlp(layers, **(options | changes))


def exact(mlp, x):
  """The layers in Python integers."""
  x = x.astype(object)
  for i, (w, b, shift) in enumerate(zip(mlp.kernels, mlp.biases, mlp.shifts)):
    x = x @ w.astype(np.int64).astype(object) + b.astype(np.int64).astype(object)
    x = x >> shift
    if i + 1 < len(mlp.kernels):
      x = np.minimum(np.maximum(x, 0), mlp.limit)
  return x.astype(np.int64)


@given(st.integers(0, 2**31), st.sampled_from([(5, 3), (4, 9, 2), (33, 18, 18, 2)]))
def test_outputs_equal_python_integers(seed, widths):
  mlp = quantized(float_mlp(seed, widths))
  x = np.random.default_rng(seed).integers(-(2**15), 2**15 + 1, (7, widths[0]))
  np.testing.assert_array_equal(fixed_point.apply_int(mlp, x), exact(mlp, x))


def test_outputs_up_to_the_bound_are_exact():
  # Sums just below 2**53, where float64 has no room left, still match.
  w = np.full((2, 1), 2**20 - 1)
  mlp = fixed_point.make([w], [np.array([-12345])], [1], 2**31, 1)
  x = np.array([[2**31, 2**31 - 1], [-(2**31), -(2**31)], [2**31, 1 - 2**31]])
  np.testing.assert_array_equal(fixed_point.apply_int(mlp, x), exact(mlp, x))
  with pytest.raises(CodaxError, match='2\\*\\*53'):
    fixed_point.make([w], [np.array([0])], [1], 2**33, 1)


def test_outputs_at_any_batch_size_are_the_same():
  mlp = quantized(float_mlp(0, (128, 64, 512)))
  x = np.random.default_rng(1).integers(-(2**15), 2**15, (333, 128))
  whole = fixed_point.apply_int(mlp, x)
  for size in (1, 2, 7, 64, 100):
    parts = [fixed_point.apply_int(mlp, x[i : i + size]) for i in range(0, 333, size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  shaped = fixed_point.apply_int(mlp, x.reshape(3, 111, 128))
  np.testing.assert_array_equal(shaped.reshape(333, 512), whole)
  assert fixed_point.apply_int(mlp, x[:0]).shape == (0, 512)


def test_outputs_are_close_to_the_float_network():
  layers = float_mlp(3, (24, 32, 32, 16))
  x = np.random.default_rng(4).integers(-(2**14), 2**14, (50, 24))
  h = x / 2**12
  for i, (w, b) in enumerate(layers):
    h = h @ w + b
    h = np.clip(h, 0, 256.0) if i < 2 else h * 1.5
  got = fixed_point.apply_int(quantized(layers, output_scale=1.5), x) / 2**8
  assert np.abs(got - h).max() < 0.02
  assert np.abs(got - h).mean() < 2**-9 + 0.002


def test_network_from_its_arrays_is_the_same():
  mlp = quantized(float_mlp(5, (6, 5, 4)))
  arrays = fixed_point.to_arrays(mlp)
  assert all(a.dtype.kind == 'i' for a in arrays.values())
  again = fixed_point.from_arrays(arrays)
  x = np.arange(12).reshape(2, 6)
  np.testing.assert_array_equal(
    fixed_point.apply_int(again, x), fixed_point.apply_int(mlp, x)
  )
  assert again.shifts == mlp.shifts and again.limit == mlp.limit


def hostile(name, value):
  arrays = fixed_point.to_arrays(quantized(float_mlp(6, (6, 5, 4))))
  if value is None:
    del arrays[name]
  else:
    arrays[name] = np.asarray(value)
  return arrays


@pytest.mark.parametrize(
  'name, value',
  [
    ('kernel_0', None),
    ('shifts', None),
    ('bounds', None),
    ('kernel_9', np.zeros((2, 2), int)),
    ('kernel_0', np.zeros((6, 4), int)),
    ('kernel_0', np.zeros((6, 5))),
    ('kernel_0', np.zeros((6, 0), int)),
    ('kernel_0', np.full((6, 5), 2**31)),
    ('kernel_0', np.full((6, 5), -(2**63))),
    ('kernel_1', np.full((5, 4), 2**31 - 1)),
    ('bias_0', np.full(5, 2**53)),
    ('bias_0', np.full(5, -(2**63))),
    ('bias_1', np.zeros(5, int)),
    ('shifts', [12, 0]),
    ('shifts', [53, 12]),
    ('shifts', [12]),
    ('shifts', [12.0, 12.0]),
    ('bounds', [-1, 5]),
    ('bounds', [2**60, 5]),
    ('bounds', [1, 2, 3]),
  ],
)
def test_hostile_arrays_are_refused(name, value):
  with pytest.raises(CodaxError, match='integer network'):
    fixed_point.from_arrays(hostile(name, value))


@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e9])
def test_float_weights_that_do_not_fit_are_refused(bad):
  layers = float_mlp(7, (3, 4, 2))
  layers[0][0][1, 1] = bad
  with pytest.raises(CodaxError):
    quantized(layers)


def test_inputs_above_the_promise_are_refused():
  mlp = quantized(float_mlp(8, (3, 2)))
  with pytest.raises(CodaxError, match='an input is above'):
    fixed_point.apply_int(mlp, np.array([[0, 2**15 + 1, 0]]))

"""Programs of few shapes are kept, and what is dropped is gone."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import programs


def make(**settings):
  """A compiled function, and the list of its traces."""
  traces = []

  @programs.jit_by_shape(static=('power',), **settings)
  def scale(power, x, y):
    traces.append((power, x.shape, str(x.dtype)))
    return x**power + y['z']

  return scale, traces


def test_result_is_that_of_the_function():
  scale, _ = make()
  found = scale(3, jnp.arange(4.0), {'z': jnp.ones(4)})
  np.testing.assert_allclose(found, np.arange(4.0) ** 3 + 1)
  assert scale.__name__ == 'scale'


def test_each_shape_type_and_constant_is_traced_once():
  scale, traces = make(kept=4)
  for _ in range(3):
    scale(2, jnp.ones(3), {'z': jnp.ones(3)})
    scale(2, np.ones(3, np.float32), {'z': np.ones(3, np.float32)})
    scale(3, jnp.ones(3), {'z': jnp.ones(3)})
    scale(2, jnp.ones(3, jnp.int32), {'z': jnp.ones(3)})
    scale(2, jnp.ones(5), {'z': jnp.ones(5)})
  assert len(traces) == len(set(traces)) == 4


def test_shape_unused_for_longest_is_forgotten():
  scale, traces = make(kept=2)
  run = lambda n: scale(2, jnp.ones(n), {'z': jnp.ones(n)})
  run(1), run(2), run(1), run(3), run(1)
  assert len(traces) == 3
  run(2)
  assert len(traces) == 4
  assert scale.programs.cache_info().currsize == 2


def test_forgotten_programs_are_freed():
  """JAX holds no executable of a function that is gone."""
  client = jax.devices()[0].client
  scale, _ = make(kept=2)
  counts = []
  gc.collect()
  gc.freeze()  # what is older than this test is not looked through again
  try:
    for n in range(1, 6):
      scale(2, np.ones(n, np.float32), {'z': np.ones(n, np.float32)})
      gc.collect()
      counts.append(len(client.live_executables()))
  finally:
    gc.unfreeze()
  assert counts[-1] - counts[0] <= 1


def test_donated_buffer_is_used_up():
  @programs.jit_by_shape(donate=('x',))
  def add(x, y):
    return x + y

  x, y = jnp.ones(3), jnp.ones(3)
  add(x, y)
  assert x.is_deleted() and not y.is_deleted()


def test_missing_argument_is_refused():
  scale, _ = make()
  with pytest.raises(TypeError, match='missing'):
    scale(2, jnp.ones(3))


def test_number_is_no_constant_of_a_program():
  scale, traces = make()
  for value in (1.0, 2.0, 3.0):
    scale(power=2, x=jnp.ones(3), y={'z': value})
  assert len(traces) == 1


def test_call_inside_of_a_traced_function_works():
  scale, _ = make()
  found = jax.jit(lambda x: scale(2, x, {'z': x}))(jnp.full(3, 2.0))
  np.testing.assert_allclose(found, 6)

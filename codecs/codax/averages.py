"""Debiased running averages of pytrees.

Exponential weights whose sum is kept beside the weighted sum, as Adam debiases its
moments (Kingma and Ba 2015, section 3). Their quotient is an average of real values
from the first update on. A codebook statistic without this remembers its arbitrary
initial value for 1 / (1 - decay) steps, which throws unused codes far away at the
first update; averaged parameters without it cannot be evaluated early.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from codax.config import check_range
from codax.errors import CodaxError


class Average(NamedTuple):
  """An average in progress.

  Attributes:
    total: pytree of float32 arrays: sum of weight * value.
    weight: float32 scalar, sum of the weights: 1 - decay^n for a fixed decay.
  """

  total: Any
  weight: jax.Array


def init(tree: Any) -> Average:
  """Returns an average of no value yet, for values shaped like `tree` (any float)."""
  total = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), tree)
  return Average(total, jnp.zeros((), jnp.float32))


def update(average: Average, tree: Any, decay: jax.Array | float) -> Average:
  """Adds one value with weight ``1 - decay``.

  Args:
    average: result of `init` or `update`.
    tree: pytree of the structure and shapes given to `init`.
    decay: factor on earlier weights, in [0, 1); 0 keeps the last value only.
  """
  _check_same(average, tree)
  gain = 1.0 - jnp.asarray(decay, jnp.float32)

  def add(total: jax.Array, x: jax.Array) -> jax.Array:
    return total + gain * (x.astype(jnp.float32) - total)

  total = jax.tree.map(add, average.total, tree)
  return Average(total, average.weight + gain * (1.0 - average.weight))


def from_value(tree: Any, decay: jax.Array | float) -> Average:
  """Returns an average that has seen one value."""
  return update(init(tree), tree, decay)


def value(average: Average, init: Any = None) -> Any:
  """Returns the average.

  Args:
    average: average in progress.
    init: value before any update, whose dtypes are the result's; None is zeros of
      float32.
  """
  chex.assert_rank(average.weight, 0)
  seen = average.weight > 0
  weight = jnp.where(seen, average.weight, 1.0)
  if init is None:
    return jax.tree.map(lambda total: total / weight, average.total)

  _check_same(average, init)

  def debias(total: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(seen, (total / weight).astype(x.dtype), x)

  return jax.tree.map(debias, average.total, init)


def value_or(average: Average | None, tree: Any) -> Any:
  """Returns the average, before any update or without one `tree` itself."""
  return tree if average is None else value(average, tree)


def check_decay(decay: float) -> None:
  """Checks ``config.average_decay``; 0 is no average.

  Raises:
    CodaxError: it is not in [0, 1).
  """
  check_range('config.average_decay', decay, 0, 1)
  if decay == 1:
    raise CodaxError('config.average_decay is 1; valid: 0 to below 1')


def _check_same(average: Average, tree: Any) -> None:
  """Raises AssertionError unless `tree` has the structure and shapes of the average."""
  chex.assert_trees_all_equal_structs(average.total, tree)
  chex.assert_trees_all_equal_shapes(average.total, tree)
  chex.assert_rank(average.weight, 0)

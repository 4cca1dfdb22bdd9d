"""Debiased running averages of pytrees.

Exponential weights whose sum is kept beside the weighted sum, as Adam debiases its
moments (Kingma and Ba 2015, section 3). Their quotient is an average of values that
were really there, from the first update on. A codebook statistic without this remembers
its arbitrary start for 1 / (1 - decay) steps, which throws unused codes far away at the
first update; averaged parameters without it cannot be evaluated early.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Average(NamedTuple):
  """An average in progress.

  Attributes:
    total: pytree, float32: sum of weight * value.
    weight: float32 scalar: sum of the weights, 1 - decay^n for a fixed decay.
  """

  total: Any
  weight: jax.Array


def init(tree: Any) -> Average:
  """An average of nothing yet, for values shaped like `tree`, of any float dtype."""
  total = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), tree)
  return Average(total, jnp.zeros((), jnp.float32))


def update(average: Average, tree: Any, decay: jax.Array | float) -> Average:
  """Adds one value with weight ``1 - decay``.

  Args:
    average: what `init` or `update` returned.
    tree: the same structure as given to `init`.
    decay: in [0, 1); 0 keeps the last value only.
  """
  gain = 1.0 - jnp.asarray(decay, jnp.float32)

  def add(total: jax.Array, x: jax.Array) -> jax.Array:
    return total + gain * (x.astype(jnp.float32) - total)

  total = jax.tree.map(add, average.total, tree)
  return Average(total, average.weight + gain * (1.0 - average.weight))


def from_value(tree: Any, decay: jax.Array | float) -> Average:
  """An average that has seen one value."""
  return update(init(tree), tree, decay)


def value(average: Average, start: Any = None) -> Any:
  """The average.

  Args:
    average: in progress.
    start: what to return before any update; its dtypes are the result's. None: zeros,
      float32.
  """
  seen = average.weight > 0
  weight = jnp.where(seen, average.weight, 1.0)
  if start is None:
    return jax.tree.map(lambda total: total / weight, average.total)

  def one(total: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(seen, (total / weight).astype(x.dtype), x)

  return jax.tree.map(one, average.total, start)

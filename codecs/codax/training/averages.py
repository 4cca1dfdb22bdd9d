"""Averaged parameters: an exponential moving average without a bias towards its start.

The average of Polyak and Ruppert with exponential weights, as Adam debiases its moments
(Kingma and Ba 2015, section 3): the sum of the weights given so far is kept beside the
weighted sum, and their quotient is the average. From the first step on it is an average
of parameters that were really there, so it can be evaluated at any time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Average(NamedTuple):
  """An average in progress.

  Attributes:
    total: pytree of the parameters, float32: sum of weight * parameter.
    weight: float32 scalar: sum of the weights, 1 - decay^n for a fixed decay.
  """

  total: Any
  weight: jax.Array


def init(params: Any) -> Average:
  """An average of nothing yet, for parameters of any float dtype."""
  total = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)
  return Average(total, jnp.zeros((), jnp.float32))


def update(average: Average, params: Any, decay: jax.Array | float) -> Average:
  """Adds one set of parameters with weight ``1 - decay``.

  Args:
    average: what `init` or `update` returned.
    params: the same tree as given to `init`.
    decay: in [0, 1); 0 keeps the last parameters only.
  """
  gain = 1.0 - jnp.asarray(decay, jnp.float32)

  def add(total: jax.Array, p: jax.Array) -> jax.Array:
    return total + gain * (p.astype(jnp.float32) - total)

  total = jax.tree.map(add, average.total, params)
  return Average(total, average.weight + gain * (1.0 - average.weight))


def value(average: Average, params: Any) -> Any:
  """The average, in the dtypes of `params`; `params` themselves before any update."""
  seen = average.weight > 0
  weight = jnp.where(seen, average.weight, 1.0)

  def one(total: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.where(seen, (total / weight).astype(p.dtype), p)

  return jax.tree.map(one, average.total, params)

"""Debiased running averages, as Adam has them: zero start, divided by 1 - decay^t.

Without the division a codebook statistic remembers its arbitrary start for 1/(1-decay)
steps, which is how codes are thrown far away at the first EMA update.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Average(NamedTuple):
  """Running sum of weights (1 - decay^t) and of weighted values (a pytree)."""

  weight: jax.Array
  total: Any


def zeros_like(tree: Any) -> Average:
  return Average(jnp.zeros(()), jax.tree.map(jnp.zeros_like, tree))


def started(tree: Any, decay: float) -> Average:
  """An average that has seen `tree` once."""
  return update(zeros_like(tree), tree, decay)


def update(average: Average, value: Any, decay: float) -> Average:
  mix = lambda old, new: decay * old + (1 - decay) * new
  return Average(mix(average.weight, 1.0), jax.tree.map(mix, average.total, value))


def read(average: Average) -> Any:
  """The debiased mean; zeros before the first update."""
  weight = jnp.maximum(average.weight, 1e-20)
  return jax.tree.map(lambda t: t / weight, average.total)

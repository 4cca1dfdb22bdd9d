"""Gradients of learnt activations, written by hand.

A gradient of coefficients that all positions share is a sum over positions. Derived
automatically it is a chain of reductions and scatters, each of which reads everything
again; here each coefficient's terms are summed by one reduction, and only x is kept for
it (as in FlashKAT, Raffel and Chen 2025, for rational functions).

Measured for x [8, 64, 64, C] in float32, forward and backward on two cores that other
work shared, by plain differentiation -> as here, in ms. `bezier`: 8.3 -> 6.0 for C =
32, 35 -> 20 for C = 64 (one sum of stacked terms; four sums: 7.5 and 30; products with
ones: 8.0 and 22). `pade`: 24 -> 11 and 80 -> 37 (ten sums; stacked 59 and 200, products
88 and 189).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from codax.layers.activations import base
from codax.layers.activations import bezier as curves
from codax.layers.activations import pade as rational


@jax.custom_vjp
def bezier(points: jax.Array, x: jax.Array) -> jax.Array:
  """Evaluates cubic Bezier curves at sigmoid(x).

  Args:
    points: control points [4, C].
    x: [..., C].

  Returns:
    [..., C].
  """
  return curves.evaluate(jax.nn.sigmoid(x), base.over_positions(points, x))


def _bezier_forward(points, x):
  return bezier(points, x), (points, x)


def _bezier_backward(saved, grad):
  points, x = saved
  t = jax.nn.sigmoid(x)
  slope = curves.differentiate(t, base.over_positions(points, x))
  terms = jnp.stack([grad * b for b in curves.bernstein(t)], -2)
  sums = terms.reshape(-1, points.size).sum(0).reshape(points.shape)
  return sums, grad * slope * t * (1 - t)


bezier.defvjp(_bezier_forward, _bezier_backward)


@jax.custom_vjp
def pade(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
  """Evaluates (a0 + ... + a5 x^5) / (1 + |b1 x + ... + b4 x^4|).

  Args:
    a: coefficients [6, C] of the numerator.
    b: coefficients [4, C] of the denominator.
    x: [..., C].

  Returns:
    [..., C].
  """
  upper, lower = rational.polynomials(
    base.over_positions(a, x), base.over_positions(b, x), x
  )
  return upper / (1 + jnp.abs(lower))


def _pade_forward(a, b, x):
  return pade(a, b, x), (a, b, x)


def _pade_backward(saved, grad):
  a, b, x = saved
  rows, columns = base.over_positions(a, x), base.over_positions(b, x)
  upper, lower = rational.polynomials(rows, columns, x)
  upper_slope, _ = rational.polynomials(
    [(k + 1) * value for k, value in enumerate(rows[1:])], columns, x
  )
  lower_slope, _ = rational.polynomials(
    [(k + 1) * value for k, value in enumerate(columns)], columns, x
  )
  share = 1 / (1 + jnp.abs(lower))
  to_upper = grad * share
  to_lower = -to_upper * upper * share * jnp.sign(lower)
  axes = tuple(range(x.ndim - 1))

  def sum_moments(weight, count):
    sums = []
    for _ in range(count):
      sums.append(weight.sum(axes))
      weight = weight * x
    return jnp.stack(sums)

  return (
    sum_moments(to_upper, a.shape[0]),
    sum_moments(to_lower * x, b.shape[0]),
    to_upper * upper_slope + to_lower * lower_slope,
  )


pade.defvjp(_pade_forward, _pade_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lower_bound(value: jax.Array, low: float) -> jax.Array:
  """Computes max(value, low); below it the gradient passes if descent raises value."""
  return jnp.maximum(value, low)


def _bound_forward(value, low):
  return lower_bound(value, low), value


def _bound_backward(low: float, value: Any, grad: Any):
  passes = (value >= low) | (grad < 0)
  return (jnp.where(passes, grad, 0),)


lower_bound.defvjp(_bound_forward, _bound_backward)

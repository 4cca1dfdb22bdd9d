"""Straight-through estimators: forward the quantized value, backward a surrogate.

All but `diveq` are `jax.custom_vjp` functions, so that the backward pass is written
down rather than implied by a ``z + stop_gradient(q - z)`` whose forward value is off by
rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_TINY = 1e-12


@jax.custom_vjp
def straight_through(z: jax.Array, values: jax.Array) -> jax.Array:
  """Returns `values`; the gradient goes to `z` unchanged and not to `values`.

  Bengio, Léonard & Courville 2013. Both arguments float [..., d], equal shapes.
  """
  del z
  return values


def _straight_through_fwd(z, values):
  del z
  return values, None


def _straight_through_bwd(_, g):
  return g, jnp.zeros_like(g)


straight_through.defvjp(_straight_through_fwd, _straight_through_bwd)


@jax.custom_vjp
def rotation_trick(z: jax.Array, values: jax.Array) -> jax.Array:
  """Returns `values`; the gradient to `z` is rotated and rescaled.

  Fifty et al. 2024, section 4: the pullback of the linear map that takes z to the
  quantized value, a rotation in the plane of the two vectors times the ratio of their
  norms, held constant. Angles between gradient and vector are kept. A z of length 0 has
  no direction to rotate: its gradient is passed on as it is.
  """
  del z
  return values


def _rotation_fwd(z, values):
  return values, (z, values)


def _rotation_bwd(residual, g):
  z, values = residual
  nz = jnp.linalg.norm(z, axis=-1, keepdims=True)
  nv = jnp.linalg.norm(values, axis=-1, keepdims=True)
  a, b = z / jnp.maximum(nz, _TINY), values / jnp.maximum(nv, _TINY)
  mid = a + b
  mid = mid / jnp.maximum(jnp.linalg.norm(mid, axis=-1, keepdims=True), _TINY)
  # R = I - 2 m m^T + 2 b a^T takes a to b; its transpose is applied to g
  dot = lambda u, v: jnp.sum(u * v, axis=-1, keepdims=True)
  rotated = g - 2 * mid * dot(mid, g) + 2 * a * dot(b, g)
  scaled = nv / jnp.maximum(nz, _TINY) * rotated
  return jnp.where(nz > _TINY, scaled, g), jnp.zeros_like(g)


rotation_trick.defvjp(_rotation_fwd, _rotation_bwd)


@jax.custom_vjp
def with_gradient(x: jax.Array, value: jax.Array, gradient: jax.Array) -> jax.Array:
  """Returns the scalar `value`; its gradient to `x` is `gradient`, in closed form.

  For a sum whose terms automatic differentiation would have to keep.
  """
  del x, gradient
  return value


def _with_gradient_fwd(x, value, gradient):
  del x
  return value, gradient


def _with_gradient_bwd(gradient, g):
  return g * gradient, jnp.zeros_like(g), jnp.zeros_like(gradient)


with_gradient.defvjp(_with_gradient_fwd, _with_gradient_bwd)


@jax.custom_vjp
def round_through(x: jax.Array) -> jax.Array:
  """Rounds to the nearest integer (ties to even); the gradient is the identity."""
  return jnp.round(x)


round_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def diveq(z: jax.Array, values: jax.Array, rng: jax.Array | None) -> jax.Array:
  """Returns z + |v - z| u / |u| for values v, with u = v - z + noise held fixed.

  DiVeQ (Vali, Bäckström & Solin, ICLR 2026): the error is a length, which is
  differentiated, times a direction, which is not. So the gradient g goes to z as
  g - (u . g) w and to the values as (u . g) w, with unit vectors u and w = (v - z) /
  |v - z|: codewords learn from the loss along the error, and need no loss of their own.

  Args:
    z: float [..., d].
    values: float [..., d], codewords, to be differentiated.
    rng: key of Gaussian noise of standard deviation `NOISE` on the direction; None
      is no noise: the result is then `values`, up to rounding.
  """
  error = values - z
  length = jnp.sqrt(jnp.maximum(jnp.sum(error**2, -1, keepdims=True), _TINY))
  direction = jax.lax.stop_gradient(error)
  if rng is not None:
    direction = direction + NOISE * jax.random.normal(rng, z.shape, z.dtype)
  norm = jnp.sqrt(jnp.sum(direction**2, -1, keepdims=True))
  return z + length * (direction / jnp.maximum(norm, _TINY))


NOISE = 1e-3**0.5  # of DiVeQ's direction: a variance of 1e-3
ESTIMATORS = {'straight_through': straight_through, 'rotation': rotation_trick}
NOISY = {'diveq': diveq}


def estimate(
  estimator: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  values: jax.Array,
  groups: int,
) -> jax.Array:
  """Applies an estimator to (z, values), both [..., D], group by group."""
  shape = (*z.shape[:-1], groups, z.shape[-1] // groups)
  return estimator(z.reshape(shape), values.reshape(shape)).reshape(z.shape)

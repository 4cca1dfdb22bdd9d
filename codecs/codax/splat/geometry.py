"""Covariances of 2D Gaussians from three numbers each, as floats.

With offsets d = (dx, dy) from the center, a Gaussian is exp(-e), e = d' P d / 2, where
P is the precision, the inverse of the covariance. Both parametrizations describe every
covariance by three numbers, the Gaussian's shape:

- 'cholesky': (log a, log b, t), with the Cholesky factor [[a, 0], [t b, b]].
  GaussianImage has the factor's entries themselves; as logarithms and a ratio they stay
  valid whatever the optimizer does, and a step means the same for large and small ones.
- 'rotation': (log s, log r, angle): standard deviations s * r along the angle (radians,
  from x to y) and s / r across it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.splat.format import integer

COVARIANCES = integer.COVARIANCES


class Precision(NamedTuple):
  """Entries of symmetric 2 x 2 precisions, each [...], in 1 / pixel**2."""

  xx: jax.Array
  xy: jax.Array
  yy: jax.Array


def compute_precision(covariance: str, shape: jax.Array) -> Precision:
  """Returns the precisions of shapes [..., 3]."""
  first, second, third = shape[..., 0], shape[..., 1], shape[..., 2]
  if covariance == 'cholesky':
    a, b = jnp.exp(-first), jnp.exp(-second)
    return Precision((1 + third**2) * a * a, -third * a * b, b * b)
  along, across = jnp.exp(-2 * (first + second)), jnp.exp(-2 * (first - second))
  c, s = jnp.cos(third), jnp.sin(third)
  return Precision(
    c * c * along + s * s * across,
    c * s * (along - across),
    s * s * along + c * c * across,
  )


def compute_deviations(
  covariance: str, shape: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns standard deviations in x and in y, each [...], in pixels."""
  first, second, third = shape[..., 0], shape[..., 1], shape[..., 2]
  if covariance == 'cholesky':
    return jnp.exp(first), jnp.exp(second) * jnp.sqrt(1 + third**2)
  along, across = jnp.exp(2 * (first + second)), jnp.exp(2 * (first - second))
  c, s = jnp.cos(third) ** 2, jnp.sin(third) ** 2
  return jnp.sqrt(c * along + s * across), jnp.sqrt(s * along + c * across)


def make_isotropic(covariance: str, deviation: np.ndarray) -> np.ndarray:
  """Returns shapes [..., 3] of isotropic Gaussians with given deviations [...]."""
  log, zero = np.log(deviation), np.zeros_like(deviation)
  return np.stack(
    [log, log, zero] if covariance == 'cholesky' else [log, zero, zero], -1
  )


def rescale(covariance: str, shape: jax.Array, factor: float) -> jax.Array:
  """Returns the shapes of the same Gaussians in an image `factor` times as large."""
  logs = (1.0, 1.0, 0.0) if covariance == 'cholesky' else (1.0, 0.0, 0.0)
  return shape + math.log(factor) * jnp.asarray(logs, shape.dtype)[None]

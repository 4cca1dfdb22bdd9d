"""Reverse water-filling: the dimensions of a Gaussian source that a rate can reach.

Cover and Thomas, Elements of Information Theory, theorem 10.3.3: at R bits a vector,
directions of variance above the level t get the distortion t each, the others are left
at their variance and get no bits. K codewords carry log2 K bits at most, so that no
more than the directions above t can be told apart, however many the latents have
(*Continuous first, discrete later*, arXiv 2605.06870).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_TINY = 1e-30


class Filling(NamedTuple):
  """Result of reverse water-filling.

  Attributes:
    level: distortion of the directions that get bits, ().
    active: number of these directions, int32 ().
    distortion: sum of the distortions of all directions, ().
  """

  level: jax.Array
  active: jax.Array
  distortion: jax.Array


def fill(variances: jax.Array, bits: float | jax.Array) -> Filling:
  """Returns the water level of a spectrum, in closed form.

  With the m largest variances active, sum log2(v / t) / 2 = R gives t; the right m is
  the greatest at which the smallest of them still is above t.

  Args:
    variances: float [d], not negative, in any order.
    bits: rate R in bits a vector, above 0.
  """
  v = jnp.maximum(jnp.sort(variances)[::-1], _TINY)
  m = jnp.arange(1, v.shape[0] + 1)
  levels = jnp.exp((jnp.cumsum(jnp.log(v)) - 2 * jnp.log(2.0) * bits) / m)
  active = jnp.sum(jnp.cumprod(v > levels)).astype(jnp.int32)
  level = levels[jnp.maximum(active - 1, 0)]
  return Filling(level, active, jnp.sum(jnp.minimum(v, level)))


def effective_dimension(variances: jax.Array) -> jax.Array:
  """Returns the participation ratio (sum v)^2 / sum v^2 of variances [d], 1 to d."""
  total = jnp.sum(variances)
  return total**2 / jnp.maximum(jnp.sum(variances**2), _TINY)


def spectrum(z: jax.Array, weight: jax.Array | None = None) -> jax.Array:
  """Returns the eigenvalues [d] of the covariance of vectors [N, d].

  Args:
    z: float [N, d].
    weight: float [N], weights of the vectors that sum to 1; None for equal ones.
  """
  weight = jnp.full(z.shape[0], 1.0 / z.shape[0]) if weight is None else weight
  z = z - jnp.sum(weight[:, None] * z, 0, keepdims=True)
  covariance = jnp.matmul((weight[:, None] * z).T, z, precision='highest')
  return jnp.maximum(jnp.linalg.eigvalsh(covariance), 0.0)

"""Block Karhunen–Loève transform (KLT) of image patches, from which training starts.

The KLT is the orthonormal transform that packs the most energy into the fewest
coefficients (Goyal 2001, "Theoretical foundations of transform coding", section II).
Photographs look alike mirrored and transposed, so the covariance is averaged over the
eight symmetries of the square: a few thousand patches then do for 768 x 768 numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Klt(NamedTuple):
  """A transform of patches.

  Attributes:
    basis: float32 [P, C], orthonormal columns, largest variance first.
    deviation: float32 [C], standard deviation of each coefficient, in pixel values.
  """

  basis: jax.Array
  deviation: jax.Array


def fit(patches: jax.Array, side: int, num_coefficients: int) -> Klt:
  """Fits the transform.

  Args:
    patches: float32 [N, side * side * channels], raster order, their mean about 0.
    side: side of a patch in pixels.
    num_coefficients: number of coefficients C to keep, at most the patch's size.
  """
  size = patches.shape[-1]
  covariance = patches.T @ patches / patches.shape[0]
  total = jnp.zeros((size, size), jnp.float32)
  for order in _symmetries(side, size // side**2):
    total += covariance[order][:, order]
  values, vectors = jnp.linalg.eigh(total / 8)
  values, vectors = values[::-1], vectors[:, ::-1]
  deviation = jnp.sqrt(jnp.maximum(values[:num_coefficients], 0.0))
  return Klt(vectors[:, :num_coefficients], deviation)


def _symmetries(side: int, channels: int) -> list[Any]:
  """Lists the eight symmetries of a patch as orders of its numbers, int [P]."""
  square = np.arange(side * side * channels).reshape(side, side, channels)
  turned = [square, square[::-1], square[:, ::-1], square[::-1, ::-1]]
  turned += [x.transpose(1, 0, 2) for x in turned]
  return [x.reshape(-1) for x in turned]

"""Encoder-side refinement: moves coefficients to where they decode with less error.

Rounding treats the synthesis as the transposed KLT, whose errors are those of the
coefficients. Its networks see more: an error in one block is partly made good, or made
worse, by them. Proximal gradient steps take that in (Beck and Teboulle 2009, "A fast
iterative shrinkage-thresholding algorithm", equation 2.6): from the coefficients as
they are decoded, go down the gradient of the squared error of the image, and round the
result with the bits in view again. The decoder knows nothing of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax import programs
from codax.vae import transform
from codax.vae.transform import TransformConfig


@programs.jit_by_shape(static=('config',), kept=programs.KEPT_SMALL)
def _gradient(
  config: TransformConfig, params: Any, y: jax.Array, image: jax.Array, mix: jax.Array
) -> jax.Array:
  def error(y):
    decoded = transform.synthesize(params, config, y, mix, jnp)
    return jnp.sum((decoded - image) ** 2)

  return jax.grad(error)(y)


def gradient(
  config: TransformConfig,
  params: Any,
  y: np.ndarray,
  image: np.ndarray,
  mix: np.ndarray,
) -> np.ndarray:
  """Computes the gradient of the squared error of an image.

  Args:
    config: architecture.
    params: parameters of `transform.init`.
    y: float32 [1, h, w, C], coefficients as decoded.
    image: float32 [1, h * patch, w * patch, 3], original, 0 to 255.
    mix: float32 [1, L], see `levels.mixing`.

  Returns:
    float32 [1, h, w, C].
  """
  return np.asarray(_gradient(config, params, y, image, mix))

"""Errors of luma and of chroma apart, and how far the colors of an image reach.

Networks learn luma first: an image whose colors are still pale has a fair PSNR. So both
errors are told apart, and the spread of a reconstruction's colors is set beside that of
the original's. The functions take NumPy arrays or, given ``xp=jax.numpy``, traced ones.
"""

from types import ModuleType
from typing import Any

import numpy as np

# R, G, B to Y, Cb, Cr (BT.601, full range, without the offset of 128).
FROM_RGB = np.array(
  [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
  ],
  np.float32,
)
COLORS = ('red', 'green', 'blue')
_LEAST_MSE = 1e-5  # of an error: equal images have a finite PSNR
MAX_PSNR = 10 * np.log10(255.0**2 / _LEAST_MSE)


def to_ycbcr(image: Any, xp: ModuleType = np) -> Any:
  """Converts [..., 3] from RGB to luma and two chroma signals around 0, float32."""
  return xp.asarray(image, np.float32) @ xp.asarray(FROM_RGB).T


def luma_chroma_mse(a: Any, b: Any, xp: ModuleType = np) -> tuple[Any, Any]:
  """Returns the mean squared errors of luma and of both chroma signals together.

  Args:
    a: uint8 or float [..., 3], on the 0..255 scale.
    b: the same shape.
    xp: `numpy` or `jax.numpy`.
  """
  difference = xp.asarray(a, np.float32) - xp.asarray(b, np.float32)
  square = to_ycbcr(difference, xp) ** 2
  return xp.mean(square[..., 0]), xp.mean(square[..., 1:])


def luma_chroma_psnr(a: Any, b: Any, xp: ModuleType = np) -> tuple[Any, Any]:
  """Returns the PSNR in dB of luma and of chroma; see `luma_chroma_mse`."""
  psnr = lambda mse: 10 * xp.log10(255.0**2 / xp.maximum(mse, _LEAST_MSE))
  luma, chroma = luma_chroma_mse(a, b, xp)
  return psnr(luma), psnr(chroma)


def color_ranges(image: Any, xp: ModuleType = np) -> dict[str, Any]:
  """Returns least and greatest value and standard deviation of each color.

  Args:
    image: uint8 or float [H, W, 3], on the 0..255 scale.
    xp: `numpy` or `jax.numpy`.

  Returns:
    'color_min/red', 'color_max/red', 'color_std/red' and those of the other colors.
  """
  x = xp.asarray(image, np.float32).reshape(-1, 3)
  out = {}
  for name, of in (('min', xp.min), ('max', xp.max), ('std', xp.std)):
    values = of(x, axis=0)
    out |= {f'color_{name}/{color}': values[i] for i, color in enumerate(COLORS)}
  return out


def chroma_spread(image: Any, xp: ModuleType = np) -> Any:
  """Returns the standard deviation of chroma around grey, on the 0..255 scale.

  Divided by that of the original it is below 1 where colors have become pale.
  """
  return xp.sqrt(xp.mean(to_ycbcr(image, xp)[..., 1:] ** 2))

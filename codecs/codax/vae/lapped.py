"""Filters over block boundaries, by which a block transform becomes a lapped one.

A block transform does not see that neighbouring blocks go on into each other. A
filter on the pixels of both sides of every boundary takes away what they share, and its
inverse in the decoder brings it back (pre- and post-filter; Tran, Liang and Tu 2003,
"Lapped transform via time-domain pre- and post-filtering"). In one dimension it gains
0.4 dB on photographs, with blocks of 16, for two dozen multiplications a pixel.

A filter works on as many pixels around a boundary as a block has, half of them on
either side. Sums of mirrored pixels stay as they are, and so do flat areas; their
differences are multiplied by a matrix. Rows and columns are filtered one after the
other. Half a block at the border of an image stays as it is. The functions run in JAX
and in NumPy.
"""

from typing import Any

import numpy as np

# Of the differences at the first frequency: the filter is not orthogonal, and the
# coding gain on photographs is greatest about here (flat from 1.3 to 1.6).
_FIRST_SCALE = 2**0.5


def design(patch: int) -> np.ndarray:
  """Returns the matrix of a filter to start from, float32 [patch / 2, patch / 2].

  It is the closed form of Tran et al. (section V): a DCT of type IV, a scaling, and an
  inverse DCT of type II. Its inverse is the matrix of the inverse filter.

  Args:
    patch: side of a block in pixels, even.
  """
  n = patch // 2
  at = np.arange(n)
  dct4 = np.sqrt(2 / n) * np.cos(np.pi * np.outer(2 * at + 1, 2 * at + 1) / (4 * n))
  dct2 = np.sqrt(2 / n) * np.cos(np.pi * np.outer(at, 2 * at + 1) / (2 * n))
  dct2[0] /= np.sqrt(2)
  scale = np.where(at == 0, _FIRST_SCALE, 1.0)
  return (dct2.T @ (scale[:, None] * dct4)).astype(np.float32)


def apply(matrix: Any, x: Any, patch: int, xp: Any) -> Any:
  """Filters images over the boundaries of their blocks.

  Args:
    matrix: float32 [patch / 2, patch / 2], what differences are multiplied by; row and
      column 0 are of the pixels farthest from the boundary.
    x: float32 [B, H, W, C]; H and W are multiples of `patch`.
    patch: side of a block in pixels.
    xp: array module.

  Returns:
    float32 [B, H, W, C].
  """
  b, h, w, c = x.shape
  change = (matrix - xp.eye(patch // 2, dtype=xp.float32)) / xp.float32(2)
  x = _apply_axis(change, x.reshape(b, h, w * c), patch, xp)
  x = _apply_axis(change, x.reshape(b * h, w, c), patch, xp)
  return x.reshape(b, h, w, c)


def _apply_axis(change: Any, x: Any, patch: int, xp: Any) -> Any:
  """Filters axis 1 of x [N, L, C]."""
  half = patch // 2
  n, length, c = x.shape
  if length == patch:
    return x
  inner = x[:, half : length - half].reshape(n, length // patch - 1, 2, half, c)
  before, after = inner[:, :, 0], inner[:, :, 1]
  step = xp.matmul(change, before - after[:, :, ::-1])
  inner = xp.stack([before + step, after - step[:, :, ::-1]], 2)
  inner = inner.reshape(n, length - patch, c)
  return xp.concatenate([x[:, :half], inner, x[:, length - half :]], 1)

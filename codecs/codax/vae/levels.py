"""Rate levels: one model for all rates, by gains that depend on a level.

A coefficient of channel c is multiplied by the gain of its channel and level before it
is rounded, and divided afterwards (Cui et al. 2021, "Asymmetric gained deep image
compression", section 3). Gains are learnt at L levels, whose weights lambda of the
error rise geometrically, and interpolated geometrically between them, so a file may use
any of `format.scales.STEPS` positions from one level to the next.

The loss of a level is ``bits a pixel + lambda * MSE`` (on 0 to 255). At its minimum a
fine uniform quantizer of three samples a pixel has the step ``sqrt(26 / lambda)``: from
d(bits)/d(log step) = -3 / ln 2 and d(MSE)/d(log step) = step**2 / 6.
"""

from typing import Any

import numpy as np

MIN_LMBDA, MAX_LMBDA = 0.0018, 0.09


def lmbdas(levels: int) -> np.ndarray:
  """Returns the weight of the error at each level, float64 [L], rising."""
  return np.geomspace(MIN_LMBDA, MAX_LMBDA, levels)


def to_lmbda(weight: float) -> float:
  """Converts a weight of the MSE on 0 to 255 to one of the rate, or back.

  The cost ``bits a pixel + weight * MSE on 0 to 255`` is, but for a factor, ``MSE on
  0 to 1 + lmbda * bits a pixel``, as `codax.codec.Options.lmbda` has it.
  """
  return 1 / (255.0**2 * weight)


def initial_steps(levels: int) -> np.ndarray:
  """Returns the quantization step of each level at first, in pixel values, [L]."""
  return np.sqrt(18 / np.log(2) / lmbdas(levels))


def mixing(position: Any, levels: int, xp: Any) -> Any:
  """Returns the weights of the levels at positions between them.

  Args:
    position: float32 [B], 0 to L - 1.
    levels: number of levels L, at least 2.
    xp: array module.

  Returns:
    float32 [B, L]: linear interpolation, at most two are not 0 and their sum is 1.
  """
  grid = xp.arange(levels, dtype=xp.float32)
  return xp.maximum(1 - xp.abs(position[:, None] - grid[None]), xp.float32(0))

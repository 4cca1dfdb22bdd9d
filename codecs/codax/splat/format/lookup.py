"""Tables of the integer renderer: weights, inverse scales and a circle.

They are made by integers alone, and so the same on every machine.
"""

import functools
import math

import numpy as np

from codax.entropy import laplace, tables

OCTAVES = 8  # Gaussians end where a weight is 2**-OCTAVES
LOG_STEPS = 64  # a step of a logarithm is a multiple of the 64th part of an octave
ANGLE_BITS = 12  # an angle is a multiple of pi / 2**12
WHITE = 20  # fractional bits of whitening matrices, in square roots of octaves a pixel
MIN_LOG, MAX_LOG = -2 * LOG_STEPS, 14 * LOG_STEPS  # of a scale in pixels
WEIGHT = 15  # fractional bits of weights


def _round_fraction(x: int, bits: int) -> int:
  """Rounds a number of tables.GUARD fractional bits to fewer."""
  return x + (1 << (tables.GUARD - bits - 1)) >> tables.GUARD - bits


@functools.cache
def weight_table() -> np.ndarray:
  """Returns 2**15 * (2**(-i / 1024) - 2**-OCTAVES), float64 [OCTAVES * 1024 + 1]."""
  powers = tables.powers(tables.root_of_half(1024), OCTAVES * 1024)
  tail = 1 << tables.GUARD - OCTAVES
  out = [_round_fraction(power - tail, WEIGHT) for power in powers]
  return np.array([*out, 0], np.float64)


@functools.cache
def inverse_scales() -> np.ndarray:
  """Returns inverse scales in whitening units, WHITE fractional bits, int64.

  Entry i: sqrt(log2(e) / 2) * 2**(-(i + MIN_LOG) / LOG_STEPS). The first factor turns
  |d|**2 / (2 s**2) nats into octaves.
  """
  first = math.isqrt(laplace.LOG2_E >> 1 << tables.GUARD) << -MIN_LOG // LOG_STEPS
  root, count = tables.root_of_half(LOG_STEPS), MAX_LOG - MIN_LOG + 1
  return np.array(
    [_round_fraction(power, WHITE) for power in tables.powers(root, count, first)],
    np.int64,
  )


@functools.cache
def circle() -> np.ndarray:
  """Returns cos and sin of pi i / 2**12, int64 [2**12, 2] with 30 fractional bits."""
  # By halving the angle of (0, 1), then by turning: integers only.
  c, s, one = 0, 1 << tables.GUARD, 1 << tables.GUARD
  for _ in range(ANGLE_BITS - 1):
    c, s = math.isqrt((one + c) * one // 2), math.isqrt((one - c) * one // 2)
  x, y, out = one, 0, []
  for _ in range(1 << ANGLE_BITS):
    out.append([_round_fraction(v, 30) for v in (x, y)])
    x, y = x * c - y * s >> tables.GUARD, x * s + y * c >> tables.GUARD
  return np.array(out, np.int64)

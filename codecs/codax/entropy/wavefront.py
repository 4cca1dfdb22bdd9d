"""Wavefronts: sets of positions of a map that can be decoded at the same time.

A causal model lets a position look at positions decoded before it. With raster order
that means one position at a time; but positions of equal ``t = x + slope * y`` do not
look at each other, so a whole such *wave* is decoded in one batch (the wavefront
decoding of Cool-Chic and C3; HEVC's wavefront parallel processing is the same idea).
`slope` follows from how far to the right the model looks in the rows above.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from codax.errors import CodaxError


def check_causal(offsets: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
  """Returns the offsets as a tuple of int pairs after checking that each is causal.

  Args:
    offsets: position (dy, dx) of each neighbour: a row above (dy < 0), or the same row
      to the left (dy == 0, dx < 0).

  Raises:
    CodaxError: an offset is not causal, or comes twice.
  """
  pairs = tuple((int(dy), int(dx)) for dy, dx in offsets)
  for dy, dx in pairs:
    if not (dy < 0 or (dy == 0 and dx < 0)):
      raise CodaxError(
        f'context offset (dy, dx) = ({dy}, {dx}) is not causal; valid: dy < 0, or '
        'dy = 0 and dx < 0'
      )
  if len(set(pairs)) != len(pairs):
    raise CodaxError(f'context offsets {pairs} name a neighbour twice')
  return pairs


def slope(offsets: Iterable[tuple[int, int]]) -> int:
  """Returns the least slope >= 0 for which all `offsets` point into earlier waves."""
  # dx + slope * dy < 0 for dy < 0  <=>  slope > dx / -dy.
  return max([0] + [dx // -dy + 1 for dy, dx in check_causal(offsets) if dy < 0])


def schedule(
  height: int, width: int, slope: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the positions of a map, wave by wave.

  Args:
    height: number of rows, >= 1.
    width: number of columns, >= 1.
    slope: slope of the waves, >= 0: positions of equal ``x + slope * y``.

  Yields:
    The waves in decoding order; a wave is (rows, columns), two int64 arrays of equal
    length >= 1. Every position is in exactly one wave. One at a time, so that a decoder
    that stops early has not paid for the rest.
  """
  for t, first, count in waves(height, width, slope):
    rows = np.arange(first, first + count)
    yield rows, t - slope * rows


def waves(height: int, width: int, slope: int) -> Iterator[tuple[int, int, int]]:
  """Yields the waves of `schedule` as (t, first row, number of rows).

  They are the positions ``(y, t - slope * y)`` of that number of rows y from the first.
  """
  for t in range(width + slope * (height - 1)):
    first, last = 0, height - 1
    if slope:
      first = max(0, -((width - 1 - t) // slope))  # ceil((t - width + 1) / slope)
      last = min(last, t // slope)
    if first <= last:  # a slope above the width leaves gaps between rows
      yield t, first, last - first + 1

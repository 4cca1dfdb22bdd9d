"""Positions in bits: the number of points in each half, again and again.

A set of n points on a grid of cells has no order, which need not be coded: about
log2(n / e) bits a point are saved. Coding for every half of the image the number of its
points, then for every half of that, down to single cells, codes the set alone. The
count in a half has a beta-binomial distribution, a little wider than if points fell
independently. Everything is integers.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.entropy import range_coder, tables

MAX_POINTS = 65535
_CONCENTRATION = 16
_TABLED = 255  # counts above are coded as equally likely: there are few of them
_START = 1 << 60  # of the recurrence, at the mode


class Level(NamedTuple):
  """One halving of all parts.

  Attributes:
    axis: 0 or 1, the halved one.
    bit: parts of this level have 2**(bit + 1) cells along the axis.
    share: int64, for each part along the axis the 16ths of its cells in the image that
      are in its first half, 1 to 15; 0 or 16 if all of them are in one half.
  """

  axis: int
  bit: int
  share: np.ndarray


def make_levels(height: int, width: int) -> list[Level]:
  """Returns the halvings of a grid of cells, from the whole to single ones."""
  # Shares factor: rows and columns are independent, each inside the image or not.
  sizes = [1 << (n - 1).bit_length() for n in (height, width)]
  inside = [
    (np.arange(size) < n).astype(np.int64)
    for size, n in zip(sizes, (height, width), strict=True)
  ]
  out, bits = [], [0, 0]
  while max(len(x) for x in inside) > 1:
    axis = int(len(inside[1]) >= len(inside[0]))
    first, both = inside[axis][::2], inside[axis][::2] + inside[axis][1::2]
    share = (first * _CONCENTRATION + both // 2) // np.maximum(both, 1)
    mixed = (first > 0) & (first < both)
    share = np.where(mixed, np.clip(share, 1, _CONCENTRATION - 1), share)
    out.append(Level(axis, bits[axis], share))
    inside[axis], bits[axis] = both, bits[axis] + 1
  return out[::-1]


def make_table(n: int, share: int) -> np.ndarray:
  """Returns frequencies of 0 .. n points in a first half of `share` 16ths, [n + 1]."""
  return tables.uniform(n + 1) if n > _TABLED else _beta_binomial(n, share)


@functools.cache  # 4 MB if all are asked for
def _beta_binomial(n: int, share: int) -> np.ndarray:
  a, b = share, _CONCENTRATION - share
  weights = [0] * (n + 1)
  mode = n * a // _CONCENTRATION
  weights[mode] = _START
  for k in range(mode, n):
    weights[k + 1] = weights[k] * (n - k) * (k + a) // ((k + 1) * (n - k - 1 + b))
  for k in range(mode, 0, -1):
    weights[k - 1] = weights[k] * k * (n - k + b) // ((n - k + 1) * (k - 1 + a))
  left = (1 << tables.PRECISION) - (n + 1)
  total = sum(weights)
  freqs = [1 + left * w // total for w in weights]
  freqs[mode] += (1 << tables.PRECISION) - sum(freqs)
  return np.array(freqs, np.int64)


def _bucket_parts(counts: np.ndarray, share: np.ndarray):
  """Yields parts that share a table: (n, share, indices), by n, then by share."""
  key = counts * (_CONCENTRATION + 1) + share
  by = np.argsort(key, kind='stable')
  cuts = np.flatnonzero(np.diff(key[by])) + 1
  for part in np.split(by, cuts):
    n, part_share = divmod(int(key[part[0]]), _CONCENTRATION + 1)
    yield n, part_share, part


def put(encoder: range_coder.Encoder, cells: np.ndarray, size: tuple) -> float:
  """Codes the cells of points, given the number of points; returns the ideal bits.

  Args:
    encoder: range coder.
    cells: int64 [n, 2], (column, row), in the order of `order`; n >= 1.
    size: (rows, columns) of the grid.
  """
  place, bits = cells[:, ::-1], 0.0
  left = [1 << (n - 1).bit_length() for n in size]  # cells of a part along each axis
  for level in make_levels(*size):
    parts = place // left
    starts = np.flatnonzero(np.append(True, (parts[1:] != parts[:-1]).any(1)))
    left[level.axis] = 1 << level.bit
    second = place[:, level.axis] >> level.bit & 1
    counts = np.diff(np.append(starts, len(place)))
    first = counts - np.add.reduceat(second, starts)
    share = level.share[parts[starts, level.axis]]
    for n, part_share, part in _bucket_parts(counts, share):
      if 0 < part_share < _CONCENTRATION:
        freqs = make_table(n, part_share)
        encoder.put(first[part], freqs)
        bits += tables.bits(freqs, first[part])
  return bits


def get(decoder: range_coder.Decoder, total: int, size: tuple) -> np.ndarray:
  """Inverts `put` for `total` points: int64 [total, 2]."""
  parts, counts = np.zeros((1, 2), np.int64), np.array([total])  # of (row, column)
  for level in make_levels(*size):
    share = level.share[parts[:, level.axis]]
    first = np.where(share > 0, counts, 0)
    for n, part_share, part in _bucket_parts(counts, share):
      if 0 < part_share < _CONCENTRATION:
        first[part] = decoder.decode(make_table(n, part_share), len(part))
    halves = np.repeat(parts, 2, axis=0)
    halves[:, level.axis] *= 2
    halves[1::2, level.axis] += 1
    both = np.stack([first, counts - first], 1).ravel()
    parts, counts = halves[both > 0], both[both > 0]
  return np.repeat(parts, counts, axis=0)[:, ::-1]


def order(cells: np.ndarray, size: tuple) -> np.ndarray:
  """Returns the order in which the halvings meet cells: neighbors in it are near.

  Args:
    cells: int64 [n, 2], (column, row).
    size: (rows, columns) of the grid.

  Returns:
    int64 [n]; points of a cell keep their order.
  """
  key = np.zeros(len(cells), np.int64)
  for level in make_levels(*size):
    key = key << 1 | cells[:, 1 - level.axis] >> level.bit & 1
  return np.argsort(key, kind='stable')

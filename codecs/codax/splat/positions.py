"""Where points are, in bits: how many of them are in each half, again and again.

A set of n points on a grid of cells has no order, and what need not be told need not be
paid for: about log2(n / e) bits a point. Coding for every half of the picture how many
of its points it holds, then for every half of that, down to single cells, pays for the
set alone. The count in a half has a beta-binomial distribution, a little wider than if
points fell independently. Everything is integers.
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
    axis: 0 or 1, which is halved.
    share: int64 [rows, columns] of the parts: of 16ths of the cells in the picture, how
      many are in the first half, 1 to 15; 0 or 16 if all of them are in one half.
  """

  axis: int
  share: np.ndarray


def _merge(x: np.ndarray, axis: int) -> np.ndarray:
  return x[:, ::2] + x[:, 1::2] if axis else x[::2] + x[1::2]


def levels(height: int, width: int) -> list[Level]:
  """The halvings of a grid of cells, from the whole to single ones."""
  # Only whether a row or column is in the picture counts: shares factor.
  sizes = [1 << (n - 1).bit_length() for n in (height, width)]
  inside = [
    (np.arange(size) < n).astype(np.int64)
    for size, n in zip(sizes, (height, width), strict=True)
  ]
  out = []
  while max(len(x) for x in inside) > 1:
    axis = int(len(inside[1]) >= len(inside[0]))
    first, both = inside[axis][::2], inside[axis][::2] + inside[axis][1::2]
    share = (first * _CONCENTRATION + both // 2) // np.maximum(both, 1)
    mixed = (first > 0) & (first < both)
    share = np.where(mixed, np.clip(share, 1, _CONCENTRATION - 1), share)
    other = len(inside[1 - axis])
    shape = (1, -1) if axis else (-1, 1)
    tiled = np.broadcast_to(
      share.reshape(shape), (other, len(share)) if axis else (len(share), other)
    )
    out.append(Level(axis, tiled))
    inside[axis] = both
  return out[::-1]


@functools.lru_cache(maxsize=4096)
def table(n: int, share: int) -> np.ndarray:
  """Frequencies of 0 .. n points in a first half of `share` 16ths; int64 [n + 1]."""
  if n > _TABLED:
    each, rest = divmod(1 << tables.PRECISION, n + 1)
    return each + (np.arange(n + 1) < rest).astype(np.int64)
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


def _groups(counts: np.ndarray, share: np.ndarray):
  """Indices of parts that share a table: (n, share, flat indices), in a fixed order."""
  key = counts.ravel() * (_CONCENTRATION + 1) + share.ravel()
  chosen = np.flatnonzero(counts.ravel())
  order = chosen[np.argsort(key[chosen], kind='stable')]
  cuts = np.flatnonzero(np.diff(key[order])) + 1
  for part in np.split(order, cuts):
    if len(part):
      n, s = divmod(int(key[part[0]]), _CONCENTRATION + 1)
      yield n, s, part


def _halves(parts: np.ndarray, first: np.ndarray, axis: int) -> np.ndarray:
  return np.stack([first, parts - first], axis + 1).reshape(
    parts.shape[0] * (1 if axis else 2), -1
  )


def put(encoder: range_coder.Encoder, counts: np.ndarray) -> float:
  """Codes how many points are in each cell, given the sum; returns the ideal bits.

  Args:
    counts: int [H, W].
  """
  halvings = levels(*counts.shape)
  padded = [1 << (n - 1).bit_length() for n in counts.shape]
  grid = np.zeros(padded, np.int64)
  grid[: counts.shape[0], : counts.shape[1]] = counts
  pyramid = [grid]
  for level in reversed(halvings):
    pyramid.append(_merge(pyramid[-1], level.axis))
  bits = 0.0
  for level, parts, halves in zip(
    halvings, pyramid[:0:-1], pyramid[-2::-1], strict=True
  ):
    first = (halves[:, ::2] if level.axis else halves[::2]).ravel()
    for n, share, part in _groups(parts, level.share):
      if 0 < share < _CONCENTRATION:
        freqs = table(n, share)
        encoder.put(first[part], freqs)
        bits += tables.bits(freqs, first[part])
  return bits


def get(
  decoder: range_coder.Decoder, total: int, height: int, width: int
) -> np.ndarray:
  """Inverse of `put`: int64 [height, width], summing to `total`."""
  parts = np.array([[total]], np.int64)
  for level in levels(height, width):
    first = np.zeros(parts.size, np.int64)
    for n, share, part in _groups(parts, level.share):
      if 0 < share < _CONCENTRATION:
        first[part] = decoder.decode(table(n, share), len(part))
      else:
        first[part] = n if share else 0
    parts = _halves(parts, first.reshape(parts.shape), level.axis)
  return parts[:height, :width]


def order(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
  """Sorts cells as the halvings meet them: neighbours in it are near each other."""
  key = np.zeros(len(rows), np.int64)
  left = [(n - 1).bit_length() for n in (height, width)]
  for level in levels(height, width):
    left[level.axis] -= 1
    bit = (columns if level.axis else rows) >> left[level.axis] & 1
    key = key << 1 | bit
  return np.argsort(key, kind='stable')

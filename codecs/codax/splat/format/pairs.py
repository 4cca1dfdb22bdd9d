"""Pairs of a tile and a Gaussian that touches it, band by band."""

import itertools

import numpy as np

_BAND = 1 << 18  # pairs that are listed at a time, but for those of one row of tiles


def split_bands(
  first: np.ndarray, sides: np.ndarray, rows: int
) -> list[tuple[int, int]]:
  """Splits rows of tiles into bands with few enough pairs for the memory.

  Args:
    first, sides: the first tile, (column, row), that each Gaussian touches, and the
      numbers of columns and rows; int64 [N, 2].
    rows: number of rows of tiles.

  Returns:
    (first row, row after the last) of each band.
  """
  change = np.zeros(rows + 1, np.int64)
  np.add.at(change, first[:, 1], sides[:, 0])
  np.add.at(change, first[:, 1] + sides[:, 1], -sides[:, 0])
  band = np.cumsum(np.cumsum(change[:-1])) // _BAND
  edges = [0, *(np.flatnonzero(np.diff(band)) + 1).tolist(), rows]
  return list(itertools.pairwise(edges))


def list_pairs(first, sides, columns: int, top: int, bottom: int):
  """Lists the pairs of a tile and a Gaussian that touches it.

  Args:
    first, sides: the first tile, (column, row), that each Gaussian touches, and the
      numbers of columns and rows; int64 [N, 2].
    columns: number of columns of tiles.
    top, bottom: rows of tiles, the first and that after the last.

  Returns:
    (tile, Gaussian), int64 each, by tile and then by Gaussian.
  """
  begin = np.maximum(first[:, 1], top)
  tall = np.maximum(np.minimum(first[:, 1] + sides[:, 1], bottom) - begin, 0)
  count = sides[:, 0] * tall
  owner = np.repeat(np.arange(len(count)), count)
  place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
  across = np.maximum(sides[owner, 0], 1)
  tile = (begin[owner] + place // across) * columns + first[owner, 0] + place % across
  by = np.argsort(tile, kind='stable')
  return tile[by], owner[by]

"""Tiled application of networks to large arrays, with few compiled programs.

A network whose output depends on a bounded neighbourhood can run on overlapping tiles:
with a halo of its receptive field the tiles agree with one piece, and memory is bounded
by the tile. All windows of an axis have one length, so an array is one program.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
  """Part of an axis that one tile reads and writes.

  Attributes:
    start: first position to read.
    stop: end of the positions to read.
    first: first position to write.
    last: end of the positions to write.
  """

  start: int
  stop: int
  first: int
  last: int


def windows(size: int, tile: int, halo: int) -> Iterator[Window]:
  """Yields windows over an axis that write every position once.

  Windows stay inside the axis, at whose ends the networks pad by zeros, and are all of
  one length: one program instead of nine for an image.

  Args:
    size: length of the axis.
    tile: number of positions that a window writes.
    halo: number of positions that it reads beyond them on both sides, where there are.
  """
  length = tile + 2 * halo
  if size <= length:
    yield Window(0, size, 0, size)
    return
  for first in range(0, size, tile):
    start = min(max(first - halo, 0), size - length)
    yield Window(start, start + length, first, min(first + tile, size))


def apply_tiled(
  run: Callable[[np.ndarray], Any],
  x: np.ndarray,
  scale_in: int,
  scale_out: int,
  tile: int,
  halo: int,
) -> np.ndarray:
  """Applies `run` to overlapping tiles and returns their union.

  Args:
    run: function of [1, h, w, C] to [1, h', w', C'].
    x: array [H, W, C].
    scale_in: samples of x per step of the common grid.
    scale_out: samples of the result per step of the common grid.
    tile: size of a tile in steps.
    halo: overlap in steps; with one of the receptive field the tiles agree.

  Returns:
    Array [H / scale_in * scale_out, W / scale_in * scale_out, C'].
  """
  height, width = x.shape[0] // scale_in, x.shape[1] // scale_in
  out = None
  for rows in windows(height, tile, halo):
    for cols in windows(width, tile, halo):
      window = x[_scale(rows.start, rows.stop, scale_in)]
      window = window[:, _scale(cols.start, cols.stop, scale_in)]
      y = np.asarray(run(window[None]))[0]
      if out is None:
        shape = (height * scale_out, width * scale_out, y.shape[-1])
        out = np.empty(shape, y.dtype)
      y = y[_scale(rows.first - rows.start, rows.last - rows.start, scale_out)]
      y = y[:, _scale(cols.first - cols.start, cols.last - cols.start, scale_out)]
      at = _scale(rows.first, rows.last, scale_out)
      out[at, _scale(cols.first, cols.last, scale_out)] = y
  return out


def _scale(start: int, stop: int, scale: int) -> slice:
  return slice(start * scale, stop * scale)

"""Tile lists: the Gaussians that touch each tile, as arrays of fixed shapes.

The image is cut into tiles of 16 x 16 pixels. The Gaussians that touch a tile are
listed in chunks of at most `CHUNK`; a tile has as many chunks as it needs, and all the
chunks stand in one array, tile after tile. So the only limits are on the whole image:
the numbers of pairs of a tile and a Gaussian, and of chunks. Pairs beyond them are left
out and counted, and the caller asks for more.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from codax.splat.format import integer, lookup

TILE = integer.TILE
CHUNK = 16
# Gaussians end where e = d' P d / 2 is more, octaves below their middle.
CUT = lookup.OCTAVES * math.log(2)


class Capacity(NamedTuple):
  """Fixed sizes of the lists.

  Attributes:
    pairs: largest number of pairs of a tile and a Gaussian.
    chunks: largest number of chunks.
  """

  pairs: int
  chunks: int


class Lists(NamedTuple):
  """Gaussians of each tile.

  Attributes:
    members: int32 [chunks, CHUNK], indices of Gaussians; N where there is none.
    tiles: int32 [chunks], ascending: the chunk's tile; the number of tiles for unused
      chunks.
    pairs, chunks: int32 (), needed numbers of them.
    lost: int32 (), pairs that found no place.
  """

  members: jax.Array
  tiles: jax.Array
  pairs: jax.Array
  chunks: jax.Array
  lost: jax.Array


def count_tiles(height: int, width: int) -> tuple[int, int]:
  """Returns rows and columns of tiles of an image."""
  return -(-height // TILE), -(-width // TILE)


def make_capacity(pairs: int, tiles: int) -> Capacity:
  """Returns the capacity for a number of pairs in an image of so many tiles."""
  wanted = -(-pairs // 1024) * 1024
  return Capacity(wanted, wanted // CHUNK + tiles)


def find_boxes(xy, deviations, margin: float, rows: int, columns: int):
  """Returns the rectangle of tiles that each Gaussian may touch, and its area.

  Args:
    xy: [N, 2], centers in pixels; the center of the first pixel is (0.5, 0.5).
    deviations: standard deviations in x and y, each [N].
    margin: margin in pixels on every side.
    rows, columns: numbers of tiles.

  Returns:
    int32 [N] each: first column, first row, number of columns, number of tiles.
  """
  starts, sizes = [], []
  for axis, count in ((0, columns), (1, rows)):
    reach = jnp.sqrt(2 * CUT) * deviations[axis] + margin
    first = jnp.floor((xy[:, axis] - reach) / TILE)
    last = jnp.floor((xy[:, axis] + reach) / TILE) + 1
    first, last = (jnp.clip(x, 0, count).astype(jnp.int32) for x in (first, last))
    starts.append(first)
    sizes.append(jnp.maximum(last - first, 0))
  return *starts, sizes[0], sizes[0] * sizes[1]


def bin_gaussians(
  xy: jax.Array,
  deviations: tuple[jax.Array, jax.Array],
  size: tuple[int, int],
  capacity: Capacity,
  margin: float = 0.0,
) -> Lists:
  """Lists the Gaussians that touch every tile, in the order of their indices.

  Args:
    xy, deviations, margin: see `find_boxes`. With a margin the lists stay nearly valid
      while the Gaussians move and grow a little. Parts beyond it are missing in the
      image until the next binning: `binning.missing_pair_share` measures them.
    size: (height, width) in pixels.
    capacity: capacity of the lists.
  """
  rows, columns = count_tiles(*size)
  count = rows * columns
  left, top, across, num_tiles = find_boxes(xy, deviations, margin, rows, columns)
  ends = jnp.cumsum(num_tiles)
  # pair i is of the first Gaussian whose end is above i
  index = jnp.arange(capacity.pairs, dtype=jnp.int32)
  owner = jnp.searchsorted(ends, index, side='right').astype(jnp.int32)
  used = owner < len(xy)
  safe = jnp.minimum(owner, len(xy) - 1)
  place = index - (ends[safe] - num_tiles[safe])
  wide = jnp.maximum(across[safe], 1)
  tile = (top[safe] + place // wide) * columns + left[safe] + place % wide
  tile = jnp.where(used, tile, count)
  tile, owner = jax.lax.sort((tile, owner), num_keys=1, is_stable=True)

  starts = jnp.searchsorted(tile, jnp.arange(count + 1)).astype(jnp.int32)
  held = jnp.diff(starts)
  chunks = -(-held // CHUNK)
  last = jnp.cumsum(chunks)
  rank = index - starts[tile]
  slot = (jnp.append(0, last)[tile]) * CHUNK + rank
  slot = jnp.where(tile < count, slot, capacity.chunks * CHUNK)
  members = jnp.full((capacity.chunks * CHUNK,), len(xy), jnp.int32)
  members = members.at[slot].set(owner, mode='drop')
  whose = jnp.searchsorted(last, jnp.arange(capacity.chunks), side='right')
  placed = jnp.sum((slot < capacity.chunks * CHUNK).astype(jnp.int32))
  return Lists(
    members.reshape(capacity.chunks, CHUNK),
    whose.astype(jnp.int32),
    ends[-1],
    last[-1],
    ends[-1] - placed,
  )

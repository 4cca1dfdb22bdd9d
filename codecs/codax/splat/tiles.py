"""Which Gaussians touch which tiles, as arrays of fixed shapes.

The picture is cut into tiles of 16 x 16 pixels. The Gaussians that touch a tile are
listed in chunks of at most `CHUNK`; a tile has as many chunks as it needs, and all the
chunks stand in one array, tile after tile. So the only limits are on the whole picture:
how many pairs of a tile and a Gaussian there are, and how many chunks. What goes beyond
them is left out and counted, and the caller asks for more.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from codax.splat.format import integer

TILE = integer.TILE
CHUNK = 16
# Gaussians end where e = d' P d / 2 is more, octaves below their middle.
CUT = integer.OCTAVES * math.log(2)


class Capacity(NamedTuple):
  """Fixed sizes of the lists.

  Attributes:
    pairs: of a tile and a Gaussian, at most.
    chunks: at most.
  """

  pairs: int
  chunks: int


class Lists(NamedTuple):
  """What touches what.

  Attributes:
    members: int32 [chunks, CHUNK], indices of Gaussians; N where there is none.
    tiles: int32 [chunks], ascending: whose chunk it is; the number of tiles for chunks
      that are not used.
    pairs, chunks: int32 (), how many are needed.
    lost: int32 (), pairs that found no place.
  """

  members: jax.Array
  tiles: jax.Array
  pairs: jax.Array
  chunks: jax.Array
  lost: jax.Array


def grid(height: int, width: int) -> tuple[int, int]:
  """Rows and columns of tiles of a picture."""
  return -(-height // TILE), -(-width // TILE)


def capacity(pairs: int, tiles: int) -> Capacity:
  """Sizes for so many pairs in a picture of so many tiles."""
  wanted = -(-pairs // 1024) * 1024
  return Capacity(wanted, wanted // CHUNK + tiles)


def boxes(xy, deviations, margin: float, rows: int, columns: int):
  """The rectangle of tiles that each Gaussian may touch, and how many these are.

  Args:
    xy: [N, 2], centres in pixels; the centre of the first pixel is (0.5, 0.5).
    deviations: standard deviations in x and y, each [N].
    margin: pixels that are added on every side.

  Returns:
    int32 [N] each: the first column, the first row, how many columns, and how many
    tiles in all.
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


def bins(
  xy: jax.Array,
  deviations: tuple[jax.Array, jax.Array],
  size: tuple[int, int],
  room: Capacity,
  margin: float = 0.0,
) -> Lists:
  """Lists the Gaussians that touch every tile, in the order of their indices.

  Args:
    xy, deviations, margin: see `boxes`. With a margin the lists are as good as valid
      while the Gaussians move and grow a little. What leaves it is not seen there until
      they are made anew: `listing.unlisted` measures how much that is.
    size: (height, width) in pixels.
    room: of the lists.
  """
  rows, columns = grid(*size)
  count = rows * columns
  left, top, across, touched = boxes(xy, deviations, margin, rows, columns)
  ends = jnp.cumsum(touched)
  # pair i is of the first Gaussian whose end is above i
  index = jnp.arange(room.pairs, dtype=jnp.int32)
  owner = jnp.searchsorted(ends, index, side='right').astype(jnp.int32)
  used = owner < len(xy)
  safe = jnp.minimum(owner, len(xy) - 1)
  place = index - (ends[safe] - touched[safe])
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
  slot = jnp.where(tile < count, slot, room.chunks * CHUNK)
  members = jnp.full((room.chunks * CHUNK,), len(xy), jnp.int32)
  members = members.at[slot].set(owner, mode='drop')
  whose = jnp.searchsorted(last, jnp.arange(room.chunks), side='right')
  placed = jnp.sum((slot < room.chunks * CHUNK).astype(jnp.int32))
  return Lists(
    members.reshape(room.chunks, CHUNK),
    whose.astype(jnp.int32),
    ends[-1],
    last[-1],
    ends[-1] - placed,
  )

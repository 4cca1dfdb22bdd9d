"""Tile lists: the Gaussians that touch each tile, as arrays of fixed shapes.

The image is cut into tiles of 16 x 16 pixels. The Gaussians that touch a tile are
listed in chunks of at most `CHUNK`; a tile has as many chunks as it needs, and all the
chunks stand in one array, tile after tile. So the only limits are on the whole image:
the numbers of pairs of a tile and a Gaussian, and of chunks. Pairs beyond them are left
out and counted, and the caller asks for more.

Programs are compiled for numbers of tiles and pairs out of a few. Numbers of rows and
columns are arrays, so that images of different sizes share programs.
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
_MIN_TILES = 64  # in programs
_TILES_STEPS, _PAIRS_STEPS = 2, 2  # numbers of tiles and pairs in an octave
# Capacity for pairs, in pairs a tile, that is enough for most images: with as many
# Gaussians as an image's detail asks for it is between 14 and 21.
_USUAL_PAIRS = 24


class Capacity(NamedTuple):
  """Fixed sizes of the lists.

  Attributes:
    pairs: largest number of pairs of a tile and a Gaussian.
    chunks: largest number of chunks.
    tiles: number of tiles, `pad_tiles` of the image's or more.
  """

  pairs: int
  chunks: int
  tiles: int


class Lists(NamedTuple):
  """Gaussians of each tile.

  Attributes:
    members: int32 [chunks, CHUNK], indices of Gaussians; N where there is none.
    tiles: int32 [chunks], ascending: the chunk's tile; T for unused chunks.
    counts: int32 [T], number of each tile's Gaussians; 0 beyond the image's tiles.
    boxes: int32 [4, N], each Gaussian's rectangle of tiles: first column, first row,
      number of columns, number of rows.
    pairs, chunks: int32 (), needed numbers of them.
    lost: int32 (), pairs that found no place.
  """

  members: jax.Array
  tiles: jax.Array
  counts: jax.Array
  boxes: jax.Array
  pairs: jax.Array
  chunks: jax.Array
  lost: jax.Array


def round_to_ladder(n: int, least: int, steps: int) -> int:
  """Rounds up to one of few numbers.

  These are `least`, its doubles, and between them `steps` - 1 at equal distances.
  """
  n = max(n, least)
  unit = (least << ((n - 1) // least).bit_length()) // (2 * steps)
  return -(-n // unit) * unit


def count_tiles(height, width):
  """Returns rows and columns of tiles of an image; integers, or arrays of them."""
  return -(-height // TILE), -(-width // TILE)


def pad_tiles(height: int, width: int) -> int:
  """Returns the number of tiles that programs have for an image."""
  count = math.prod(count_tiles(height, width))
  return round_to_ladder(count, _MIN_TILES, _TILES_STEPS)


def make_capacity(pairs: int, tiles: int) -> Capacity:
  """Returns the capacity for a number of pairs, and a number of `pad_tiles`."""
  wanted = round_to_ladder(pairs, _USUAL_PAIRS * tiles, _PAIRS_STEPS)
  return Capacity(wanted, wanted // CHUNK + tiles, tiles)


def mark_inside(size: jax.Array, tiles: int) -> jax.Array:
  """Returns 1 for the pixels of tiles that are in the image, else 0.

  Args:
    size: int32 [2], height and width.
    tiles: number of tiles.

  Returns:
    float32 [tiles, TILE**2].
  """
  columns = count_tiles(*size)[1]
  tile = jnp.arange(tiles, dtype=jnp.int32)
  along = jnp.arange(TILE, dtype=jnp.int32)[None]
  row = (tile // columns)[:, None] * TILE + along < size[0]
  column = (tile % columns)[:, None] * TILE + along < size[1]
  both = row[:, :, None] & column[:, None, :]
  return both.reshape(tiles, TILE**2).astype(jnp.float32)


def find_boxes(xy, deviations, margin, rows, columns):
  """Returns the rectangle of tiles that each Gaussian may touch.

  Args:
    xy: [N, 2], centers in pixels; the center of the first pixel is (0.5, 0.5).
    deviations: standard deviations in x and y, each [N].
    margin: margin in pixels on every side.
    rows, columns: numbers of tiles.

  Returns:
    int32 [N] each: first column, first row, number of columns, number of rows.
  """
  starts, sizes = [], []
  for axis, count in ((0, columns), (1, rows)):
    reach = jnp.sqrt(2 * CUT) * deviations[axis] + margin
    first = jnp.floor((xy[:, axis] - reach) / TILE)
    last = jnp.floor((xy[:, axis] + reach) / TILE) + 1
    first, last = (jnp.clip(x, 0, count).astype(jnp.int32) for x in (first, last))
    starts.append(first)
    sizes.append(jnp.maximum(last - first, 0))
  return *starts, *sizes


def bin_gaussians(
  xy: jax.Array,
  deviations: tuple[jax.Array, jax.Array],
  size,
  capacity: Capacity,
  margin=0.0,
) -> Lists:
  """Lists the Gaussians that touch every tile, in the order of their indices.

  Args:
    xy, deviations, margin: see `find_boxes`. With a margin the lists stay nearly valid
      while the Gaussians move and grow a little. Parts beyond it are missing in the
      image until the next binning: `binning.missing_pair_share` measures them.
    size: (height, width) in pixels, integers or arrays of them.
    capacity: capacity of the lists.
  """
  rows, columns = count_tiles(*size)
  count = capacity.tiles
  boxes = find_boxes(xy, deviations, margin, rows, columns)
  left, top, across, down = boxes
  num_tiles = across * down
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
    held,
    jnp.stack(boxes),
    ends[-1],
    last[-1],
    ends[-1] - placed,
  )

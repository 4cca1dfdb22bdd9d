"""Gaussians of a file to pixels by integers alone: the same on every machine.

A file has whole numbers; with the steps that it names they are whitening matrices W in
fixed point, such that a Gaussian's weight at an offset d from its centre is
2**-(|W d|**2) - 2**-OCTAVES, or zero if that is negative. Squares and their sum are
taken in 2**-20ths of an octave, the power of two from a table. All sums of products are
exact: int64, or float64 that stays below 2**53.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from codax.entropy import laplace, tables
from codax.splat.format import contexts
from codax.splat.format.vectors import Vectors

KINDS = ('cholesky', 'rotation')
RENDERS = ('sum', 'normalised')
TILE = 16
OCTAVES = 8
LOG_STEPS = 64  # a step of a logarithm is a multiple of the 64th part of an octave
RATIO_STEPS = 64  # of a ratio, of 1 / 64
ANGLE_BITS = 12  # an angle is a multiple of pi / 2**12
COLOUR_STEPS = 4  # a step of a colour is a multiple of a quarter level
MAX_FINE = 5  # a pixel is cut into at most 2**5 positions an axis
WHITE = 20  # fractional bits of W, in square roots of octaves a pixel
MIN_LOG, MAX_LOG = -2 * LOG_STEPS, 14 * LOG_STEPS  # of a scale in pixels
MAX_RATIO = 64 * RATIO_STEPS
_UNIT = 10  # fractional bits of W d
_WEIGHT = 15  # fractional bits of weights
ONE = 1 << _WEIGHT  # a weight of 1
FLOOR = 32  # the weight of the base where pictures are weighted means
MAX_COLOUR = 1 << 22  # in 64ths of a level: 65,535 Gaussians' sums stay below 2**53
_FAR = 1 << 13  # |W d| beyond what the table has, in units of 2**-_UNIT
_BLOCK = 1024  # pairs at a time: about what a cache holds; and those of the last tile
_ROOM = 2 * _BLOCK
_LARGE = 1 << 28  # half of what is left of 31 bits, so that sums of two fit
_BAND = 1 << 18  # pairs that are listed at a time, but for those of one row of tiles


class Steps(NamedTuple):
  """Quantisation steps, as whole numbers.

  Attributes:
    log: of logarithms of scales, in 64ths of an octave; 1 to 64.
    third: of the ratio in 64ths ('cholesky'), or of the angle, in 2**-12ths of pi
      ('rotation', a power of two); 1 to 1024.
    luma, chroma: of colours, in quarters of a level; 1 to 1024.
    fine: positions are so fine that a step moves no Gaussian by more than
      2**(-fine / 2) standard deviations or so; 0 to 15, see `fine_bits`.
  """

  log: int
  third: int
  luma: int
  chroma: int
  fine: int


class Picture(NamedTuple):
  """What a file holds.

  Attributes:
    size: (H, W, C).
    kind, render: one of KINDS, of RENDERS.
    steps: for what follows.
    base: uint8 [C].
    cells: int64 [N, 2], (column, row) of the pixel that a centre is in.
    fine: int64 [N, 2], which part of the pixel, across and down; see `fine_bits`.
    shape: int64 [N, 3], in steps.
    colour: int64 [N, C], in steps; luma and two chromas if C is 3.
    vectors: of `vectors.GROUPS`, if shapes and colours are entries of codebooks; these
      are their `codes`. Only coding looks at it.
    layers: int64 [N], which layer each is in, from 0, if there are several (`layers`).
      Only coding looks at it.
  """

  size: tuple[int, int, int]
  kind: str
  render: str
  steps: Steps
  base: np.ndarray
  cells: np.ndarray
  fine: np.ndarray
  shape: np.ndarray
  colour: np.ndarray
  vectors: tuple[Vectors, ...] | None = None
  layers: np.ndarray | None = None


def _rounded(x: int, bits: int) -> int:
  """A number of tables.GUARD fractional bits, rounded to so many."""
  return x + (1 << (tables.GUARD - bits - 1)) >> tables.GUARD - bits


@functools.cache
def weight_table() -> np.ndarray:
  """2**15 * (2**(-i / 1024) - 2**-OCTAVES), rounded: float64 [OCTAVES * 1024 + 1]."""
  powers = tables.powers(tables.root_of_half(1024), OCTAVES * 1024)
  tail = 1 << tables.GUARD - OCTAVES
  out = [_rounded(power - tail, _WEIGHT) for power in powers]
  return np.array([*out, 0], np.float64)


@functools.cache
def _inverse_scales() -> np.ndarray:
  """Entry i: sqrt(log2(e) / 2) * 2**(-(i + MIN_LOG) / LOG_STEPS), WHITE bits, int64.

  The first factor turns |d|**2 / (2 s**2) nats into octaves.
  """
  first = math.isqrt(laplace.LOG2_E >> 1 << tables.GUARD) << -MIN_LOG // LOG_STEPS
  root, count = tables.root_of_half(LOG_STEPS), MAX_LOG - MIN_LOG + 1
  return np.array(
    [_rounded(power, WHITE) for power in tables.powers(root, count, first)], np.int64
  )


@functools.cache
def _circle() -> np.ndarray:
  """cos and sin of pi i / 2**12, int64 [2**12, 2] with 30 fractional bits."""
  # By halving the angle of (0, 1), then by turning: integers only.
  c, s, one = 0, 1 << tables.GUARD, 1 << tables.GUARD
  for _ in range(ANGLE_BITS - 1):
    c, s = math.isqrt((one + c) * one // 2), math.isqrt((one - c) * one // 2)
  x, y, out = one, 0, []
  for _ in range(1 << ANGLE_BITS):
    out.append([_rounded(v, 30) for v in (x, y)])
    x, y = x * c - y * s >> tables.GUARD, x * s + y * c >> tables.GUARD
  return np.array(out, np.int64)


def whiten(kind: str, steps: Steps, shape: np.ndarray, wider: int = 0) -> np.ndarray:
  """Whitening matrices of shapes [N, 3], int64 [N, 2, 2] with WHITE fractional bits.

  Logarithms beyond MIN_LOG .. MAX_LOG and ratios beyond MAX_RATIO count as these. All
  Gaussians are made wider by so many 64ths of an octave.
  """
  scale = lambda log: _inverse_scales()[np.clip(log, MIN_LOG, MAX_LOG) - MIN_LOG]
  logs = shape[:, :2] * steps.log + np.array(
    [wider, wider if kind == 'cholesky' else 0]
  )
  zero = np.zeros(len(shape), np.int64)
  if kind == 'cholesky':
    ratio = np.clip(shape[:, 2] * steps.third, -MAX_RATIO, MAX_RATIO)
    a, b = scale(logs[:, 0]), scale(logs[:, 1])
    rows = [[a, zero], [-(a * ratio) // RATIO_STEPS, b]]
  else:
    c, s = _circle()[shape[:, 2] * steps.third & (1 << ANGLE_BITS) - 1].T
    along, across = scale(logs[:, 0] + logs[:, 1]), scale(logs[:, 0] - logs[:, 1])
    rows = [[c * along >> 30, s * along >> 30], [-s * across >> 30, c * across >> 30]]
  return np.array(rows).transpose(2, 0, 1)


def fine_bits(white: np.ndarray, fine: int) -> np.ndarray:
  """Into how many parts a pixel is cut for each Gaussian, as powers of two.

  The least b with 4**b >= 2**fine / 16 times the squared length of W's column.

  Args:
    white: [N, 2, 2] of `whiten`.

  Returns:
    int64 [N, 2], across and down, 0 to MAX_FINE.
  """
  squares = (white >> WHITE - 15) ** 2  # 30 fractional bits
  sharp = squares.sum(1)
  bits = np.zeros(sharp.shape, np.int64)
  for b in range(MAX_FINE):
    bits += sharp > (1 << 34 - fine + 2 * b)
  return bits


def to_rgb(colour: np.ndarray, steps: Steps) -> np.ndarray:
  """Colours [N, C] in steps as int64 [N, C] in 64ths of a level (of R, G and B).

  Within +-MAX_COLOUR, so that no sum of them is ever rounded.
  """
  luma = colour[:, 0] * steps.luma * 16
  if colour.shape[1] == 1:
    return np.clip(luma[:, None], -MAX_COLOUR, MAX_COLOUR)
  blue, red = (colour[:, k] * steps.chroma * 16 for k in (1, 2))
  # 1.402, 0.344136, 0.714136 and 1.772 with 16 fractional bits (BT.601)
  green = -(22554 * blue + 46802 * red)
  parts = (91881 * red, green, 116130 * blue)
  rgb = np.stack([luma + (p + (1 << 15) >> 16) for p in parts], 1)
  return np.clip(rgb, -MAX_COLOUR, MAX_COLOUR)


def centres(picture: Picture, white: np.ndarray) -> np.ndarray:
  """int64 [N, 2], (x, y) in 64ths of a pixel; the first pixel is 0 to 64."""
  bits = fine_bits(white, picture.steps.fine)
  return picture.cells * 64 + ((2 * picture.fine + 1) << 5 >> bits)


def reaches(white: np.ndarray) -> np.ndarray:
  """Pixels, across and down, beyond which a weight is zero; int64 [N, 2].

  No pixel depends on it, but how many bytes a file has at least does: all decoders
  have to agree on it.
  """
  w = white
  determinant = np.abs(w[:, 0, 0] * w[:, 1, 1] - w[:, 0, 1] * w[:, 1, 0])
  squares = (w[:, :, ::-1] ** 2).sum(1)  # of the other column: an inverse's row
  # 23 / 8 is a little above the root of OCTAVES: what offsets lose to rounding
  pixels = (_root(squares) + 1) * (23 << WHITE - 3)
  return np.minimum(3 + pixels // np.maximum(determinant, 1)[:, None], 1 << 18)


def _root(x: np.ndarray) -> np.ndarray:
  """floor(sqrt(x)) of int64 below 2**62, exactly."""
  root = np.sqrt(x.astype(np.float64)).astype(np.int64)
  root -= root * root > x
  return root + ((root + 1) * (root + 1) <= x)


def _boxes(white: np.ndarray, where: np.ndarray, size: tuple[int, ...]):
  """The tiles that Gaussians touch: the first, (column, row), and how many, [N, 2]."""
  most = -(-size[1] // TILE), -(-size[0] // TILE)
  reach = reaches(white)
  first = np.clip((where // 64 - reach) // TILE, 0, most)
  last = np.clip((where // 64 + reach) // TILE + 1, 0, most)
  return first, np.maximum(last - first, 0)


def bands(first: np.ndarray, sides: np.ndarray, rows: int) -> list[tuple[int, int]]:
  """Rows of tiles, from one to before another, with few enough pairs for the memory.

  Args:
    first, sides: of `_boxes`.
    rows: of tiles.
  """
  change = np.zeros(rows + 1, np.int64)
  np.add.at(change, first[:, 1], sides[:, 0])
  np.add.at(change, first[:, 1] + sides[:, 1], -sides[:, 0])
  band = np.cumsum(np.cumsum(change[:-1])) // _BAND
  edges = [0, *(np.flatnonzero(np.diff(band)) + 1).tolist(), rows]
  return list(itertools.pairwise(edges))


def pairs(first, sides, columns: int, top: int, bottom: int):
  """Which Gaussians touch which tiles.

  Args:
    first, sides: of `_boxes`.
    columns: of tiles.
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


def pair_count(white: np.ndarray, where: np.ndarray, size: tuple[int, int]) -> int:
  """How long the lists of `pairs` are."""
  return int(_boxes(white, where, size)[1].prod(1).sum())


class _Room(NamedTuple):
  """Arrays for the weights of up to _ROOM pairs, used again and again: fresh ones of
  this size come from the system, page by page, which takes longer than the sums."""

  both: np.ndarray
  square: np.ndarray
  place: np.ndarray
  weight: np.ndarray


def _room() -> _Room:
  kinds = (np.int32, np.int32, np.intp, np.float64)
  return _Room(*(np.empty(TILE * TILE * _ROOM, kind) for kind in kinds))


def _weights(white: np.ndarray, offset: np.ndarray, room: _Room) -> np.ndarray:
  """Weights of Gaussians in a tile.

  Args:
    white: [n, 2, 2].
    offset: int64 [n, 2], the middle of the tile's first pixel less the centre, in
      64ths of a pixel.
    room: for n pairs.

  Returns:
    float64 [TILE * TILE, n], whole numbers, in `room`. (NumPy is slow at short rows.)
  """
  n = len(white)
  both, square, place, weight = (x[: TILE * TILE * n].reshape(-1, n) for x in room)
  cube = both.reshape(TILE, TILE, n)
  steps = np.arange(TILE)[:, None] * 64
  for row in range(2):
    # [TILE, n], WHITE + 6 fractional bits down to _UNIT
    along = [
      (offset[None, :, axis] + steps) * white[None, :, row, axis] >> WHITE + 6 - _UNIT
      for axis in (0, 1)
    ]
    # for so few numbers np.clip takes longer to begin; for many it is faster
    x, y = (np.minimum(np.maximum(v, -_LARGE), _LARGE).astype(np.int32) for v in along)
    np.add(y[:, None], x, out=cube)
    np.clip(both, -_FAR, _FAR, out=both)
    if row:
      both *= both
      square += both
    else:
      np.multiply(both, both, out=square)
  np.right_shift(square, 2 * _UNIT - 10, out=place)
  return weight_table().take(place, mode='clip', out=weight)


def prefix(picture: Picture, count: int) -> np.ndarray:
  """The picture that the Gaussians of the first passes alone make, uint8 [H, W, C].

  They are every s-th one, and are made wider by the square root of s, to fill the gaps.

  Args:
    count: of Gaussians, as `codax info` lists them: N / s, rounded up.
  """
  total = len(picture.cells)
  stride = contexts.first_stride(total)
  while stride > 1 and -(-total // stride) < count:
    stride //= 2
  some = slice(None, None, stride)
  part = picture._replace(
    cells=picture.cells[some], fine=picture.fine[some], shape=picture.shape[some],
    colour=picture.colour[some],
  )  # fmt: skip
  return render(part, LOG_STEPS // 2 * (stride.bit_length() - 1))


def render(picture: Picture, wider: int = 0) -> np.ndarray:
  """The pixels, uint8 [H, W, C]; Gaussians are wider by 64ths of an octave."""
  h, w, channels = picture.size
  rows, columns = -(-h // TILE), -(-w // TILE)
  white = whiten(picture.kind, picture.steps, picture.shape)
  where = centres(picture, white)
  if wider:
    white = whiten(picture.kind, picture.steps, picture.shape, wider)
  values = to_rgb(picture.colour, picture.steps)
  values = np.concatenate([values, np.ones_like(values[:, :1])], 1).astype(np.float64)
  line = np.tile(picture.base, columns * TILE)
  out = np.tile(line, (rows * TILE, 1))  # where there is no Gaussian
  out = out.reshape(rows, TILE, columns, TILE, channels)
  first, sides = _boxes(white, where, picture.size)
  room = _room()
  for top, bottom in bands(first, sides, rows):
    tile, owner = pairs(first, sides, columns, top, bottom)
    _paint(out, picture, tile, owner, values, white, where, room)
  out = out.reshape(rows * TILE, columns * TILE, channels)
  return np.ascontiguousarray(out[:h, :w])


def _paint(out, picture: Picture, tile, owner, values, white, where, room) -> None:
  """Puts the tiles of these pairs into `out` [rows, TILE, columns, TILE, C]."""
  columns, channels = out.shape[2], out.shape[4]
  for begin in range(0, len(tile), _BLOCK):
    # from the first pair of a tile to the first of another
    low, high = (_whole(tile, i) for i in (begin, begin + _BLOCK))
    t, g = tile[low:high], owner[low:high]
    if len(t):
      own, start = np.unique(t, return_index=True)
      total = np.zeros((channels + 1, TILE * TILE, len(own)))
      place = np.repeat(np.arange(len(own)), np.diff(np.append(start, len(t))))
      _add(total, place, values[g], white[g], corners(t, columns) - where[g], room)
      out[own // columns, :, own % columns] = _levels(picture, total)


def corners(tile: np.ndarray, columns: int) -> np.ndarray:
  """int64 [n, 2], (x, y) of the middles of tiles' first pixels, in 64ths."""
  return np.stack([tile % columns, tile // columns], 1) * TILE * 64 + 32


def _whole(tile: np.ndarray, index: int) -> int:
  """The first index from this one on that begins a tile's pairs."""
  if index <= 0 or index >= len(tile):
    return min(max(index, 0), len(tile))
  return int(np.searchsorted(tile, tile[index - 1], side='right'))


def _add(total, place, values, white, offset, room: _Room) -> None:
  """Adds weighted values of pairs, sorted by place, to `total` [C + 1, 256, tiles];
  no tile is without one."""
  for start in range(0, len(place), _ROOM):
    some = slice(start, start + _ROOM)
    weight = _weights(white[some], offset[some], room)
    here, mine = place[some], values[some].T
    part = total[..., here[0] : here[-1] + 1]
    if part.shape[2] == len(here):  # one a tile
      part += mine[:, None] * weight
      continue
    edges = (np.flatnonzero(np.diff(here)) + 1).tolist()
    for i, (low, high) in enumerate(itertools.pairwise([0, *edges, len(here)])):
      part[..., i] += mine[:, low:high] @ weight[:, low:high].T


def _levels(picture: Picture, total: np.ndarray) -> np.ndarray:
  """Sums [C + 1, 256, tiles] of weighted colours and of weights to pixels, uint8
  [tiles, TILE, TILE, C]; uses `total` up.

  All numbers are whole and below 2**53, so the floor of a rounded quotient is exact:
  the quotient is further below the next whole number than rounding moves it.
  """
  level, weight = total[:-1], total[-1]
  base = picture.base.astype(np.float64)[:, None, None] * 64
  if picture.render == 'normalised':
    below = weight + FLOOR
    level += FLOOR * base
    level += 32 * below
    level /= 64 * below
  else:
    level += (base + 32) * ONE
    level /= 64 * ONE
  # of what is not negative, the conversion takes the floor
  level = np.minimum(np.maximum(level, 0, out=level), 255, out=level).astype(np.uint8)
  return level.reshape(-1, TILE, TILE, level.shape[2]).transpose(3, 1, 2, 0)

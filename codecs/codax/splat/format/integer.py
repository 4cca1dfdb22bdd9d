"""Gaussians of a file to pixels by integers alone: the same on every machine.

A file has whole numbers; with the steps that it names they are whitening matrices W in
fixed point, such that a Gaussian's weight at an offset d from its center is
2**-(|W d|**2) - 2**-OCTAVES, or zero if that is negative. Squares and their sum are
taken in 2**-20ths of an octave, the power of two from a table. All sums of products are
exact: int64, or float64 that stays below 2**53.
"""

import itertools
from typing import NamedTuple

import numpy as np

from codax.splat.format import contexts, pairs
from codax.splat.format.lookup import (
  ANGLE_BITS,
  LOG_STEPS,
  MAX_LOG,
  MIN_LOG,
  WEIGHT,
  WHITE,
  circle,
  inverse_scales,
  weight_table,
)
from codax.splat.format.vectors import Vectors

COVARIANCES = ('cholesky', 'rotation')
BLENDS = ('sum', 'normalized')
TILE = 16
RATIO_STEPS = 64  # of a ratio, of 1 / 64
COLOR_STEPS = 4  # a step of a color is a multiple of a quarter level
MAX_FINE = 5  # a pixel is cut into at most 2**5 positions an axis
MAX_RATIO = 64 * RATIO_STEPS
UNIT = 10  # fractional bits of W d
ONE = 1 << WEIGHT  # a weight of 1
FLOOR = 32  # the weight of the base where images are weighted means
MAX_COLOR = 1 << 22  # in 64ths of a level: 65,535 Gaussians' sums stay below 2**53
FAR = 1 << 13  # |W d| beyond what the table has, in units of 2**-UNIT
_BLOCK = 1024  # pairs at a time: about what a cache holds; and those of the last tile
_MAX_PAIRS = 2 * _BLOCK
LARGE = 1 << 28  # half of what is left of 31 bits, so that sums of two fit


class QSteps(NamedTuple):
  """Quantization steps, as whole numbers.

  Attributes:
    log: step of logarithms of scales, in 64ths of an octave; 1 to 64.
    third: step of the ratio in 64ths ('cholesky'), or of the angle, in 2**-12ths of pi
      ('rotation', a power of two); 1 to 1024.
    luma, chroma: steps of colors, in quarters of a level; 1 to 1024.
    fine: fineness of positions: a step moves no Gaussian by more than about
      2**(-fine / 2) standard deviations; 0 to 15, see `count_fine_bits`.
  """

  log: int
  third: int
  luma: int
  chroma: int
  fine: int


class Payload(NamedTuple):
  """Content of a file.

  Attributes:
    size: (H, W, C).
    covariance: parametrization of covariances, one of COVARIANCES.
    blend: one of BLENDS.
    q_steps: quantization steps of all that follows.
    base: uint8 [C].
    cells: int64 [N, 2], (column, row) of the pixel that a center is in.
    fine: int64 [N, 2], part of the pixel, across and down; see `count_fine_bits`.
    shape: int64 [N, 3], in steps.
    color: int64 [N, C], in steps; luma and two chromas if C is 3.
    vectors: one for each of `vectors.GROUPS`, if shapes and colors are entries of
      codebooks; these are their `codes`. Only coding reads it.
    layers: int64 [N], each Gaussian's quality layer, from 0; None of a file without
      layers. Only coding reads it.
  """

  size: tuple[int, int, int]
  covariance: str
  blend: str
  q_steps: QSteps
  base: np.ndarray
  cells: np.ndarray
  fine: np.ndarray
  shape: np.ndarray
  color: np.ndarray
  vectors: tuple[Vectors, ...] | None = None
  layers: np.ndarray | None = None


def whiten(
  covariance: str, q_steps: QSteps, shape: np.ndarray, wider: int = 0
) -> np.ndarray:
  """Returns whitening matrices of shapes, int64 [N, 2, 2], WHITE fractional bits.

  Args:
    covariance: one of COVARIANCES.
    q_steps: quantization steps.
    shape: int64 [N, 3], in steps. Logarithms beyond MIN_LOG .. MAX_LOG and ratios
      beyond MAX_RATIO are clipped.
    wider: enlargement of all Gaussians in 64ths of an octave.
  """
  scale = lambda log: inverse_scales()[np.clip(log, MIN_LOG, MAX_LOG) - MIN_LOG]
  logs = shape[:, :2] * q_steps.log + np.array(
    [wider, wider if covariance == 'cholesky' else 0]
  )
  zero = np.zeros(len(shape), np.int64)
  if covariance == 'cholesky':
    ratio = np.clip(shape[:, 2] * q_steps.third, -MAX_RATIO, MAX_RATIO)
    a, b = scale(logs[:, 0]), scale(logs[:, 1])
    rows = [[a, zero], [-(a * ratio) // RATIO_STEPS, b]]
  else:
    c, s = circle()[shape[:, 2] * q_steps.third & (1 << ANGLE_BITS) - 1].T
    along, across = scale(logs[:, 0] + logs[:, 1]), scale(logs[:, 0] - logs[:, 1])
    rows = [[c * along >> 30, s * along >> 30], [-s * across >> 30, c * across >> 30]]
  return np.array(rows).transpose(2, 0, 1)


def count_fine_bits(white: np.ndarray, fine: int) -> np.ndarray:
  """Returns the number of parts of a pixel for each center, as powers of two.

  It is the least b with 4**b >= 2**fine / 16 times the squared length of W's column.

  Args:
    white: [N, 2, 2] of `whiten`.
    fine: fineness, see `QSteps`.

  Returns:
    int64 [N, 2], across and down, 0 to MAX_FINE.
  """
  squares = (white >> WHITE - 15) ** 2  # 30 fractional bits
  sharp = squares.sum(1)
  bits = np.zeros(sharp.shape, np.int64)
  for b in range(MAX_FINE):
    bits += sharp > (1 << 34 - fine + 2 * b)
  return bits


def to_rgb(color: np.ndarray, q_steps: QSteps) -> np.ndarray:
  """Converts colors [N, C] in steps to int64 [N, C] in 64ths of a level (R, G and B).

  They are within +-MAX_COLOR, so that no sum of them is ever rounded.
  """
  luma = color[:, 0] * q_steps.luma * 16
  if color.shape[1] == 1:
    return np.clip(luma[:, None], -MAX_COLOR, MAX_COLOR)
  blue, red = (color[:, k] * q_steps.chroma * 16 for k in (1, 2))
  # 1.402, 0.344136, 0.714136 and 1.772 with 16 fractional bits (BT.601)
  green = -(22554 * blue + 46802 * red)
  parts = (91881 * red, green, 116130 * blue)
  rgb = np.stack([luma + (p + (1 << 15) >> 16) for p in parts], 1)
  return np.clip(rgb, -MAX_COLOR, MAX_COLOR)


def compute_centers(payload: Payload, white: np.ndarray) -> np.ndarray:
  """Returns int64 [N, 2], (x, y) in 64ths of a pixel; the first pixel is 0 to 64."""
  bits = count_fine_bits(white, payload.q_steps.fine)
  return payload.cells * 64 + ((2 * payload.fine + 1) << 5 >> bits)


def compute_reaches(white: np.ndarray) -> np.ndarray:
  """Returns distances in pixels, across and down, beyond which a weight is zero.

  No pixel depends on them, but the least number of bytes of a file does: all decoders
  have to agree on them.

  Returns:
    int64 [N, 2].
  """
  w = white
  determinant = np.abs(w[:, 0, 0] * w[:, 1, 1] - w[:, 0, 1] * w[:, 1, 0])
  squares = (w[:, :, ::-1] ** 2).sum(1)  # of the other column: an inverse's row
  # 23 / 8 is a little above the root of OCTAVES: what offsets lose to rounding
  pixels = (_isqrt(squares) + 1) * (23 << WHITE - 3)
  return np.minimum(3 + pixels // np.maximum(determinant, 1)[:, None], 1 << 18)


def _isqrt(x: np.ndarray) -> np.ndarray:
  """Returns floor(sqrt(x)) of int64 below 2**62, exactly."""
  root = np.sqrt(x.astype(np.float64)).astype(np.int64)
  root -= root * root > x
  return root + ((root + 1) * (root + 1) <= x)


def _find_boxes(white: np.ndarray, where: np.ndarray, size: tuple[int, ...]):
  """Returns the tiles that Gaussians touch: first (column, row) and sides, [N, 2]."""
  most = -(-size[1] // TILE), -(-size[0] // TILE)
  reach = compute_reaches(white)
  first = np.clip((where // 64 - reach) // TILE, 0, most)
  last = np.clip((where // 64 + reach) // TILE + 1, 0, most)
  return first, np.maximum(last - first, 0)


def count_pairs(white: np.ndarray, where: np.ndarray, size: tuple[int, int]) -> int:
  """Returns the length of the lists of `pairs.list_pairs`."""
  return int(_find_boxes(white, where, size)[1].prod(1).sum())


class _Scratch(NamedTuple):
  """Arrays for the weights of up to _MAX_PAIRS pairs, used again and again.

  Fresh ones of this size come from the system, page by page, which takes longer than
  the sums.
  """

  both: np.ndarray
  square: np.ndarray
  place: np.ndarray
  weight: np.ndarray


def _make_scratch() -> _Scratch:
  dtypes = (np.int32, np.int32, np.intp, np.float64)
  return _Scratch(*(np.empty(TILE * TILE * _MAX_PAIRS, dtype) for dtype in dtypes))


def _compute_weights(
  white: np.ndarray, offset: np.ndarray, scratch: _Scratch
) -> np.ndarray:
  """Computes weights of Gaussians in a tile.

  Args:
    white: [n, 2, 2].
    offset: int64 [n, 2], the middle of the tile's first pixel less the center, in
      64ths of a pixel.
    scratch: arrays for n pairs or more.

  Returns:
    float64 [TILE * TILE, n], whole numbers, in `scratch`. (NumPy is slow at short
    rows.)
  """
  n = len(white)
  both, square, place, weight = (x[: TILE * TILE * n].reshape(-1, n) for x in scratch)
  cube = both.reshape(TILE, TILE, n)
  pixels = np.arange(TILE)[:, None] * 64
  for row in range(2):
    # [TILE, n], WHITE + 6 fractional bits down to UNIT
    along = [
      (offset[None, :, axis] + pixels) * white[None, :, row, axis] >> WHITE + 6 - UNIT
      for axis in (0, 1)
    ]
    # for so few numbers np.clip takes longer to begin; for many it is faster
    x, y = (np.minimum(np.maximum(v, -LARGE), LARGE).astype(np.int32) for v in along)
    np.add(y[:, None], x, out=cube)
    np.clip(both, -FAR, FAR, out=both)
    if row:
      both *= both
      square += both
    else:
      np.multiply(both, both, out=square)
  np.right_shift(square, 2 * UNIT - 10, out=place)
  return weight_table().take(place, mode='clip', out=weight)


def take(payload: Payload, chosen: slice | np.ndarray | list[int]) -> Payload:
  """Returns a payload with some of its Gaussians: a slice, a mask or places."""
  return payload._replace(
    cells=payload.cells[chosen], fine=payload.fine[chosen], shape=payload.shape[chosen],
    color=payload.color[chosen],
  )  # fmt: skip


def render_prefix(payload: Payload, count: int) -> np.ndarray:
  """Renders the Gaussians of the first passes alone, uint8 [H, W, C].

  They are every s-th one, and are made wider by the square root of s, to fill the gaps.

  Args:
    payload: content of the file.
    count: number of Gaussians, as `codax info` lists them: N / s, rounded up.
  """
  total = len(payload.cells)
  stride = contexts.find_first_stride(total)
  while stride > 1 and -(-total // stride) < count:
    stride //= 2
  chosen = slice(None, None, stride)
  return render(take(payload, chosen), LOG_STEPS // 2 * (stride.bit_length() - 1))


def render(payload: Payload, wider: int = 0, scale: int = 1) -> np.ndarray:
  """Renders pixels, uint8 [scale H, scale W, C].

  Args:
    payload: content of the file.
    wider: enlargement of all Gaussians in 64ths of an octave.
    scale: size in units of the file's, a power of two.
  """
  h, w, channels = (scale * payload.size[0], scale * payload.size[1], payload.size[2])
  wider += LOG_STEPS * (scale.bit_length() - 1)
  rows, columns = -(-h // TILE), -(-w // TILE)
  white = whiten(payload.covariance, payload.q_steps, payload.shape)
  where = compute_centers(payload, white) * scale
  if wider:
    white = whiten(payload.covariance, payload.q_steps, payload.shape, wider)
  values = to_rgb(payload.color, payload.q_steps)
  values = np.concatenate([values, np.ones_like(values[:, :1])], 1).astype(np.float64)
  line = np.tile(payload.base, columns * TILE)
  out = np.tile(line, (rows * TILE, 1))  # where there is no Gaussian
  out = out.reshape(rows, TILE, columns, TILE, channels)
  first, sides = _find_boxes(white, where, (h, w))
  scratch = _make_scratch()
  for top, bottom in pairs.split_bands(first, sides, rows):
    tile, owner = pairs.list_pairs(first, sides, columns, top, bottom)
    _paint(out, payload, tile, owner, values, white, where, scratch)
  out = out.reshape(rows * TILE, columns * TILE, channels)
  return np.ascontiguousarray(out[:h, :w])


def _paint(out, payload: Payload, tile, owner, values, white, where, scratch) -> None:
  """Paints the tiles of these pairs into `out` [rows, TILE, columns, TILE, C]."""
  columns, channels = out.shape[2], out.shape[4]
  for begin in range(0, len(tile), _BLOCK):
    # from the first pair of a tile to the first of another
    low, high = (_find_tile_start(tile, i) for i in (begin, begin + _BLOCK))
    t, g = tile[low:high], owner[low:high]
    if len(t):
      painted, start = np.unique(t, return_index=True)
      total = np.zeros((channels + 1, TILE * TILE, len(painted)))
      place = np.repeat(np.arange(len(painted)), np.diff(np.append(start, len(t))))
      _add_weighted(
        total, place, values[g], white[g], locate_tiles(t, columns) - where[g], scratch
      )
      level = to_levels(payload.blend, payload.base, total)
      level = level.reshape(-1, TILE, TILE, len(painted)).transpose(3, 1, 2, 0)
      out[painted // columns, :, painted % columns] = level


def locate_tiles(tile: np.ndarray, columns: int) -> np.ndarray:
  """Returns (x, y) of the middles of tiles' first pixels, in 64ths, int64 [n, 2]."""
  return np.stack([tile % columns, tile // columns], 1) * TILE * 64 + 32


def _find_tile_start(tile: np.ndarray, index: int) -> int:
  """Returns the first index, from this one on, that begins a tile's pairs."""
  if index <= 0 or index >= len(tile):
    return min(max(index, 0), len(tile))
  return int(np.searchsorted(tile, tile[index - 1], side='right'))


def _add_weighted(total, place, values, white, offset, scratch: _Scratch) -> None:
  """Adds weighted values of pairs, sorted by place, to `total` [C + 1, 256, tiles].

  No tile is without one.
  """
  for start in range(0, len(place), _MAX_PAIRS):
    chosen = slice(start, start + _MAX_PAIRS)
    weight = _compute_weights(white[chosen], offset[chosen], scratch)
    here, terms = place[chosen], values[chosen].T
    part = total[..., here[0] : here[-1] + 1]
    if part.shape[2] == len(here):  # one a tile
      part += terms[:, None] * weight
      continue
    edges = (np.flatnonzero(np.diff(here)) + 1).tolist()
    for i, (low, high) in enumerate(itertools.pairwise([0, *edges, len(here)])):
      part[..., i] += terms[:, low:high] @ weight[:, low:high].T


def to_levels(blend: str, base: np.ndarray, total: np.ndarray) -> np.ndarray:
  """Converts sums of weighted colors and of weights to pixels; uses `total` up.

  All numbers are whole and below 2**53. So the floor of a rounded quotient is exact: it
  is further below the next whole number than rounding moves it.

  Args:
    blend: one of BLENDS.
    base: uint8 [C].
    total: [C + 1, n, m].

  Returns:
    uint8 [C, n, m].
  """
  level, weight = total[:-1], total[-1]
  base = base.astype(np.float64)[:, None, None] * 64
  if blend == 'normalized':
    below = weight + FLOOR
    level += FLOOR * base
    level += 32 * below
    level /= 64 * below
  else:
    level += (base + 32) * ONE
    level /= 64 * ONE
  # of what is not negative, the conversion takes the floor
  return np.minimum(np.maximum(level, 0, out=level), 255, out=level).astype(np.uint8)

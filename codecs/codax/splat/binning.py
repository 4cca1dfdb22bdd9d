"""Tile lists of Gaussians during a fit, and their capacities."""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.splat import geometry, image_batch, quantization, tiles
from codax.splat.fit_config import FitConfig
from codax.splat.render import Gaussians

_HEADROOM = 1.3  # capacity for pairs in units of their number
# Gaussians touch fewer tiles each, the more of them there are.
_GROWTH_POWER = 0.7


def bin_to_tiles(gaussians: Gaussians, size, capacity, recipe: FitConfig, margin):
  """Bins Gaussians to tiles, see `tiles.bin_gaussians`."""
  deviations = geometry.compute_deviations(recipe.covariance, gaussians.shape)
  return tiles.bin_gaussians(gaussians.xy, deviations, size, capacity, margin)


@jit_by_shape(static=('covariance', 'capacity', 'devices'), kept=KEPT_PADDED)
def _bin_many(xys, shapes, sizes, margin, covariance: str, capacity, devices: int):
  def bin_one(xy, shape, size, margin):
    deviations = geometry.compute_deviations(covariance, shape)
    return tiles.bin_gaussians(xy, deviations, size, capacity, margin)

  return image_batch.map_images(bin_one, (xys, shapes, sizes), (margin,), devices)


def bin_images(
  many: Sequence[Gaussians],
  sizes: Sequence[tuple[int, int]],
  recipe: FitConfig,
  margin: float,
  capacity: tiles.Capacity | None = None,
  growth: float = 1.0,
  devices: int = 1,
) -> tuple[tuple[tiles.Lists, ...], tiles.Capacity]:
  """Bins the Gaussians of P images to tiles, with a capacity that suits all lists.

  Args:
    many: each image's Gaussians, with equally many slots.
    sizes: each image's height and width, of one number of `tiles.pad_tiles`.
    recipe: settings.
    margin: margin in pixels on every side.
    capacity: previous capacity, kept if all lists fit and fill enough of it; or None.
    growth: factor by which the number of Gaussians will rise.
    devices: see `image_batch.map_images`.

  Returns:
    The lists, and their capacity.
  """
  (num_tiles,) = {tiles.pad_tiles(*size) for size in sizes}
  make = functools.partial(
    _bin_many,
    tuple(each.xy for each in many),
    tuple(each.shape for each in many),
    tuple(np.array(size, np.int32) for size in sizes),
    np.float32(margin),
    recipe.covariance,
    devices=devices,
  )
  if capacity is None or capacity.tiles != num_tiles:
    capacity = tiles.make_capacity(0, num_tiles)
  lists = make(capacity=capacity)
  pairs = max(int(each.pairs) for each in lists)
  wanted = math.ceil(_HEADROOM * pairs * growth**_GROWTH_POWER)
  wanted = tiles.make_capacity(wanted, num_tiles)
  if pairs > capacity.pairs or wanted.pairs < 0.5 * capacity.pairs:
    capacity = wanted
    lists = make(capacity=capacity)
  return tuple(lists), capacity


def choose_capacity(
  many: Sequence[Gaussians], size, recipe: FitConfig, capacity
) -> tiles.Capacity:
  """Returns a capacity that suits the lists of images of one size.

  For arguments see `bin_images`; the margin is the recipe's.
  """
  sizes = [size] * len(many)
  return bin_images(many, sizes, recipe, recipe.bin_margin, capacity)[1]


def tile_boxes(
  many: Sequence[Gaussians],
  sizes: Sequence[tuple[int, int]],
  recipe: FitConfig,
  margin: float,
  units=None,
  capacity: tiles.Capacity | None = None,
) -> list[np.ndarray]:
  """Returns the rectangles of tiles that each image's Gaussians touch.

  Args:
    many, sizes, recipe, margin, capacity: see `bin_images`.
    units: each image's quantization, or None without.

  Returns:
    For each image int32 [4, N]: first column, first row, columns, rows.
  """
  if units is not None:
    many = [
      quantization.run_quantize(recipe.covariance, unit, gaussians)
      for gaussians, unit in zip(many, units, strict=True)
    ]
  out = []
  for each, size in zip(many, sizes, strict=True):
    (lists,), capacity = bin_images([each], [size], recipe, margin, capacity)
    out.append(np.asarray(lists.boxes))
  return out


def missing_pair_share(before: Sequence, after: Sequence) -> list[float]:
  """Measures how far Gaussians have left the tiles to which they were binned.

  Args:
    before: rectangles of binned tiles, from `tile_boxes`.
    after: rectangles of touched tiles, from `tile_boxes`, of the same Gaussians.

  Returns:
    For each image the share of the pairs of a tile and a Gaussian in `after` that
    `before` lacks.
  """
  return [_measure_missing_share(*each) for each in zip(before, after, strict=True)]


def _measure_missing_share(before, after) -> float:
  before, after = (np.asarray(jax.device_get(x), np.int64) for x in (before, after))
  low = np.maximum(before[:2], after[:2])
  high = np.minimum(before[:2] + before[2:], after[:2] + after[2:])
  both = np.maximum(high - low, 0).prod(0).sum()
  pairs = after[2:].prod(0).sum()
  return float(1 - both / pairs) if pairs else 0.0

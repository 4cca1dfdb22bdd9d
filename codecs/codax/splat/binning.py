"""Tile lists of Gaussians during a fit, and their capacities."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from codax.splat import geometry, quantization, seeding, tiles
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.render import Gaussians


def bin_to_tiles(
  gaussians: Gaussians, size, capacity, recipe: FitConfig, margin: float
):
  """Bins Gaussians to tiles, see `tiles.bin_gaussians`."""
  deviations = geometry.compute_deviations(recipe.covariance, gaussians.shape)
  return tiles.bin_gaussians(gaussians.xy, deviations, size, capacity, margin)


@functools.partial(jax.jit, static_argnames=('size', 'recipe'))
def count_pairs(gaussians, size, recipe: FitConfig) -> jax.Array:
  """Counts the pairs of a tile and a Gaussian, with the recipe's margin."""
  deviations = geometry.compute_deviations(recipe.covariance, gaussians.shape)
  rows, columns = tiles.count_tiles(*size)
  boxes = tiles.find_boxes(gaussians.xy, deviations, recipe.bin_margin, rows, columns)
  return jnp.sum(boxes[-1])


@functools.partial(jax.jit, static_argnames=('size', 'recipe'))
def _find_boxes(
  gaussians, size, recipe: FitConfig, margin, units
) -> tuple[jax.Array, ...]:
  if units is not None:
    gaussians = quantization.quantize(recipe.covariance, units, gaussians)
  deviations = geometry.compute_deviations(recipe.covariance, gaussians.shape)
  boxes = tiles.find_boxes(gaussians.xy, deviations, margin, *tiles.count_tiles(*size))
  left, top, across, all_of_it = boxes
  return left, top, across, all_of_it // jnp.maximum(across, 1)


def tile_boxes(
  many: Sequence[Gaussians], size, recipe: FitConfig, margin: float, units=None
) -> list[tuple[jax.Array, ...]]:
  """Returns the rectangles of tiles that each image's Gaussians touch.

  Args:
    many: each image's Gaussians.
    size: (height, width) in pixels.
    recipe: settings.
    margin: margin in pixels on every side.
    units: each image's quantization, or None without.

  Returns:
    For each image int32 [N] four times: first column, first row, columns, rows.
  """
  shared = to_program_config(recipe)
  return [
    _find_boxes(gaussians, size, shared, margin, unit)
    for gaussians, unit in zip(many, units or [None] * len(many), strict=True)
  ]


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


def count_most_pairs(many: Sequence[Gaussians], size, recipe: FitConfig) -> int:
  """Returns the largest `count_pairs` over the images."""
  shared = to_program_config(recipe)
  return max(int(count_pairs(gaussians, size, shared)) for gaussians in many)


def choose_capacity(many: Sequence[Gaussians], size, recipe: FitConfig, capacity):
  """Returns a capacity that suits every image's lists.

  Args:
    many: each image's Gaussians.
    size: (height, width) in pixels.
    recipe: settings.
    capacity: previous capacity, kept if all lists fit and fill enough of it; or None.
  """
  pairs = count_most_pairs(many, size, recipe)
  if capacity is None or pairs > capacity.pairs or pairs < 0.4 * capacity.pairs:
    wanted = seeding.count_slots(int(1.3 * pairs))
    return tiles.make_capacity(wanted, math.prod(tiles.count_tiles(*size)))
  return capacity

"""Lists of what touches which tile, and how long they have to be."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from codax.splat import geometry, quantization, seeding, tiles
from codax.splat.recipe import Recipe, of_program
from codax.splat.render import Gaussians


def listed(gaussians: Gaussians, size, room, recipe: Recipe, margin: float):
  """`tiles.bins` of Gaussians."""
  deviations = geometry.deviations(recipe.kind, gaussians.shape)
  return tiles.bins(gaussians.xy, deviations, size, room, margin)


@functools.partial(jax.jit, static_argnames=('size', 'recipe'))
def needed(gaussians, size, recipe: Recipe) -> jax.Array:
  """How many pairs of a tile and a Gaussian there are now."""
  deviations = geometry.deviations(recipe.kind, gaussians.shape)
  rows, columns = tiles.grid(*size)
  boxes = tiles.boxes(gaussians.xy, deviations, recipe.margin, rows, columns)
  return jnp.sum(boxes[-1])


@functools.partial(jax.jit, static_argnames=('size', 'recipe'))
def _boxes(gaussians, size, recipe: Recipe, margin, units) -> tuple[jax.Array, ...]:
  if units is not None:
    gaussians = quantization.quantised(recipe.kind, units, gaussians)
  deviations = geometry.deviations(recipe.kind, gaussians.shape)
  boxes = tiles.boxes(gaussians.xy, deviations, margin, *tiles.grid(*size))
  left, top, across, all_of_it = boxes
  return left, top, across, all_of_it // jnp.maximum(across, 1)


def touched(
  pictures: Sequence[Gaussians], size, recipe: Recipe, margin: float, units=None
) -> list[tuple[jax.Array, ...]]:
  """The rectangles of tiles that each picture's Gaussians touch.

  Args:
    units: what each is quantised with, or None if nothing is.

  Returns:
    Of each picture int32 [N] four times: first column, first row, columns, rows.
  """
  shared = of_program(recipe)
  return [
    _boxes(gaussians, size, shared, margin, unit)
    for gaussians, unit in zip(pictures, units or [None] * len(pictures), strict=True)
  ]


def unlisted(before: Sequence, after: Sequence) -> list[float]:
  """Of the pairs of a tile and a Gaussian that there are `after`, the share that was
  not there `before`; both of `touched`, of the same Gaussians."""
  return [_share_beyond(*each) for each in zip(before, after, strict=True)]


def _share_beyond(before, after) -> float:
  before, after = (np.asarray(jax.device_get(x), np.int64) for x in (before, after))
  low = np.maximum(before[:2], after[:2])
  high = np.minimum(before[:2] + before[2:], after[:2] + after[2:])
  both = np.maximum(high - low, 0).prod(0).sum()
  pairs = after[2:].prod(0).sum()
  return float(1 - both / pairs) if pairs else 0.0


def most_pairs(pictures: Sequence[Gaussians], size, recipe: Recipe) -> int:
  """`needed` of the picture that needs most."""
  shared = of_program(recipe)
  return max(int(needed(gaussians, size, shared)) for gaussians in pictures)


def room_for(pictures: Sequence[Gaussians], size, recipe: Recipe, room):
  """Room for the lists of each picture: as it was, if they fit and do not leave most of
  it empty."""
  pairs = most_pairs(pictures, size, recipe)
  if room is None or pairs > room.pairs or pairs < 0.4 * room.pairs:
    wanted = seeding.slots(int(1.3 * pairs))
    return tiles.capacity(wanted, math.prod(tiles.grid(*size)))
  return room

"""Lists of what touches which tile, and how long they have to be."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from codax.splat import geometry, seeding, tiles
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

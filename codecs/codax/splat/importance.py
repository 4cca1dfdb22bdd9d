"""What each Gaussian is worth to the picture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.splat import render, seeding
from codax.splat.binning import listed, room_for
from codax.splat.recipe import Recipe, of_program
from codax.splat.render import Gaussians
from codax.splat.target import Target


def ranked(gaussians: Gaussians, target: Target, recipe: Recipe) -> np.ndarray:
  """Indices of the Gaussians that are there: what matters most comes first."""
  there = seeding.present(gaussians)
  matter = importance(gaussians, target, recipe)[there]
  return there[np.argsort(-matter, kind='stable')]


def importance(gaussians: Gaussians, target: Target, recipe: Recipe) -> np.ndarray:
  """About how much the squared error grows if a Gaussian is left out, [N].

  Its share of a pixel, squared, times how far its colour is from the pixel's, squared;
  for 'sum' what it adds, squared.
  """
  size = target.size
  room = room_for((gaussians,), size, recipe, None)
  own = jnp.asarray(target.ycbcr)
  return np.asarray(_importance(gaussians, own, of_program(recipe), room))


@functools.partial(jax.jit, static_argnames=('recipe', 'room'))
def _importance(gaussians, own, recipe: Recipe, room) -> jax.Array:
  size = own.shape[:2]
  lists = listed(gaussians, size, room, recipe, 0.0)
  coefs, count = render.exponents(gaussians, lists, size, recipe.kind)
  one = jnp.ones((*lists.members.shape, 1), own.dtype)
  colour = jnp.concatenate([gaussians.colour, 0 * gaussians.colour[:1]])[lists.members]
  ones = render.retile(jnp.ones((*size, 1), own.dtype))
  if recipe.how == 'normalised':
    total = render.accumulate(coefs, one, lists.tiles, count) + render.FLOOR
    share = ones / total**2
  else:
    share, own = ones, 0 * own
  own = render.retile(own)
  # the squares of weights are the weights of doubled exponents
  moments = jnp.concatenate(
    [share, share * own, share * (own**2).sum(1, keepdims=True)], 1
  )
  values = jnp.zeros((*lists.members.shape, moments.shape[1]), own.dtype)
  back = jax.vjp(lambda v: render.accumulate(2 * coefs, v, lists.tiles, count), values)
  sums = back[1](moments)[0]
  each = sums[..., :1] * colour**2 - 2 * sums[..., 1:-1] * colour
  each = each.sum(-1) + sums[..., -1]
  out = jnp.zeros(len(gaussians.xy) + 1, own.dtype)
  return out.at[lists.members].add(each)[:-1]

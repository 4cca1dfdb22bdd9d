"""The colours that fit best, all else as it is: linear least squares.

Pictures of 'sum' and 'normalised' are linear in the colours. The normal equations are
solved by conjugate gradients, each step of which renders once and goes back once.
"""

import functools

import jax
import jax.numpy as jnp

from codax.splat import render, seeding
from codax.splat.binning import listed
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians

# Colours that no pixel asks for stay as they are.
STAY = 1e-2


@functools.partial(jax.jit, static_argnames=('recipe', 'room', 'iterations'))
def colours(
  gaussians: Gaussians, own: jax.Array, recipe: Recipe, room, iterations: int
) -> Gaussians:
  """Gaussians with colours of less squared error.

  Args:
    gaussians: not of 'alpha'.
    own: float32 [H, W, C], the picture as luma and chromas.
    room: of the lists.
    iterations: of conjugate gradients.
  """
  size = own.shape[:2]
  lists = listed(gaussians, size, room, recipe, 0.0)
  coefs, count = render.exponents(gaussians, lists, size, recipe.kind)
  mask = render.retile(jnp.ones((*size, 1), own.dtype))
  base = gaussians.base[None, :, None]
  if recipe.how == 'normalised':
    one = jnp.ones((*lists.members.shape, 1), own.dtype)
    total = render.accumulate(coefs, one, lists.tiles, count) + render.FLOOR
    share = mask / total
    rest = render.retile(own) - share * render.FLOOR * base
  else:
    share, rest = mask, (render.retile(own) - base) * mask

  def forward(colour):
    none = jnp.zeros((1, colour.shape[-1]), colour.dtype)
    values = jnp.concatenate([colour, none])[lists.members]
    return render.accumulate(coefs, values, lists.tiles, count) * share

  made, back = jax.vjp(forward, gaussians.colour)
  there = seeding.there(gaussians.xy)[:, None]

  def normal(change):
    return back(forward(change))[0] + STAY * change

  change = jax.scipy.sparse.linalg.cg(normal, back(rest - made)[0], maxiter=iterations)[
    0
  ]
  return gaussians._replace(colour=gaussians.colour + jnp.where(there, change, 0))

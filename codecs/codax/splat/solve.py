"""Colors of least squared error, all else unchanged: linear least squares.

Images of 'sum' and 'normalized' are linear in the colors. The normal equations are
solved by conjugate gradients, each step of which renders once and goes back once.
"""

import jax
import jax.numpy as jnp

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.splat import render, seeding, tiles
from codax.splat.fit_config import FitConfig
from codax.splat.render import Gaussians
from codax.splat.target import TiledTarget

# Colors that no pixel depends on stay as they are.
DAMPING = 1e-2


@jit_by_shape(static=('recipe', 'iterations'), kept=KEPT_PADDED)
def solve_colors(
  gaussians: Gaussians,
  target: TiledTarget,
  lists: tiles.Lists,
  recipe: FitConfig,
  iterations: int,
) -> Gaussians:
  """Returns Gaussians with colors of less squared error.

  Args:
    gaussians: Gaussians of any blend but 'alpha'.
    target: the image.
    lists: the Gaussians' tile lists.
    recipe: settings.
    iterations: number of iterations of conjugate gradients.
  """
  size, ycbcr = target
  coefs, count = render.compute_exponents(gaussians, lists, size, recipe.covariance)
  mask = tiles.mark_inside(size, count)[:, None]
  base = gaussians.base[None, :, None]
  if recipe.blend == 'normalized':
    one = jnp.ones((*lists.members.shape, 1), ycbcr.dtype)
    total = render.accumulate(coefs, one, lists.tiles, count) + render.FLOOR
    share = mask / total
    rest = ycbcr - share * render.FLOOR * base
  else:
    share, rest = mask, (ycbcr - base) * mask

  def forward(color):
    none = jnp.zeros((1, color.shape[-1]), color.dtype)
    values = jnp.concatenate([color, none])[lists.members]
    return render.accumulate(coefs, values, lists.tiles, count) * share

  made, back = jax.vjp(forward, gaussians.color)
  is_active = seeding.is_active(gaussians.xy)[:, None]

  def normal(change):
    return back(forward(change))[0] + DAMPING * change

  change = jax.scipy.sparse.linalg.cg(normal, back(rest - made)[0], maxiter=iterations)[
    0
  ]
  return gaussians._replace(color=gaussians.color + jnp.where(is_active, change, 0))

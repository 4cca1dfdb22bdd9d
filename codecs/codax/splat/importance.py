"""Importance of each Gaussian for the image."""

import jax
import jax.numpy as jnp
import numpy as np

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.splat import render, seeding, tiles
from codax.splat.binning import bin_images
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.format import quality_layers
from codax.splat.render import Gaussians
from codax.splat.target import Target, tile_target


def rank_gaussians(
  gaussians: Gaussians, target: Target, recipe: FitConfig
) -> np.ndarray:
  """Returns indices of the active Gaussians, the most important ones first."""
  active = seeding.active_indices(gaussians)
  matter = measure_importance(gaussians, target, recipe)[active]
  return active[np.argsort(-matter, kind='stable')]


def rank_layers(gaussians: Gaussians, target: Target, recipe: FitConfig) -> np.ndarray:
  """Returns each slot's quality layer, int64 [S], the most important first."""
  order = rank_gaussians(gaussians, target, recipe)
  return quality_layers.assign_layers(order, len(gaussians.xy), recipe.quality_layers)


def measure_importance(
  gaussians: Gaussians, target: Target, recipe: FitConfig
) -> np.ndarray:
  """Estimates the growth of the squared error without each Gaussian, [N].

  It is the Gaussian's share of a pixel, squared, times the distance of its color from
  the pixel's, squared; for 'sum' its contribution, squared.
  """
  (lists,), _ = bin_images([gaussians], [target.size], recipe, 0.0)
  gaussians = gaussians._replace(books=None)
  tiled = tile_target(target)
  return np.asarray(_measure(gaussians, lists, tiled, to_program_config(recipe)))


@jit_by_shape(static=('recipe',), kept=KEPT_PADDED)
def _measure(gaussians, lists, target, recipe: FitConfig) -> jax.Array:
  size, target_ycbcr = target
  coefs, count = render.compute_exponents(gaussians, lists, size, recipe.covariance)
  one = jnp.ones((*lists.members.shape, 1), target_ycbcr.dtype)
  color = jnp.concatenate([gaussians.color, 0 * gaussians.color[:1]])[lists.members]
  ones = tiles.mark_inside(size, count)[:, None]
  if recipe.blend == 'normalized':
    total = render.accumulate(coefs, one, lists.tiles, count) + render.FLOOR
    share = ones / total**2
  else:
    share, target_ycbcr = ones, 0 * target_ycbcr
  # the squares of weights are the weights of doubled exponents
  moments = jnp.concatenate(
    [share, share * target_ycbcr, share * (target_ycbcr**2).sum(1, keepdims=True)], 1
  )
  values = jnp.zeros((*lists.members.shape, moments.shape[1]), target_ycbcr.dtype)
  back = jax.vjp(lambda v: render.accumulate(2 * coefs, v, lists.tiles, count), values)
  sums = back[1](moments)[0]
  each = sums[..., :1] * color**2 - 2 * sums[..., 1:-1] * color
  each = each.sum(-1) + sums[..., -1]
  out = jnp.zeros(len(gaussians.xy) + 1, target_ycbcr.dtype)
  return out.at[lists.members].add(each)[:-1]

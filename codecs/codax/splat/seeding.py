"""Initial Gaussians: at the start, and where more are added.

They begin isotropic with the image's color at their center, as wide as they are far
apart. Gradients, and later errors, decide where (as in Image-GS, Zhang et al. 2025).
Inactive ones have centers far outside the image, so that arrays keep their lengths.
"""

import math

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from codax.splat import geometry, tiles
from codax.splat.fit_config import FitConfig
from codax.splat.render import Gaussians
from codax.splat.target import Target

INACTIVE_XY = -1e6  # both coordinates of inactive Gaussians


def is_active(xy):
  """Returns which Gaussians are active, by their centers [N, 2], JAX's or NumPy's."""
  return xy[:, 0] > INACTIVE_XY / 2


def active_indices(gaussians: Gaussians) -> np.ndarray:
  """Returns indices of the active Gaussians."""
  return np.flatnonzero(is_active(np.asarray(gaussians.xy)))


def count_slots(count: int) -> int:
  """Returns the length of the arrays of `count` Gaussians.

  It is rounded up: not every count is a new program.
  """
  return tiles.round_to_ladder(count, 64, 1)


def sample_seeds(
  image: np.ndarray, count: int, uniform_fraction: float, rng
) -> np.ndarray:
  """Samples centers [count, 2], likelier where the image's gradient is large.

  Args:
    image: float [H, W, C], 0 to 1.
    count: number of centers.
    uniform_fraction: share of the centers that are uniform.
    rng: a NumPy generator.
  """
  gray = image.mean(-1)
  slopes = [
    np.gradient(gray, axis=a) if gray.shape[a] > 1 else 0 * gray for a in (0, 1)
  ]
  return sample_centers(np.hypot(*slopes), count, uniform_fraction, rng)


def sample_centers(
  density: np.ndarray, count: int, uniform_fraction: float, rng
) -> np.ndarray:
  """Samples centers [count, 2] from a density [H, W] mixed with a uniform one."""
  p = np.asarray(density, np.float64).ravel() + 1e-12
  p = (1 - uniform_fraction) * p / p.sum() + uniform_fraction / p.size
  index = rng.choice(p.size, count, replace=count > p.size, p=p)
  corner = np.stack([index % density.shape[1], index // density.shape[1]], -1)
  return (corner + rng.uniform(0.05, 0.95, corner.shape)).astype(np.float32)


def measure_spacings(centers: np.ndarray, among: np.ndarray) -> np.ndarray:
  """Returns each center's mean distance from its nearest three of `among`, [N]."""
  near = min(4, len(among))
  distance, _ = cKDTree(among).query(centers, near)
  distance = distance.reshape(len(centers), near)
  return np.maximum(distance[:, 1:].mean(1) if near > 1 else 30.0, 0.5)


def place(gaussians, slots, centers, image, recipe: FitConfig) -> Gaussians:
  """Places new, isotropic Gaussians of the image's colors into free slots.

  Args:
    gaussians: NumPy arrays.
    slots: indices of the free slots.
    centers: [n, 2].
    image: [H, W, C], luma and chromas.
    recipe: settings.
  """
  xy = np.array(gaussians.xy)
  xy[slots] = centers
  deviation = np.clip(
    recipe.init_scale * measure_spacings(centers, xy[is_active(xy)]), 0.7, 60
  )
  shape, color = np.array(gaussians.shape), np.array(gaussians.color)
  shape[slots] = geometry.make_isotropic(
    recipe.covariance, deviation.astype(np.float32)
  )
  column, row = centers.astype(int).T
  ycbcr = image[row, column]
  if recipe.blend == 'sum':
    ycbcr = 0.5 * (ycbcr - gaussians.base)
  color[slots, : ycbcr.shape[1]] = ycbcr
  return gaussians._replace(xy=xy, shape=shape, color=color)


def init_gaussians(target: Target, count: int, recipe: FitConfig, rng) -> Gaussians:
  """Places the first Gaussians of `count`, the others inactive."""
  ycbcr, channels = target.ycbcr, target.pixels.shape[2]
  extra = int(recipe.blend == 'alpha')
  size = count_slots(count)
  nothing = Gaussians(
    np.full((size, 2), INACTIVE_XY, np.float32),
    np.zeros((size, 3), np.float32),
    np.zeros((size, channels + extra), np.float32),
    ycbcr.mean((0, 1)),
  )
  first = count_initial(count, recipe)
  centers = sample_seeds(target.pixels, first, recipe.uniform_fraction, rng)
  return place(nothing, np.arange(first), centers, ycbcr, recipe)


def count_initial(count: int, recipe: FitConfig) -> int:
  """Returns the number of Gaussians of `count` that exist from the start."""
  return max(1, math.ceil(recipe.initial_fraction * count))


def blur(x: np.ndarray) -> np.ndarray:
  """Returns means over 5 x 5 pixels."""
  return uniform_filter(x, 5, mode='nearest')

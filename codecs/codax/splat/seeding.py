"""Where Gaussians begin: at the start, and where more are added.

They begin as round ones with the picture's colour at their centre, as wide as they are
far apart. Gradients, and later errors, say where (as in Image-GS, Zhang et al. 2025).
Those that are not there yet have centres far outside the picture, so that the arrays
keep their shape.
"""

import math

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from codax.splat import geometry
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians
from codax.splat.target import Target

AWAY = -1e6  # where Gaussians are that are not there yet


def there(xy):
  """Which Gaussians are there, by their centres [N, 2]: bool [N], JAX's or NumPy's."""
  return xy[:, 0] > AWAY / 2


def present(gaussians: Gaussians) -> np.ndarray:
  """Indices of the Gaussians that are there."""
  return np.flatnonzero(there(np.asarray(gaussians.xy)))


def slots(count: int) -> int:
  """How long the arrays of so many Gaussians are: not every count is a new program."""
  unit = max(64, 1 << max(count.bit_length() - 3, 0))
  return -(-count // unit) * unit


def seeds(image: np.ndarray, count: int, evenly: float, rng) -> np.ndarray:
  """Centres [count, 2], likelier where the picture's gradient is large.

  Args:
    image: float [H, W, C], 0 to 1.
    evenly: the share that is placed anywhere.
    rng: a NumPy generator.
  """
  grey = image.mean(-1)
  slopes = [
    np.gradient(grey, axis=a) if grey.shape[a] > 1 else 0 * grey for a in (0, 1)
  ]
  return sampled(np.hypot(*slopes), count, evenly, rng)


def sampled(density: np.ndarray, count: int, evenly: float, rng) -> np.ndarray:
  """Centres [count, 2] from a density [H, W], not all 0, mixed with an even one."""
  p = np.asarray(density, np.float64).ravel() + 1e-12
  p = (1 - evenly) * p / p.sum() + evenly / p.size
  index = rng.choice(p.size, count, replace=count > p.size, p=p)
  corner = np.stack([index % density.shape[1], index // density.shape[1]], -1)
  return (corner + rng.uniform(0.05, 0.95, corner.shape)).astype(np.float32)


def spacings(centres: np.ndarray, among: np.ndarray) -> np.ndarray:
  """Mean distance of each of `centres` from its nearest three of `among`, [N]."""
  near = min(4, len(among))
  distance, _ = cKDTree(among).query(centres, near)
  distance = distance.reshape(len(centres), near)
  return np.maximum(distance[:, 1:].mean(1) if near > 1 else 30.0, 0.5)


def place(gaussians, chosen, centres, image, recipe: Recipe) -> Gaussians:
  """Puts new Gaussians into free slots: round ones of the picture's colours there.

  Args:
    gaussians: of NumPy arrays.
    chosen: which.
    centres: [n, 2].
    image: [H, W, C], luma and chromas.
  """
  xy = np.array(gaussians.xy)
  xy[chosen] = centres
  deviation = np.clip(recipe.spread * spacings(centres, xy[there(xy)]), 0.7, 60)
  shape, colour = np.array(gaussians.shape), np.array(gaussians.colour)
  shape[chosen] = geometry.round_ones(recipe.kind, deviation.astype(np.float32))
  column, row = centres.astype(int).T
  own = image[row, column]
  if recipe.how == 'sum':
    own = 0.5 * (own - gaussians.base)
  colour[chosen, : own.shape[1]] = own
  return gaussians._replace(xy=xy, shape=shape, colour=colour)


def start(target: Target, count: int, recipe: Recipe, rng) -> Gaussians:
  """Places the first Gaussians: `recipe.first` of `count`, the others away."""
  own, channels = target.ycbcr, target.pixels.shape[2]
  extra = int(recipe.how == 'alpha')
  size = slots(count)
  nothing = Gaussians(
    np.full((size, 2), AWAY, np.float32),
    np.zeros((size, 3), np.float32),
    np.zeros((size, channels + extra), np.float32),
    own.mean((0, 1)),
  )
  first = count_first(count, recipe)
  centres = seeds(target.pixels, first, recipe.evenly, rng)
  return place(nothing, np.arange(first), centres, own, recipe)


def count_first(count: int, recipe: Recipe) -> int:
  """Returns the number of Gaussians of `count` that `start` places."""
  return max(1, math.ceil(recipe.first * count))


def blurred(x: np.ndarray) -> np.ndarray:
  """Mean over 5 x 5 pixels."""
  return uniform_filter(x, 5, mode='nearest')

"""Dead-leaves images: opaque discs of every size, the nearest on top.

The model has the scale invariance and the occlusion edges of natural images (Lee,
Mumford and Huang, *Occlusion models for natural images*, IJCV 2001): radii follow a
density proportional to r^-3 between two limits, positions are uniform, and colours
are independent of both. Drawn front to back, so that every pixel is written once.
"""

import numpy as np

_MAX_LEAVES = 20_480  # A bound on time; what is still bare then gets one colour.
_BLOCK = 256  # Leaves whose random numbers are drawn in one call.
_MIN_RADIUS = 1.5  # In pixels; thinner leaves would be noise.


def render(seed: int | tuple[int, ...], size: int) -> np.ndarray:
  """Renders one image, a pure function of `seed`.

  Args:
    seed: entropy for `numpy.random.default_rng`.
    size: side of the square image in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  rng = np.random.default_rng(seed)
  image = np.zeros((size, size, 3), np.uint8)
  bare = np.ones((size, size), bool)
  largest = max(size / 2, 2 * _MIN_RADIUS)
  # Colours of one image share a mean and a spread, as the objects of a scene do.
  mean = rng.uniform(60, 200, 3)
  spread = rng.uniform(20, 70)
  grid = np.arange(size)
  for _ in range(_MAX_LEAVES // _BLOCK):
    # Inverse of the distribution function of r^-3 on [_MIN_RADIUS, largest].
    u = rng.uniform(size=_BLOCK)
    radii = (_MIN_RADIUS**-2 * (1 - u) + largest**-2 * u) ** -0.5
    centres = rng.uniform(-1, 1, (_BLOCK, 2)) * (size / 2 + radii[:, None]) + size / 2
    colours = mean + spread * rng.standard_normal((_BLOCK, 3))
    colours = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
    low = np.maximum(0, np.ceil(centres - radii[:, None])).astype(int)
    high = np.minimum(size - 1, np.floor(centres + radii[:, None])).astype(int) + 1
    for i in np.flatnonzero((low < high).all(axis=1)):
      (y0, x0), (y1, x1) = low[i].tolist(), high[i].tolist()
      free = bare[y0:y1, x0:x1]
      if not free.any():
        continue
      dy, dx = grid[y0:y1, None] - centres[i, 0], grid[x0:x1] - centres[i, 1]
      new = (dy * dy + dx * dx <= radii[i] * radii[i]) & free
      image[y0:y1, x0:x1][new] = colours[i]
      free &= ~new  # A view: this writes into `bare`.
    if not bare.any():
      return image
  image[bare] = np.rint(mean)
  return image

"""Small shapes, random networks and pictures for tests of the overfitted codec."""

import numpy as np

from codax.overfit import model, q_step_search
from codax.overfit.format import arch as archs
from codax.overfit.format import stream

SMALL = archs.Arch(3, 6, (5,), (6,), 1)


def networks(arch, shape, seed=0, spread=0.2):
  """Float networks away from such as training starts with, NumPy arrays."""
  rng = np.random.default_rng(seed)
  found = {module: {} for module in archs.MODULES}
  for t in archs.tensors(arch, len(archs.grid_shapes(arch, *shape[:2])), shape[2]):
    # Drawn without JAX, which would compile for every shape.
    bound = model.init_bound(arch, t)
    start = rng.uniform(-bound, bound, t.shape)
    if t.name[0] == 'p':
      start += model.gelu_at_knots()
    noise = spread * rng.normal(size=t.shape)
    found[t.module][t.name] = np.float32(start + noise)
  return found


def grids(arch, shape, seed=0, scale=3.0):
  """Integer latents, Laplace distributed."""
  rng = np.random.default_rng(seed)
  return tuple(
    np.rint(rng.laplace(scale=scale, size=s)).clip(-255, 255).astype(np.int32)
    for s in archs.grid_shapes(arch, *shape[:2])
  )


def make_payload(arch=SMALL, shape=(13, 18, 3), seed=0, fracs=(7, 9), scale=3.0):
  """A `stream.Payload` of random contents."""
  nets = networks(arch, shape, seed)
  latents = grids(arch, shape, seed, scale)
  listed = archs.tensors(arch, len(latents), shape[2])
  modules = {
    name: q_step_search.quantize(
      nets[name], [t for t in listed if t.module == name], *fracs
    )
    for name in archs.MODULES
  }
  return stream.Payload(arch, shape, modules, latents)


def photo(height, width, channels=3, seed=0):
  """uint8 [H, W, C]: smooth shapes with an edge."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width] / max(height, width, 2)
  a, b, c = rng.uniform(2, 7, (3, channels))
  waves = np.sin(a * y[..., None] + b * x[..., None] + c)
  edge = (x + y > 0.9)[..., None] * 0.5
  return np.uint8(np.clip(127 + 80 * waves + 60 * edge, 0, 255))

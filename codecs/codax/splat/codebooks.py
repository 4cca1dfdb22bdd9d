"""Codebooks of Gaussians' shapes and colors during a fit (`FitConfig.coding`).

They begin with k-means++ and Lloyd's iteration when quantization begins. Gradients pass
through to the Gaussians, and the codebooks follow these by one more iteration before
every step: so entries move in the mean direction of their Gaussians. Without that, or
with iterations now and then, files lose 0.3 dB and more.
Entries are whole numbers of steps from the start: training and file have the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.quantize.ops import residual
from codax.splat import quantization, seeding
from codax.splat.fit_config import FitConfig
from codax.splat.format import integer
from codax.splat.format.vectors import GROUPS
from codax.splat.render import Gaussians

# (number of Gaussians, entries): codebook sizes up to that number (as in LGI).
_BY_COUNT = ((499, 128), (2000, 256))
_MOST = 512


def choose_size(recipe: FitConfig, count: int) -> int:
  """Returns the size of each codebook: at most one entry for each Gaussian."""
  usual = next((size for most, size in _BY_COUNT if count <= most), _MOST)
  return min(recipe.codebook_size or usual, count)


def _weigh(gaussians: Gaussians) -> jax.Array:
  """Returns each slot's weight, float32 [N]: 1 for active Gaussians, else 0."""
  return seeding.is_active(gaussians.xy).astype(jnp.float32)


def _units(gaussians: Gaussians, recipe: FitConfig) -> quantization.Units:
  return quantization.make_units(
    recipe.covariance, recipe.q_steps, gaussians.color.shape[1]
  )


@jit_by_shape(static=('stages', 'size'), kept=KEPT_PADDED)
def _fit_books(
  key, gaussians: Gaussians, units: quantization.Units, stages: int, size: int
):
  """Fits the first codebooks of both groups."""
  points = quantization.to_steps(units, gaussians)
  weight, keys = _weigh(gaussians), jax.random.split(key)
  return tuple(
    residual.begin(k, x, stages, size, weight)
    for k, x in zip(keys, points, strict=True)
  )


def init_codebooks(state, recipe: FitConfig, rng: np.random.Generator):
  """Returns the state of a fit with codebooks, where the recipe asks for missing ones.

  Args:
    state: a NamedTuple with `gaussians`.
    recipe: settings.
    rng: generator of the seed of k-means++.
  """
  gaussians = state.gaussians
  if recipe.coding == 'scalar' or gaussians.books is not None:
    return state
  key = jax.random.key(int(rng.integers(2**31)))
  size = choose_size(recipe, len(seeding.active_indices(gaussians)))
  units = _units(gaussians, recipe)
  books = _fit_books(key, gaussians, units, recipe.rvq_stages, size)
  return state._replace(gaussians=gaussians._replace(books=books))


def update_codebooks(gaussians: Gaussians, books, units: quantization.Units | None):
  """Returns codebooks after one more iteration; None if there are none."""
  if books is None:
    return None
  points = quantization.to_steps(units, gaussians)
  weight = _weigh(gaussians)
  return tuple(
    residual.refreshed(x, each, 1, weight)
    for x, each in zip(points, books, strict=True)
  )


def measure_distortions(gaussians: Gaussians, recipe: FitConfig) -> dict[str, float]:
  """Returns each group's mean squared distance from its entries, in squared steps."""
  found = _measure_distortions(gaussians, _units(gaussians, recipe))
  return {name: float(x) for name, x in zip(GROUPS, found, strict=True)}


@jit_by_shape(kept=KEPT_PADDED)
def _measure_distortions(gaussians: Gaussians, units: quantization.Units):
  points, weight = quantization.to_steps(units, gaussians), _weigh(gaussians)
  return [
    residual.distortion(x, books, weight)
    for x, books in zip(points, gaussians.books, strict=True)
  ]


def describe_initial(gaussians: Gaussians, recipe: FitConfig) -> dict:
  """Returns 'initial_distortion', before training with codebooks; empty without."""
  if gaussians.books is None:
    return {}
  return {'initial_distortion': measure_distortions(gaussians, recipe)}


def describe_codebooks(
  gaussians: Gaussians, payload: integer.Payload, bits, recipe: FitConfig
) -> dict:
  """Returns facts about the codebooks in a file; empty without them.

  Args:
    gaussians: source of the file.
    payload: content of the file.
    bits: its `stream.Bits`.
    recipe: settings.

  Returns:
    'vectors': for each group 'entries' of every stage and 'distortion', the mean
    squared distance from the fitted values in steps; 'attribute_ratio', the bits of
    shapes and colors as float32 over those of indices and codebooks.
  """
  if payload.vectors is None:
    return {}
  found = measure_distortions(gaussians, recipe)
  width = payload.shape.shape[1] + payload.color.shape[1]
  spent = sum(bits.shape) + sum(bits.color) + bits.books
  groups = {
    name: {'entries': [len(b) for b in group.books], 'distortion': found[name]}
    for name, group in zip(GROUPS, payload.vectors, strict=True)
  }
  ratio = 32 * width * len(payload.cells) / spent
  return {'vectors': groups, 'attribute_ratio': ratio}

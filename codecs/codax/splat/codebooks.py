"""Codebooks of Gaussians' shapes and colours while they are fitted (`Recipe.coding`).

They begin with k-means++ and Lloyd's iteration when quantisation begins. Gradients pass
through to the Gaussians, and the codebooks follow these by one more iteration before
every step: so entries go where their Gaussians are pulled on average. Without that, or
with iterations now and then, files lose 0.3 dB and more.
Entries are whole numbers of steps from the start: what is trained is what is written.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.quantize.ops import residual
from codax.splat import quantization, seeding
from codax.splat.format import integer
from codax.splat.format.vectors import GROUPS
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians

# Up to so many Gaussians, so many entries (as in LGI).
_BY_COUNT = ((499, 128), (2000, 256))
_MOST = 512


def entries(recipe: Recipe, count: int) -> int:
  """The size of the codebooks of so many Gaussians: at most one entry for each."""
  usual = next((size for most, size in _BY_COUNT if count <= most), _MOST)
  return min(recipe.entries or usual, count)


def _weight(gaussians: Gaussians) -> jax.Array:
  """What each Gaussian counts: nothing if it is not there yet, float32 [N]."""
  return seeding.there(gaussians.xy).astype(jnp.float32)


def _units(gaussians: Gaussians, recipe: Recipe) -> quantization.Units:
  return quantization.units(recipe.kind, recipe.steps, gaussians.colour.shape[1])


@functools.partial(jax.jit, static_argnames=('stages', 'size'))
def _made(key, gaussians: Gaussians, units: quantization.Units, stages: int, size: int):
  points = quantization.in_steps(units, gaussians)
  weight, keys = _weight(gaussians), jax.random.split(key)
  return tuple(
    residual.begin(k, x, stages, size, weight)
    for k, x in zip(keys, points, strict=True)
  )


def begun(state, recipe: Recipe, rng: np.random.Generator):
  """The state of a fit with codebooks, if it is to have some and has none.

  Args:
    state: a NamedTuple with `gaussians`.
    rng: gives the seed of k-means++.
  """
  gaussians = state.gaussians
  if recipe.coding == 'scalar' or gaussians.books is not None:
    return state
  key = jax.random.key(int(rng.integers(2**31)))
  size = entries(recipe, len(seeding.present(gaussians)))
  units = _units(gaussians, recipe)
  books = _made(key, gaussians, units, recipe.stages, size)
  return state._replace(gaussians=gaussians._replace(books=books))


def refreshed(gaussians: Gaussians, books, units: quantization.Units | None):
  """Codebooks after one more iteration; None if there are none."""
  if books is None:
    return None
  points = quantization.in_steps(units, gaussians)
  weight = _weight(gaussians)
  return tuple(
    residual.refreshed(x, each, 1, weight)
    for x, each in zip(points, books, strict=True)
  )


def distortions(gaussians: Gaussians, recipe: Recipe) -> dict[str, float]:
  """Mean squared distances from codebooks' entries, in steps, of each group."""
  points = quantization.in_steps(_units(gaussians, recipe), gaussians)
  weight = _weight(gaussians)
  return {
    name: float(residual.distortion(x, books, weight))
    for name, x, books in zip(GROUPS, points, gaussians.books, strict=True)
  }


def begun_facts(gaussians: Gaussians, recipe: Recipe) -> dict:
  """'distortion_begun': before anything is trained for the codebooks, if there are."""
  if gaussians.books is None:
    return {}
  return {'distortion_begun': distortions(gaussians, recipe)}


def facts(gaussians: Gaussians, picture: integer.Picture, bits, recipe: Recipe) -> dict:
  """What there is to say of codebooks in a file; nothing if there are none.

  Args:
    gaussians: that the file was made of.
    picture: what it holds.
    bits: `stream.Bits`.

  Returns:
    'vectors': of each group 'entries' of every stage and 'distortion', the mean squared
    distance from what was fitted, in steps; 'attribute_ratio', the bits of shapes and
    colours as float32 over those of indices and codebooks.
  """
  if picture.vectors is None:
    return {}
  found = distortions(gaussians, recipe)
  width = picture.shape.shape[1] + picture.colour.shape[1]
  spent = sum(bits.shape) + sum(bits.colour) + bits.books
  groups = {
    name: {'entries': [len(b) for b in group.books], 'distortion': found[name]}
    for name, group in zip(GROUPS, picture.vectors, strict=True)
  }
  ratio = 32 * width * len(picture.cells) / spent
  return {'vectors': groups, 'attribute_ratio': ratio}

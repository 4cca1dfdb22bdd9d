"""Residual vector quantisation: each codebook is for what those before it leave over.

Juang & Gray 1982 (multiple stages); here with k-means++ and Lloyd for every stage. A
quantiser is a tuple of codebooks, float [K, d] each, and nothing else: pure functions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from codax.quantize.ops import kmeans

Books = tuple[jax.Array, ...]


class Found(NamedTuple):
  """Of N vectors.

  Attributes:
    values: float [N, d], sums of one entry of each codebook.
    index: int32 [N, stages], which.
  """

  values: jax.Array
  index: jax.Array


def nearest(x: jax.Array, books: Books) -> Found:
  """Stage by stage the entry that is nearest to what is left of x [N, d]."""
  values, index = jnp.zeros_like(x), []
  for book in books:
    index.append(kmeans.nearest(x - values, book))
    values = values + book[index[-1]]
  return Found(values, jnp.stack(index, -1))


def _by_stage(x: jax.Array, stages: int, made) -> Books:
  """Codebooks that `made(stage, what is left of x)` returns, rounded."""
  out = []
  for stage in range(stages):
    book = jnp.round(made(stage, x))
    out.append(book)
    x = x - book[kmeans.nearest(x, book)]
  return tuple(out)


def begin(
  rng: jax.Array, x: jax.Array, stages: int, entries: int, weight: jax.Array
) -> Books:
  """Codebooks of whole numbers by k-means++ and Lloyd until it converges.

  Args:
    rng: key.
    x: float [N, d].
    stages: how many.
    entries: of each.
    weight: float [N], not all 0; what has none has no influence.
  """
  keys = jax.random.split(rng, stages)

  def made(stage, left):
    start = kmeans.plus_plus(keys[stage], left, entries, weight)
    return kmeans.lloyd_until(left, start, weight=weight)[0]

  return _by_stage(x, stages, made)


def refreshed(x: jax.Array, books: Books, iterations: int, weight: jax.Array) -> Books:
  """The codebooks after so many iterations of Lloyd's, rounded to whole numbers."""
  move = lambda stage, left: kmeans.lloyd(left, books[stage], iterations, weight)
  return _by_stage(x, len(books), move)


def distortion(x: jax.Array, books: Books, weight: jax.Array) -> jax.Array:
  """Mean squared distance of x [N, d] from `nearest`, ()."""
  square = jnp.sum((x - nearest(x, books).values) ** 2, -1)
  return kmeans.weighted_mean(square, weight)

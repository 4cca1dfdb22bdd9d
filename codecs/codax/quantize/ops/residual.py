"""Residual vector quantization of fixed vectors: codebooks of stages by Lloyd.

Juang & Gray 1982 (multiple stages); here with k-means++ and Lloyd for every stage,
whose vectors are the residuals of the stages before. Codebooks are a tuple of float
[K, d].
`compose.residual` is the quantizer for training.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from codax.quantize.ops import kmeans

Books = tuple[jax.Array, ...]


class Found(NamedTuple):
  """Quantized vectors.

  Attributes:
    values: float [N, d], sums of one entry of each codebook.
    index: int32 [N, stages], indices of the entries.
  """

  values: jax.Array
  index: jax.Array


def nearest(x: jax.Array, books: Books) -> Found:
  """Selects stage by stage the entry nearest to the residual of x [N, d]."""
  values, index = jnp.zeros_like(x), []
  for book in books:
    index.append(kmeans.nearest(x - values, book))
    values = values + book[index[-1]]
  return Found(values, jnp.stack(index, -1))


def _by_stage(x: jax.Array, stages: int, fit) -> Books:
  """Returns the rounded codebooks of `fit(stage, residual of x)`."""
  out = []
  for stage in range(stages):
    book = jnp.round(fit(stage, x))
    out.append(book)
    x = x - book[kmeans.nearest(x, book)]
  return tuple(out)


def begin(
  rng: jax.Array, x: jax.Array, stages: int, entries: int, weight: jax.Array
) -> Books:
  """Fits codebooks of whole numbers by k-means++ and Lloyd until it converges.

  Args:
    rng: key.
    x: float [N, d].
    stages: number of codebooks.
    entries: number of entries of each codebook.
    weight: float [N], weights of the vectors, not all 0.
  """
  keys = jax.random.split(rng, stages)

  def fit(stage, left):
    start = kmeans.plus_plus(keys[stage], left, entries, weight)
    return kmeans.lloyd_until(left, start, weight=weight)[0]

  return _by_stage(x, stages, fit)


def refreshed(x: jax.Array, books: Books, iterations: int, weight: jax.Array) -> Books:
  """Refits codebooks by `iterations` of Lloyd's, rounded to whole numbers."""
  move = lambda stage, left: kmeans.lloyd(left, books[stage], iterations, weight)
  return _by_stage(x, len(books), move)


def distortion(x: jax.Array, books: Books, weight: jax.Array) -> jax.Array:
  """Returns the mean squared distance of x [N, d] from `nearest`, ()."""
  square = jnp.sum((x - nearest(x, books).values) ** 2, -1)
  return kmeans.weighted_mean(square, weight)

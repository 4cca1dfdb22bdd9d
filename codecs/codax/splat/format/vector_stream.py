"""Codebooks and indices in the stream of a payload of Gaussians. All integers.

See docs/format/splat.md. The entries of a codebook have no order, so that two of their
coordinates are coded as points in a plane (`positions`). Indices are coded in passes,
each with the frequencies that they have in the passes before.
"""

from collections.abc import Callable

import numpy as np

from codax.entropy import laplace, range_coder, tables
from codax.splat.format import positions
from codax.splat.format.symbols import (
  MAX_CODE,
  REACH,
  get_codes,
  get_uniform,
  put_codes,
  put_uniform,
)
from codax.splat.format.vectors import (
  MAX_ENTRIES,
  MAX_STAGES,
  Vectors,
  find_box,
  to_plane,
)


def _make_tables(level: int, count: int) -> np.ndarray:
  """Returns frequencies of differences from the middle, one row an entry."""
  shared = laplace.make(2 * REACH)
  row = laplace.freqs(shared, np.array([level]), np.array([0]), -REACH, REACH)
  return np.repeat(row, count, axis=0)


def _fit_level(values: np.ndarray) -> tuple[int, int]:
  """Fits the middle and the level with which numbers take the fewest bits."""
  middle = int(np.sort(values)[len(values) // 2])
  symbols = np.clip(values - middle, -REACH, REACH) + REACH
  levels = np.arange(laplace.LEVELS)
  every = laplace.freqs(laplace.make(2 * REACH), levels, 0 * levels, -REACH, REACH)
  return middle, int(np.argmin(-np.log2(every[:, symbols]).sum(1)))


def put_books(encoder: range_coder.Encoder, books: tuple[np.ndarray, ...]) -> float:
  """Codes one group's codebooks, sorted by `vectors.sort_entries`; returns the bits."""
  bits = put_uniform(encoder, len(books), 1, MAX_STAGES)
  for book in books:
    bits += put_uniform(encoder, len(book), 1, MAX_ENTRIES)
    low, sides = find_box(book)
    axes = min(book.shape[1], 2)
    for axis in range(axes):
      bits += put_uniform(encoder, int(low[axis]), -MAX_CODE, MAX_CODE)
      bits += put_uniform(encoder, int(sides[axis]), 1, MAX_CODE - int(low[axis]) + 1)
    bits += positions.put(encoder, to_plane(book) - low, (int(sides[1]), int(sides[0])))
    for values in book.T[axes:]:
      middle, level = _fit_level(values)
      bits += put_uniform(encoder, middle, -MAX_CODE, MAX_CODE)
      bits += put_uniform(encoder, level, 0, laplace.LEVELS - 1)
      whole = np.full(len(values), middle)
      bits += put_codes(encoder, values, whole, _make_tables(level, len(values)))
  return bits


def get_books(decoder: range_coder.Decoder, width: int) -> tuple[np.ndarray, ...]:
  """Inverts `put_books` for entries of `width` coordinates."""
  out = []
  for _ in range(get_uniform(decoder, 1, MAX_STAGES)):
    count = get_uniform(decoder, 1, MAX_ENTRIES)
    low, sides = np.zeros(2, np.int64), np.ones(2, np.int64)
    axes = min(width, 2)
    for axis in range(axes):
      low[axis] = get_uniform(decoder, -MAX_CODE, MAX_CODE)
      sides[axis] = get_uniform(decoder, 1, MAX_CODE - int(low[axis]) + 1)
    cells = positions.get(decoder, count, (int(sides[1]), int(sides[0])))
    columns = list((cells + low).T[:axes])
    for _ in range(width - axes):
      middle = get_uniform(decoder, -MAX_CODE, MAX_CODE)
      level = get_uniform(decoder, 0, laplace.LEVELS - 1)
      whole = np.full(count, middle)
      columns.append(get_codes(decoder, whole, _make_tables(level, count)))
    out.append(np.stack(columns, 1).astype(np.int64))
  return tuple(out)


def make_frequencies(counts: np.ndarray) -> np.ndarray:
  """Returns the table of a pass from the counts of each index so far, int64 [K]."""
  weight = counts + 1
  spare = (1 << tables.PRECISION) - len(counts)
  freqs = 1 + spare * weight // weight.sum()
  freqs[np.argmax(weight)] += (1 << tables.PRECISION) - freqs.sum()
  return freqs


def put_indices(
  encoder: range_coder.Encoder, groups: tuple[Vectors, ...], passes: list[np.ndarray]
) -> list[list[float]]:
  """Codes the indices of entries; returns the ideal bits of each group's stages."""
  counts = [[np.zeros(len(b), np.int64) for b in group.books] for group in groups]
  spent = [[0.0] * len(group.books) for group in groups]
  for part in passes:
    for g, group in enumerate(groups):
      for stage, seen in enumerate(counts[g]):
        symbols, freqs = group.index[part, stage], make_frequencies(seen)
        encoder.put(symbols, freqs)
        spent[g][stage] += tables.bits(freqs, symbols)
        seen += np.bincount(symbols, minlength=len(seen))
  return spent


def get_indices(
  decoder: range_coder.Decoder,
  books: list[tuple[np.ndarray, ...]],
  passes: list[np.ndarray],
  done: Callable[[int], None],
) -> tuple[Vectors, ...]:
  """Inverts `put_indices`.

  Args:
    decoder: range coder.
    books: each group's codebooks.
    passes: each pass's Gaussians.
    done: called after every pass with the number of its Gaussians.
  """
  total = sum(len(part) for part in passes)
  counts = [[np.zeros(len(b), np.int64) for b in group] for group in books]
  index = [np.zeros((total, len(group)), np.int64) for group in books]
  for part in passes:
    for g, stages in enumerate(counts):
      for stage, seen in enumerate(stages):
        symbols = decoder.decode(make_frequencies(seen), len(part))
        index[g][part, stage] = symbols
        seen += np.bincount(symbols, minlength=len(seen))
    done(len(part))
  return tuple(Vectors(b, i) for b, i in zip(books, index, strict=True))

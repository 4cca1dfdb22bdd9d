"""Shapes and colours as sums of entries of codebooks, in whole numbers. NumPy only.

A group of attributes (the shape, the colour) has a few codebooks, and of each of them
every Gaussian names an entry: residual vector quantisation. Entries are in the units of
the file's steps, so that all that follows is as for steps alone.
"""

from typing import NamedTuple

import numpy as np

from codax.splat.format import positions
from codax.splat.format.symbols import MAX_CODE

GROUPS = ('shape', 'colour')
MAX_STAGES, MAX_ENTRIES = 4, 1024


class Vectors(NamedTuple):
  """One group of a picture's attributes.

  Attributes:
    books: of each stage int64 [K, d], in the order of `order`; within +-MAX_CODE.
    index: int64 [N, stages], which entries.
  """

  books: tuple[np.ndarray, ...]
  index: np.ndarray

  @property
  def codes(self) -> np.ndarray:
    """int64 [N, d], in steps: sums of entries, clipped to +-MAX_CODE."""
    parts = zip(self.books, self.index.T, strict=True)
    return np.clip(sum(book[index] for book, index in parts), -MAX_CODE, MAX_CODE)


def plane(book: np.ndarray) -> np.ndarray:
  """The first two coordinates of entries (the second 0 if there is one), [K, 2]."""
  return np.stack([book[:, 0], book[:, 1] if book.shape[1] > 1 else 0 * book[:, 0]], 1)


def box(book: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The least rectangle around `plane`: its first corner and its sides, [2] each."""
  cells = plane(book)
  low = cells.min(0)
  return low, cells.max(0) - low + 1


def order(book: np.ndarray) -> np.ndarray:
  """How entries are sorted: as `positions.order` has their cells in the box, [K]."""
  low, sides = box(book)
  return positions.order(plane(book) - low, (int(sides[1]), int(sides[0])))


def assigned(books: tuple[np.ndarray, ...], codes: np.ndarray) -> Vectors:
  """The nearest entries, stage by stage; entries that nothing is near to are left out.

  Args:
    books: of each stage [K, d], of whole numbers.
    codes: float [N, d] in steps; N >= 1.
  """
  left, kept, out = np.asarray(codes, np.float64), [], []
  for book in books:
    book = np.clip(np.asarray(book, np.float64), -MAX_CODE, MAX_CODE)
    squares = ((left[:, None] - book[None]) ** 2).sum(-1)
    used, index = np.unique(squares.argmin(1), return_inverse=True)
    whole = book[used].astype(np.int64)
    by = order(whole)
    out.append(np.argsort(by, kind='stable')[index.reshape(-1)])
    kept.append(whole[by])
    left = left - kept[-1][out[-1]]
  return Vectors(tuple(kept), np.stack(out, 1))


def reordered(vectors: Vectors, by: np.ndarray) -> Vectors:
  """With the Gaussians in another order."""
  return vectors._replace(index=vectors.index[by])

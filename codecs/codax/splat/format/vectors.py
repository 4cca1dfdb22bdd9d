"""Shapes and colors as sums of entries of codebooks, in whole numbers. NumPy only.

A group of attributes (the shape, the color) has a few codebooks, and every Gaussian
names an entry of each of them: residual vector quantization. Entries are in the units
of the file's steps, so that all that follows is as for steps alone.
"""

from typing import NamedTuple

import numpy as np

from codax.splat.format import positions
from codax.splat.format.symbols import MAX_CODE

GROUPS = ('shape', 'colour')
MAX_STAGES, MAX_ENTRIES = 4, 1024


class Vectors(NamedTuple):
  """One group of a payload's attributes.

  Attributes:
    books: int64 [K, d] for each stage, in the order of `sort_entries`; within
      +-MAX_CODE.
    index: int64 [N, stages], indices of entries.
  """

  books: tuple[np.ndarray, ...]
  index: np.ndarray

  @property
  def codes(self) -> np.ndarray:
    """Codes, int64 [N, d], in steps: sums of entries, clipped to +-MAX_CODE."""
    parts = zip(self.books, self.index.T, strict=True)
    return np.clip(sum(book[index] for book, index in parts), -MAX_CODE, MAX_CODE)


def to_plane(book: np.ndarray) -> np.ndarray:
  """Returns the first two coordinates of entries, [K, 2]; the second 0 of one."""
  return np.stack([book[:, 0], book[:, 1] if book.shape[1] > 1 else 0 * book[:, 0]], 1)


def find_box(book: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Finds the least rectangle around `to_plane`: first corner and sides, [2] each."""
  cells = to_plane(book)
  low = cells.min(0)
  return low, cells.max(0) - low + 1


def sort_entries(book: np.ndarray) -> np.ndarray:
  """Returns the order of entries, [K]: `positions.order` of their cells in the box."""
  low, sides = find_box(book)
  return positions.order(to_plane(book) - low, (int(sides[1]), int(sides[0])))


def assign_entries(books: tuple[np.ndarray, ...], codes: np.ndarray) -> Vectors:
  """Assigns the nearest entries, stage by stage; unused entries are left out.

  Args:
    books: [K, d] for each stage, whole numbers.
    codes: float [N, d] in steps; N >= 1.
  """
  left, kept, out = np.asarray(codes, np.float64), [], []
  for book in books:
    book = np.clip(np.asarray(book, np.float64), -MAX_CODE, MAX_CODE)
    squares = ((left[:, None] - book[None]) ** 2).sum(-1)
    used, index = np.unique(squares.argmin(1), return_inverse=True)
    whole = book[used].astype(np.int64)
    by = sort_entries(whole)
    out.append(np.argsort(by, kind='stable')[index.reshape(-1)])
    kept.append(whole[by])
    left = left - kept[-1][out[-1]]
  return Vectors(tuple(kept), np.stack(out, 1))

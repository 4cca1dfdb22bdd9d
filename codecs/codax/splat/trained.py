"""What is kept of fits that were made together, until their files are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax import provenance
from codax.per_image import store as kept
from codax.splat.render import Gaussians

_PARTS = ('xy', 'shape', 'colour', 'base')


class Group(NamedTuple):
  """What `load` finds.

  Attributes:
    fits: as `fit.run_many` returns them.
    seconds: that they took together.
    source: where they were made: commit, versions and hardware, as results have them.
  """

  fits: list[tuple[Gaussians, dict[str, Any]]]
  seconds: float
  source: dict[str, Any]


def save(
  file: Path, fits: Sequence[tuple[Gaussians, dict[str, Any]]], seconds: float
) -> None:
  """Keeps fits that were made here and now."""
  arrays: dict[str, np.ndarray] = {}
  for i, (gaussians, _) in enumerate(fits):
    arrays |= {f'{i}/{name}': getattr(gaussians, name) for name in _PARTS}
    for g, books in enumerate(gaussians.books or ()):
      arrays |= {f'{i}/books/{g}/{s}': book for s, book in enumerate(books)}
  facts = {
    'seconds': float(seconds),
    'source': provenance.source(),
    'fits': [facts for _, facts in fits],
  }
  kept.save(file, {k: np.ascontiguousarray(x) for k, x in arrays.items()}, facts)


def load(file: Path) -> Group:
  """Inverse of `save`.

  Raises:
    CodaxError: the file is not one of `save`.
  """
  with kept.opened(file) as (arrays, facts):
    fits = []
    for i, about in enumerate(facts['fits']):
      books: dict[int, list[np.ndarray]] = {}
      for name in sorted(arrays):  # stages have one digit
        if name.startswith(f'{i}/books/'):
          books.setdefault(int(name.split('/')[2]), []).append(arrays[name])
      groups = tuple(tuple(books[g]) for g in sorted(books)) or None
      fits.append((Gaussians(*(arrays[f'{i}/{p}'] for p in _PARTS), groups), about))
    return Group(fits, float(facts['seconds']), dict(facts['source']))

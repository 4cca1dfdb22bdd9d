"""Pictures in layers: the first ones alone are a picture too, of fewer Gaussians.

Each layer has about half of the Gaussians that the next one leaves; those come first
that matter most to the picture. In a file every layer is a payload of its own.
"""

import numpy as np

from codax.bitstream import BitstreamError
from codax.splat.format import integer, positions

MOST = 4
# What all layers of a picture share.
_SHARED = ('size', 'kind', 'render', 'steps')


def split(picture: integer.Picture) -> list[integer.Picture]:
  """The layers of a picture, each as if it were one; a single one without layers."""
  if picture.layers is None:
    return [picture]
  return [
    picture._replace(
      cells=picture.cells[some], fine=picture.fine[some], shape=picture.shape[some],
      colour=picture.colour[some], layers=None,
    )
    for some in (picture.layers == n for n in range(picture.layers.max() + 1))
  ]  # fmt: skip


def joined(parts: list[integer.Picture]) -> integer.Picture:
  """Inverse of `split`, but for the order of Gaussians of one pixel.

  Raises:
    BitstreamError: parts that are not of one picture.
  """
  first = parts[0]
  if len(parts) == 1:
    return first
  for other in parts:
    alike = all(getattr(other, name) == getattr(first, name) for name in _SHARED)
    if not alike or (other.base != first.base).any():
      raise BitstreamError('the layers are not of one picture')
    if other.vectors is not None:
      raise BitstreamError('a layer has codebooks')
  count = sum(len(p.cells) for p in parts)
  if count > positions.MAX_POINTS:  # sums of more would not be exact
    raise BitstreamError(f'{count} Gaussians in all layers')
  together = lambda name: np.concatenate([getattr(p, name) for p in parts])
  cells = together('cells')
  by = positions.order(cells, first.size[:2])
  numbers = np.repeat(np.arange(len(parts)), [len(p.cells) for p in parts])
  return first._replace(
    cells=cells[by], fine=together('fine')[by], shape=together('shape')[by],
    colour=together('colour')[by], layers=numbers[by],
  )  # fmt: skip


def first(picture: integer.Picture, count: int) -> integer.Picture:
  """The picture of the first so many layers."""
  return joined(split(picture)[:count])


def marks(picture: integer.Picture, payloads: list[bytes]) -> list[tuple[int, int]]:
  """(Gaussians, bytes of payloads) to the end of each layer of a picture with some."""
  counts = np.cumsum(np.bincount(picture.layers)).tolist()
  return list(zip(counts, np.cumsum([len(p) for p in payloads]).tolist(), strict=True))


def numbered(order: np.ndarray, room: int, count: int) -> np.ndarray:
  """Which layer each Gaussian is in.

  Args:
    order: indices of those that are there, int64 [N], N > 0: what matters most first.
    room: how many there could be.
    count: of layers; there are fewer where there are too few Gaussians.

  Returns:
    int64 [room], from 0; `MOST` for those that are not there.
  """
  ends = [len(order) >> k for k in range(count - 1, 0, -1)]
  place = np.searchsorted(ends, np.arange(len(order)), side='right')
  out = np.full(room, MOST)
  out[order] = np.unique(place, return_inverse=True)[1]  # none is empty
  return out

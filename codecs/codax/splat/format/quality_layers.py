"""Files in quality layers: the first ones alone are an image too, of fewer Gaussians.

Each layer has about half of the Gaussians that the next one leaves; the most important
ones come first. In a file every layer has a stream of its own.
"""

import numpy as np

from codax.bitstream import BitstreamError
from codax.splat.format import integer, positions

MAX_LAYERS = 4
# Fields that all layers of a payload share.
_SHARED = ('size', 'covariance', 'blend', 'q_steps')


def split(payload: integer.Payload) -> list[integer.Payload]:
  """Splits a payload into its layers, each as if it were one; a single one without."""
  if payload.layers is None:
    return [payload]
  return [
    integer.take(payload, some)._replace(layers=None)
    for some in (payload.layers == n for n in range(payload.layers.max() + 1))
  ]


def join(parts: list[integer.Payload]) -> integer.Payload:
  """Inverts `split`, but for the order of Gaussians of one pixel.

  Raises:
    BitstreamError: the parts are not of one image.
  """
  first = parts[0]
  if len(parts) == 1:
    return first
  for other in parts:
    alike = all(getattr(other, name) == getattr(first, name) for name in _SHARED)
    if not alike or (other.base != first.base).any():
      raise BitstreamError('the layers are not of one image')
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
    color=together('color')[by], layers=numbers[by],
  )  # fmt: skip


def take_first(payload: integer.Payload, count: int) -> integer.Payload:
  """Returns the payload of the first `count` layers."""
  return join(split(payload)[:count])


def mark_ends(payload: integer.Payload, streams: list[bytes]) -> list[tuple[int, int]]:
  """Returns (Gaussians, bytes of streams) to the end of each layer."""
  counts = np.cumsum(np.bincount(payload.layers)).tolist()
  return list(zip(counts, np.cumsum([len(p) for p in streams]).tolist(), strict=True))


def assign_layers(order: np.ndarray, num_slots: int, count: int) -> np.ndarray:
  """Assigns each Gaussian to a layer.

  Args:
    order: int64 [N], indices of the active Gaussians, N > 0, the most important first.
    num_slots: number of slots for Gaussians.
    count: number of layers; there are fewer where there are too few Gaussians.

  Returns:
    int64 [num_slots], from 0; `MAX_LAYERS` for inactive Gaussians.
  """
  ends = [len(order) >> k for k in range(count - 1, 0, -1)]
  place = np.searchsorted(ends, np.arange(len(order)), side='right')
  out = np.full(num_slots, MAX_LAYERS)
  out[order] = np.unique(place, return_inverse=True)[1]  # none is empty
  return out

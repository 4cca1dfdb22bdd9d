"""Integer latents to the inputs of the synthesis network, exactly.

The twin of `grids.upsample` in NumPy. Grids are doubled along columns and along rows
until they have the size of the finest one, by linear interpolation or by filters that
the file holds.
"""

from collections.abc import Sequence

import numpy as np

GRID_FRAC = 10  # fractional bits of upsampled latents, in quantization steps


def _double(x: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
  """Interpolates to twice as many samples, times 4, and returns start .. stop."""
  x = np.moveaxis(x, axis, -1)
  out = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
  triple = 3 * x
  even, odd = out[..., ::2], out[..., 1::2]
  even[..., 1:] = triple[..., 1:] + x[..., :-1]
  even[..., :1] = 4 * x[..., :1]
  odd[..., :-1] = triple[..., :-1] + x[..., 1:]
  odd[..., -1:] = 4 * x[..., -1:]
  return np.moveaxis(out[..., start:stop], -1, axis)


# Where the samples of `TAPS` are, of those from two before to two behind a cell.
_EVEN, _ODD = (2, 1, 3, 0), (2, 3, 1, 4)


def _filter_double(
  x: np.ndarray, taps: np.ndarray, axis: int, start: int, stop: int
) -> np.ndarray:
  """Filters to twice as many samples, rounded, float64; returns start .. stop."""
  n = x.shape[axis]
  sides = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
  wide = np.moveaxis(np.pad(x.astype(np.float64), sides, 'edge'), axis, -1)
  out = np.empty([n * (1 + (i == axis)) for i, n in enumerate(x.shape)])
  moved = np.moveaxis(out, axis, -1)
  for parity, places in enumerate((_EVEN, _ODD)):
    near, *others = (wide[..., i : i + n] for i in places)
    sums = taps[0] * near
    product = np.empty_like(sums)
    for tap, samples in zip(taps[1:], others):
      sums += np.multiply(tap, samples, out=product)
    sums += 0.5
    np.floor(sums, out=moved[..., parity::2])
  return np.moveaxis(moved[..., start:stop], -1, axis)


def upsample(
  grids: Sequence[np.ndarray],
  top: int = 0,
  bottom: int | None = None,
  filters: Sequence[np.ndarray] = (),
) -> np.ndarray:
  """Upsamples integer grids to the inputs of the synthesis network.

  Each doubling is rounded: ``floor((16 * interpolation + 8) / 16)``. With latents below
  2**8 all numbers are below 2**23, which float32 holds exactly. A learned one is
  rounded along columns and again along rows, and is in float64.

  Args:
    grids: int [h, w] each, finest first, of the sides of `arch.grid_shapes`.
    top, bottom: range of the rows to return; all without them.
    filters: taps of a learned upsampling, see `integer.Network`.

  Returns:
    float32 (linear) or float64 (learned) [G, bottom - top, W], in units of
    2**-GRID_FRAC.
  """
  reach, kind = (2, np.float64) if filters else (1, np.float32)
  spans = [(top, len(grids[0]) if bottom is None else bottom)]
  for grid in grids[1:]:  # the rows that those of the finer grid are made of
    low, high = spans[-1]
    low, high = (low >> 1) - reach, (high + 1 >> 1) + reach
    spans.append((max(0, low), min(len(grid), high)))
  scaled = [
    kind(2**GRID_FRAC) * g[low:high].astype(kind)
    for g, (low, high) in zip(grids, spans)
  ]
  stack = scaled[-1][None]
  for i in range(len(grids) - 2, -1, -1):
    (low, high), first = spans[i], 2 * spans[i + 1][0]
    h, w = scaled[i].shape
    out = np.empty((len(stack) + 1, h, w), kind)
    out[0] = scaled[i]
    # the smaller axis first; rows at an end that is no end of the grid are not kept
    if filters:
      tall = _filter_double(stack, filters[i], 1, low - first, high - first)
      out[1:] = _filter_double(tall, filters[i], 2, 0, w)
    else:
      wide = _double(_double(stack, 1, low - first, high - first), 2, 0, w)
      wide += np.float32(8)
      wide *= np.float32(1 / 16)
      np.floor(wide, out=out[1:])
    stack = out
  return stack

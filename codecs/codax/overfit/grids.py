"""Latent grids in JAX: their upsampling, and the contexts of latents.

The integer twins are in :mod:`codax.overfit.format.upsampling` and `stream`. There are
no gathers: neighbors are shifted copies of a grid, latents of a coarser one are
repeated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from codax.overfit.format.arch import Arch

# --- upsampling -----------------------------------------------------------------------


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
  """Shifts samples by `by` places along an axis; those at the ends are repeated."""
  count = x.shape[axis]
  cut = lambda start, stop: lax.slice_in_dim(x, start, stop, axis=axis)
  most = min(abs(by), count)
  if by < 0:
    return jnp.concatenate([cut(0, 1)] * most + [cut(0, count - most)], axis)
  return jnp.concatenate([cut(most, count)] + [cut(count - 1, count)] * most, axis)


def _interleave(even: jax.Array, odd: jax.Array, axis: int, size: int) -> jax.Array:
  """Puts samples of both in turn, cut to `size`."""
  shape = even.shape
  out = jnp.stack([even, odd], axis + 1)
  out = out.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
  return lax.slice_in_dim(out, 0, size, axis=axis)


def double(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Interpolates linearly to twice as many samples along an axis, cut to `size`.

  Samples stand in the middle of their cells, so the weights are 1/4 and 3/4.
  """
  before, after = _shift(x, axis, -1), _shift(x, axis, 1)
  even, odd = 0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after
  return _interleave(even, odd, axis, size)


# Offset of each tap's sample, for the even and for the odd outputs.
_PLACES = ((0, 0), (-1, 1), (1, -1), (-2, 2))


def filter_double(x: jax.Array, taps: jax.Array, axis: int, size: int) -> jax.Array:
  """Filters to twice as many samples along an axis, by a symmetric filter.

  Args:
    x: float array.
    taps: float [4], weights of the samples 1/4, 3/4, 5/4 and 7/4 cells away.
    axis: axis of `x`.
    size: number of samples to return, twice those of `x` or one less.
  """
  even = sum(taps[j] * _shift(x, axis, a) for j, (a, _) in enumerate(_PLACES))
  odd = sum(taps[j] * _shift(x, axis, b) for j, (_, b) in enumerate(_PLACES))
  # Else XLA would compute a column's samples again for each of a row.
  return lax.optimization_barrier(_interleave(even, odd, axis, size))


def _filter_forward(x, taps, axis, size):
  return filter_double(x, taps, axis, size), (x, taps)


def _filter_backward(axis, size, saved, g):
  """Computes the gradient, in half the time of XLA's own on CPUs."""
  x, taps = saved
  count = x.shape[axis]
  padding = [(0, 2 * count - size if i == axis else 0, 0) for i in range(x.ndim)]
  g = lax.pad(g, jnp.zeros((), g.dtype), padding)
  pairs = g.reshape(*x.shape[:axis], count, 2, *x.shape[axis + 1 :])
  even, odd = (lax.index_in_dim(pairs, i, axis + 1, False) for i in range(2))
  even, odd = lax.optimization_barrier((even, odd))
  of_taps = [
    (even * _shift(x, axis, a) + odd * _shift(x, axis, b)).sum() for a, b in _PLACES
  ]

  def padded(values, before, after):
    sides = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(values, jnp.zeros((), g.dtype), sides)

  # Gradients of all samples, two places beyond either end included, which are repeats
  # of the end.
  back = lambda values, by: padded(values, 2 + by, 2 - by)
  wide = sum(
    taps[j] * (back(even, a) + back(odd, b)) for j, (a, b) in enumerate(_PLACES)
  )
  cut = lambda start, stop: lax.slice_in_dim(wide, start, stop, axis=axis)
  first = cut(0, 1) + cut(1, 2)
  last = cut(count + 2, count + 3) + cut(count + 3, count + 4)
  of_x = cut(2, count + 2) + padded(first, 0, count - 1) + padded(last, count - 1, 0)
  return lax.optimization_barrier(of_x), jnp.stack(of_taps)


# `filter_double` for reverse mode.
_filter_double = jax.custom_vjp(filter_double, nondiff_argnums=(2, 3))
_filter_double.defvjp(_filter_forward, _filter_backward)


def upsample(
  grids: Sequence[jax.Array],
  taps: Mapping[int, jax.Array] | None = None,
  forward: bool = False,
) -> jax.Array:
  """Upsamples grids to the size of the finest.

  Every grid is doubled until it has that size; all of the same size go together.

  Args:
    grids: float [h, w] each, finest first, with the sides of `arch.grid_shapes`.
    taps: filter of each doubling, by the number of the grid that it ends at, see
      `filter_double`. Without them the upsampling is linear.
    forward: whether derivatives will be taken in forward mode, which the faster
      gradient does not know.

  Returns:
    float [G, H, W].
  """
  stack = grids[-1][None]
  for i, grid in reversed(list(enumerate(grids[:-1]))):
    h, w = grid.shape
    if taps:
      wider = filter_double if forward else _filter_double
      stack = wider(wider(stack, taps[i], 1, h), taps[i], 2, w)
    else:
      stack = double(double(stack, 1, h), 2, w)
    stack = jnp.concatenate([grid[None], stack])
  return stack


# --- contexts of latents --------------------------------------------------------------


def contexts(arch: Arch, grids: Sequence[jax.Array], axis: int = -1) -> jax.Array:
  """Collects the entropy network's inputs: causal neighbors, then coarser latents.

  Grids that are NumPy arrays are handled by NumPy, others by JAX.

  Returns:
    float [N, arch.inputs], or [arch.inputs, N] with axis 0; zero outside the grids.
  """
  reach = 3
  out, xp = [], _find_library(grids)
  for i, grid in enumerate(grids):
    h, w = grid.shape
    padded = xp.pad(grid, ((reach, 0), (reach, reach)))
    shifted = [
      padded[reach + dy : reach + dy + h, reach + dx : reach + dx + w].reshape(-1)
      for dy, dx in arch.offsets
    ]
    above = [coarser_latents(grids, i, *o).reshape(-1) for o in arch.parent_offsets]
    out.append(xp.stack(shifted + above, axis))
  return xp.concatenate(out, -1 - axis)


def coarser_latents(
  grids: Sequence[jax.Array], finer: int, up: int, dy: int, dx: int
) -> jax.Array:
  """Finds a latent of a coarser grid for every latent of a grid.

  Args:
    grids: float [h, w] each, finest first.
    finer: number of the grid, from 0.
    up, dy, dx: levels up and offset there, see `arch.PARENT_OFFSETS`.

  Returns:
    float [h, w]; zero outside.
  """
  h, w = grids[finer].shape
  xp = _find_library(grids)
  if finer + up >= len(grids):
    return xp.zeros((h, w), xp.float32)
  coarse = grids[finer + up]
  rows, columns = coarse.shape
  padded = xp.pad(coarse, 1)
  moved = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
  return moved.repeat(2**up, 0).repeat(2**up, 1)[:h, :w]


def _find_library(grids: Sequence[Any]) -> Any:
  """Returns numpy for NumPy arrays and jax.numpy for others."""
  return np if isinstance(grids[0], np.ndarray) else jnp

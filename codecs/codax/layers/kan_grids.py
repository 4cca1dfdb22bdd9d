"""Grids of KAN layers that move or grow, and edges that are looked at or removed.

A moved or finer grid has other basis functions: coefficients are fitted to the old edge
functions by least squares. Where the new splines can hold the old functions nothing
changes; where they cannot, `move` leaves the inputs as they are whose outputs would
change by more than a tolerance, so that training goes on from the same function. It
looks at that over a batch, and over the old grids and somewhat beyond.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.layers import kan_wide
from codax.layers.kan_wide import Params, Spec, basis, locate

TOLERANCE = 0.01  # of `move`
_POINTS = 8  # places of a least squares fit, to a spacing of the grid
_BEYOND = 0.25  # of the old grids' span, at either end, that changes are looked for in
_TINY = 1e-30  # in place of the scale of a layer that is 0
_LEAST_SHARE = 0.5  # of its span that a grid keeps in one move, at least
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would round factors to fewer bits
_AT_ONCE = 64  # inputs whose edges are compared together


class Moved(NamedTuple):
  """Outcome of `move`.

  Attributes:
    params: parameters of the layer.
    grids: its grids.
    is_moved: bool [d_in], whether the grid of each input moved.
  """

  params: Params
  grids: Params
  is_moved: jax.Array


def compute_share_outside(grids: Params, x: jax.Array) -> jax.Array:
  """Computes the share of inputs x [N, d_in] that lie outside their grids."""
  return jnp.mean((x < grids['low'][None]) | (x > grids['high'][None]))


def move(
  params: Params,
  grids: Params,
  x: jax.Array,
  spec: Spec,
  *,
  ranges: Params | None = None,
  margin: float = 0.1,
  tolerance: float = TOLERANCE,
) -> Moved:
  """Moves the grid of every input to the range of its values, keeping the function.

  Args:
    params: parameters of the layer.
    grids: its grids.
    x: float [N, d_in], a batch of its inputs.
    spec: form of the layer.
    ranges: {'low', 'high'} float [d_in], ranges of the inputs; None is those of x.
    margin: share of the range that is added at each end.
    tolerance: greatest change of any output, over x and over the old grids and a
      quarter of their span beyond, in root mean squares of the outputs for x. Inputs
      move in the order of the change that they make, while the changes add up to no
      more. Infinity moves all, whatever that does.
  """
  if ranges is None:
    ranges = {'low': x.min(0), 'high': x.max(0)}
  middle = (ranges['low'] + ranges['high']) / 2
  half = (0.5 + margin) * (ranges['high'] - ranges['low'])
  least = _LEAST_SHARE * (grids['high'] - grids['low']) / 2
  half = jnp.maximum(half, least)
  wanted = {'low': middle - half, 'high': middle + half}
  spline = _refit(params['spline'], grids, wanted, spec, spec)
  shares = np.linspace(-_BEYOND, 1 + _BEYOND, 3 * spec.grid + 1)
  everywhere = _spread(grids, shares)
  at = jnp.concatenate([x, everywhere])
  change = _compute_change(params, grids, spline, wanted, at, spec)
  order = jnp.argsort(change)
  total = jnp.cumsum(change[order])
  square = jnp.mean(kan_wide.apply(params, grids, x, spec) ** 2)
  limit = tolerance * jnp.maximum(jnp.sqrt(square), _TINY)
  is_moved = jnp.zeros(len(order), bool).at[order].set(total <= limit)
  keep = lambda new, old: jnp.where(is_moved, new, old)
  return Moved(
    params | {'spline': jnp.where(is_moved[None, :, None], spline, params['spline'])},
    {key: keep(wanted[key], grids[key]) for key in grids},
    is_moved,
  )


def extend(params: Params, grids: Params, spec: Spec, grid: int) -> tuple[Params, Spec]:
  """Refits the layer to a finer grid over the same range.

  B-splines keep the function where the new number of intervals is a multiple of the
  old.

  Args:
    params: parameters of the layer.
    grids: its grids, which stay.
    spec: form of the layer.
    grid: new number of intervals.

  Returns:
    New parameters and their form.

  Raises:
    CodaxError: the new grid is coarser.
  """
  finer = kan_wide.check(spec._replace(grid=grid))
  if grid < spec.grid:
    raise CodaxError(f'KAN: a grid of {spec.grid} intervals cannot become {grid}')
  spline = _refit(params['spline'], grids, grids, spec, finer)
  return params | {'spline': spline}, finer


def _refit(spline, grids: Params, wanted: Params, spec: Spec, finer: Spec) -> jax.Array:
  """Fits coefficients over the wanted grids to the old edge functions.

  In spacings of the new grids the new basis is the same for every input: one pseudo-
  inverse, made in float64 on the host, serves all.
  """
  u = np.linspace(0, finer.grid, _POINTS * finer.grid + 1)
  new = np.stack(list(basis(u, finer, np)), -1)
  inverse = jnp.asarray(np.linalg.pinv(new), jnp.float32)
  x = _spread(wanted, u / finer.grid)
  old = jnp.stack(list(basis(locate(grids, x, spec), spec)), -1)  # [points, d_in, size]
  transfer = jnp.einsum('np,pij->nij', inverse, old, precision=_EXACT)
  return jnp.einsum('nij,jio->nio', transfer, spline, precision=_EXACT)


def _spread(grids: Params, share: np.ndarray) -> jax.Array:
  """Returns places [points, d_in] at shares of every grid, 0 to 1 from end to end."""
  low, high = (grids[key][None] for key in ('low', 'high'))
  return low + jnp.asarray(share, jnp.float32)[:, None] * (high - low)


def _compute_change(params, grids, spline, wanted, x, spec) -> jax.Array:
  """Computes the greatest change of an output by the edges of each input [d_in].

  A few inputs at a time: all edges at once would be N d_in d_out numbers.
  """

  def change_of_input(args):
    before, after, old, new, scale = args
    multiply = lambda a, b: jnp.matmul(a, b, precision=_EXACT)
    return jnp.abs((multiply(after, new) - multiply(before, old)) * scale[None]).max()

  at = lambda g: jnp.stack(list(basis(locate(g, x, spec), spec)), -1).swapaxes(0, 1)
  by_input = lambda w: w.swapaxes(0, 1)
  edges = by_input(params['spline']), by_input(spline), params['scale']
  return jax.lax.map(
    change_of_input, (at(grids), at(wanted), *edges), batch_size=_AT_ONCE
  )


# --- edges --------------------------------------------------------------------------


def evaluate_edges(params: Params, grids: Params, x: Any, spec: Spec) -> jax.Array:
  """Computes edge functions, base branch and all.

  Args:
    params: parameters of the layer.
    grids: its grids.
    x: float [P, d_in], places, for each input its own.
    spec: form of the layer.

  Returns:
    float32 [P, d_in, d_out].
  """
  x = jnp.asarray(x, jnp.float32)
  columns = jnp.stack(list(basis(locate(grids, x, spec), spec)), -1)
  splines = (
    jnp.einsum('pij,jio->pio', columns, params['spline']) * params['scale'][None]
  )
  return splines + jax.nn.silu(x)[..., None] * params['base'][None]


def compute_edge_norms(params: Params, grids: Params, spec: Spec) -> jax.Array:
  """Computes the root mean square of every edge function over its grid.

  The mean of a square is a quadratic form of the edge's coefficients, whose matrix all
  edges of an input share; its places are `_POINTS` a spacing.
  """
  u = np.linspace(0, spec.grid, _POINTS * spec.grid + 1)
  x = _spread(grids, u / spec.grid)
  columns = [*basis(locate(grids, x, spec), spec), jax.nn.silu(x)]
  columns = jnp.stack(columns, -1)  # [points, d_in, G + 4]
  gram = jnp.einsum('pij,pik->ijk', columns, columns, precision=_EXACT) / len(u)
  edges = jnp.concatenate(
    [params['spline'] * params['scale'][None], params['base'][None]]
  )
  square = jnp.einsum('jio,ijk,kio->io', edges, gram, edges, precision=_EXACT)
  return jnp.sqrt(jnp.maximum(square, 1e-12))


def compute_penalties(
  params: Params, grids: Params, spec: Spec
) -> tuple[jax.Array, jax.Array]:
  """Computes the penalties that make edges few (Liu et al. 2024, section 2.5).

  Returns:
    Mean of the edges' norms, and the entropy of their shares of the sum over the
    natural logarithm of their number: 1 where all are alike, 0 where there is one.
  """
  norms = compute_edge_norms(params, grids, spec)
  total = norms.sum() + 1e-12
  share = norms / total
  entropy = -jnp.sum(share * jnp.log(share + 1e-12))
  return norms.mean(), entropy / jnp.log(max(norms.size, 2))


def prune(params: Params, grids: Params, spec: Spec, threshold: float) -> Params:
  """Sets edges to zero whose norm is below a share of the largest one.

  Args:
    params: parameters of the layer.
    grids: its grids.
    spec: form of the layer.
    threshold: share, 0 to 1.

  Returns:
    Parameters with 'base' and 'scale' 0 at the removed edges: gradients of their
    coefficients are 0, those of scale and base are not, so pruning comes last.
  """
  norms = compute_edge_norms(params, grids, spec)
  stays = norms >= threshold * norms.max()
  return params | {key: jnp.where(stays, params[key], 0.0) for key in ('base', 'scale')}

"""Kolmogorov-Arnold layers: a learnt spline on every edge, plus a base branch.

``y_o = bias_o + sum_i (base_io act(x_i) + sum_j spline_jio B_j(x_i))``. B_j are the
uniform B-splines on G intervals. The cubic one is a closed form, [(2-d)+^3 -
4(1-d)+^3] / 6 at d spacings from its middle, which equals Cox and de Boor's recursion
inside the grid; outside, every B_j is continued by its tangent, so an edge function is
never clamped and always has a gradient.

Layers are pure functions on a dict of arrays (shapes at `init`). `apply` adds G + k
matrix products, one for each basis function, and never holds the [N, d_in (G + k)]
matrix that a single product would need: that matrix costs more than the arithmetic.
CPU seconds on one core, forward and backward, N = 393,216, k = 3, G = 5, for 7-8-3 and
24-6-2: 0.40 and 0.52 (`in_blocks`: 0.21 and 0.24); as one product 0.74 and 1.31; with
gathers 1.10 and 2.18; Cox and de Boor's recursion 2.99 and 4.52; the MLP 0.05 and 0.04.

Degree 1 on integer inputs with h = 1 is a layer of tables (see `Spec`), which
`codax.entropy.int_kan` decodes by look-ups alone.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from codax.errors import CodaxError
from codax.layers.kan_spec import BASES, DEGREES, Spec, centers, check, cost
from codax.metrics.complexity import Cost

__all__ = ['BASES', 'DEGREES', 'Spec', 'apply', 'basis', 'check', 'cost', 'executed',
           'in_blocks', 'init', 'line', 'refit_grid']  # fmt: skip

_ACTIVATIONS = {'linear': lambda x: x, 'relu': jax.nn.relu, 'silu': jax.nn.silu}


def init(
  rng: jax.Array, d_in: int, d_out: int, spec: Spec, *, dtype=jnp.float32, scale=1.0
) -> dict[str, jax.Array]:
  """Initializes a layer that equals a dense one.

  Weights are normal with deviation ``scale / sqrt(d_in)``; the bias is zero. With a
  base branch they are its weights and the splines are zero, so that ``params | {'base':
  w, 'bias': b}`` starts as the dense layer (w, b) after the activation. Without one,
  the splines are the straight lines ``w x``.

  Returns:
    'spline' [G + k, d_in, d_out], 'bias' [d_out] and, unless ``spec.base`` is 'none',
    'base' [d_in, d_out]; all of `dtype`.

  Raises:
    CodaxError: `spec` or a width is not valid.
  """
  check(spec)
  if min(d_in, d_out) < 1:
    raise CodaxError(f'KAN: a layer of {d_in} inputs and {d_out} outputs')
  weights = jax.random.normal(rng, (d_in, d_out), dtype) * (scale / math.sqrt(d_in))
  weights = weights.astype(dtype)
  bias = jnp.zeros(d_out, dtype)
  if spec.base == 'none':
    return {'spline': line(weights, spec), 'bias': bias}
  spline = jnp.zeros((spec.size, d_in, d_out), dtype)
  return {'spline': spline, 'bias': bias, 'base': weights}


def line(weights: jax.Array, spec: Spec) -> jax.Array:
  """Returns the spline coefficients of the straight lines ``weights * x``.

  A spline's coefficients are then its values at the middles of the basis functions, so
  a linear base branch can be folded into the splines with no change of the function.

  Args:
    weights: float [d_in, d_out], slopes of the lines.

  Returns:
    [G + k, d_in, d_out] of the weights' type.
  """
  at = np.array(centers(check(spec))) * spec.spacing + spec.low
  return jnp.asarray(at, weights.dtype)[:, None, None] * weights[None]


def _cubic(u, spec, xp):
  inside = xp.minimum(xp.maximum(u, 0), spec.grid)
  below = 0.5 * xp.minimum(u, 0)
  above = 0.5 * xp.maximum(u - spec.grid, 0)
  for j, center in enumerate(centers(spec)):
    d = xp.abs(inside - center)
    far, near = xp.maximum(2 - d, 0), xp.maximum(1 - d, 0)
    column = (far * far * far - 4 * (near * near * near)) * (1 / 6)
    # The slopes at the ends are those of the outermost pairs, -1/2 and 1/2 a spacing.
    if j in (0, 2):
      column = column - below if j == 0 else column + below
    if j in (spec.grid, spec.grid + 2):
      column = column - above if j == spec.grid else column + above
    yield column


def _hat(u, spec, xp):
  """Yields hats without clips at the ends: gradients are right on every knot too."""
  last = spec.grid
  for j in range(last + 1):
    sides = []
    if j > 0:  # the first has no rising side, and goes on below the grid
      rise = u - (j - 1)
      sides.append(rise if j == 1 else xp.maximum(rise, 0))
    if j < last:
      fall = (j + 1) - u
      sides.append(fall if j == last - 1 else xp.maximum(fall, 0))
    yield sides[0] if len(sides) == 1 else xp.minimum(*sides)


def basis(x, spec: Spec, xp=jnp):
  """Yields the G + k basis functions at x, one array of x's shape after the other.

  Outside the grid they are their tangents. They add up to one everywhere.

  Args:
    x: float array.
    xp: module, jax.numpy or numpy (for float64).
  """
  check(spec)
  u = (x - spec.low) * (1 / spec.spacing)
  return _hat(u, spec, xp) if spec.degree == 1 else _cubic(u, spec, xp)


def apply(params: dict[str, jax.Array], x: jax.Array, spec: Spec) -> jax.Array:
  """Runs the layer.

  Args:
    params: arrays with the names and shapes of `init`.
    x: float [..., d_in], any values: nothing is clamped.

  Returns:
    float [..., d_out].

  Raises:
    CodaxError: shapes do not fit.
  """
  check(spec)
  spline, bias = params['spline'], params['bias']
  d_in = x.shape[-1] if x.ndim else 0
  if spline.shape != (spec.size, d_in, *bias.shape):
    raise CodaxError(
      f'KAN: splines {spline.shape} and bias {bias.shape} for {d_in} inputs and '
      f'{spec.size} coefficients an edge'
    )
  flat = x.reshape(math.prod(x.shape[:-1]), d_in)
  y = None
  if spec.base != 'none':
    y = _ACTIVATIONS[spec.base](flat) @ params['base']
  for column, coefficients in zip(basis(flat, spec), spline):
    term = column @ coefficients
    y = term if y is None else y + term
  y = y + bias[None]
  return y.reshape(*x.shape[:-1], bias.shape[0])


def in_blocks(f: Callable, x: jax.Array, rows: int = 4096) -> jax.Array:
  """Applies a row-wise f to x, a few rows at a time, for CPUs.

  A whole network on a block stays in the cache; the backward pass runs it again.
  `complexity.cost` counts the loop, `compiled_flops` one turn of it.

  Args:
    f: function of [n, d_in] to [n, d_out], row by row.
    x: float [N, d_in]; zeros fill up the last block.
    rows: number of rows of a block.

  Returns:
    [N, d_out].
  """
  n = x.shape[0]
  padded = jnp.pad(x, ((0, -n % rows), (0, 0)))
  y = lax.map(jax.checkpoint(f), padded.reshape(-1, rows, x.shape[1]))
  return y.reshape(-1, y.shape[-1])[:n]


def executed(spec: Spec, d_in: int, d_out: int, *, fused: bool = False) -> Cost:
  """Counts the operations of `apply` for a sample, as `complexity.cost` does.

  Args:
    spec: form of the layer.
    d_in: number of inputs.
    d_out: number of outputs.
    fused: whether to count the program that XLA compiles for CPUs. It fuses the scaling
      of the inputs and the clip into each column, and so runs them for every one.
  """
  check(spec)
  has_base = spec.base != 'none'
  act = {'linear': 0, 'none': 0, 'relu': 1, 'silu': 2}[spec.base]
  if spec.degree == 3:
    # Scaling, clip and tails; 13 for each column; the tails' additions.
    each = 9 + 13 * spec.size + 4
  else:
    # Scaling; two sides of every inner hat, clipped but for the outermost; minima.
    each = 2 + 2 * spec.grid + 3 * (spec.grid - 1)
  if fused:
    each += (4 if spec.degree == 3 else 2) * (spec.size - 1)
  products = spec.size + has_base
  return Cost(d_in * d_out * products, d_in * (each + act) + d_out * products)


def refit_grid(
  params: dict[str, jax.Array], spec: Spec, new_spec: Spec
) -> dict[str, jax.Array]:
  """Refits the layer to another grid by least squares over the new grid's range.

  The same function where the new splines can hold it (a grid over the same range that
  contains the old knots, of no lower degree). Works under jit: the map between the
  coefficients depends on the grids alone.

  Raises:
    CodaxError: the base branches differ.
  """
  check(spec), check(new_spec)
  if spec.base != new_spec.base:
    raise CodaxError(f'KAN: base {spec.base!r} cannot become {new_spec.base!r}')
  n = 16 * new_spec.grid
  x = new_spec.low + (new_spec.high - new_spec.low) * np.arange(n + 1) / n
  old = np.stack(list(basis(x, spec, np)), 1)
  new = np.stack(list(basis(x, new_spec, np)), 1)
  transfer = np.linalg.lstsq(new, old, rcond=None)[0]
  spline = params['spline']
  transfer = jnp.asarray(transfer, spline.dtype)
  return params | {'spline': jnp.einsum('nj,jio->nio', transfer, spline)}

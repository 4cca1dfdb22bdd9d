"""KAN layers of hundreds of channels, for networks that learn by gradients.

``y_o = sum_i (base_io silu(x_i) + scale_io sum_j spline_jio B_j(u_i))``, u_i being
input i in spacings of its own uniform grid. The basis functions B_j are cubic B-splines
(closed form, continued by tangents outside the grid), Gaussians, or Chebyshev
polynomials, G + 3 of them whatever the basis, so that all have as many parameters.

All of the arithmetic that grows with edges is in matrix products, forward and backward:
no gather, no scatter. A layer is a dict of parameters and a dict of grids, which do not
learn: they move by `kan_grids`. The narrow layers of per-image networks are in `kan`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from codax import config as config_lib
from codax.errors import CodaxError, unknown
from codax.layers import kan, kan_spec

DEGREE = 3
INITS = ('identity', 'noise')
FORMS = ('product', 'scan', 'recursion')
_NOISE = 0.1  # deviation of coefficients that start as noise
Params = dict[str, jax.Array]


class Spec(NamedTuple):
  """Form of a layer; hashable.

  Attributes:
    grid: number of intervals G of each input's grid.
    basis: 'bspline', 'rbf' or 'chebyshev'.
    low: lower end of every grid at first.
    high: upper end of every grid at first.
    base_scale: standard deviation of the base branch's weights at first, times the
      square root of the number of inputs; 0 leaves the branch out of the start.
    spline_init: 'identity', by which every edge's spline is the identity at first, or
      'noise'.
    form: form of the sum over j: 'product', one matrix product of all basis functions;
      'scan', a product for each, one after another and again in the backward pass,
      without the [N, d_in (G + 3)] matrix and without scaled coefficients; 'recursion',
      one product of B-splines by Cox and de Boor's recursion, to compare with.
    dtype: type of the factors of matrix products, 'float32' or 'bfloat16'; sums are
      float32.
  """

  grid: int = 8
  basis: str = 'bspline'
  low: float = -2.0
  high: float = 2.0
  base_scale: float = 1.0
  spline_init: str = 'identity'
  form: str = 'product'
  dtype: str = 'float32'

  @property
  def size(self) -> int:
    """Returns the number of coefficients of an edge, G + 3."""
    return self.grid + DEGREE


def check(spec: Spec) -> Spec:
  """Returns `spec` after checks.

  Raises:
    CodaxError: a field has no meaning.
  """
  kan_spec.check(kan_spec.Spec(spec.grid, DEGREE, spec.low, spec.high))
  for value, field, valid in (
    (spec.basis, 'basis', BASES),
    (spec.spline_init, 'spline_init of a KAN layer', INITS),
    (spec.form, 'form of a KAN layer', FORMS),
    (spec.dtype, 'dtype of a KAN layer', ('float32', 'bfloat16')),
  ):
    if value not in valid:
      raise unknown(field, value, valid)
  config_lib.check_range('base_scale of a KAN layer', spec.base_scale, 0)
  if spec.form == 'recursion' and spec.basis != 'bspline':
    raise CodaxError(f'KAN: the recursion is that of bspline, not of {spec.basis}')
  return spec


# --- bases --------------------------------------------------------------------------


def _bspline(u: Any, grid: int, xp: Any):
  return kan.basis(u, kan_spec.Spec(grid, DEGREE, 0.0, float(grid)), xp)


def _rbf(u: Any, grid: int, xp: Any):
  """Yields Gaussians a spacing wide around the middles of the B-splines."""
  for j in range(grid + DEGREE):
    d = u - (j - 1)
    yield xp.exp(-(d * d))


def _chebyshev(u: Any, grid: int, xp: Any):
  """Yields polynomials of tanh of the place in the grid, -1 to 1 from end to end."""
  t = xp.tanh(u * (2 / grid) - 1)
  before, now = xp.ones_like(t), t
  yield before
  for _ in range(grid + DEGREE - 1):
    yield now
    before, now = now, 2 * t * now - before


def _recursion(u: Any, grid: int, xp: Any):
  """Yields B-splines by Cox and de Boor's recursion; outside the grid they end."""
  knots = range(-DEGREE, grid + DEGREE)
  splines = [xp.where((u >= k) & (u < k + 1), 1.0, 0.0) for k in knots]
  for degree in range(1, DEGREE + 1):
    splines = [
      ((u - k) * splines[i] + (k + degree + 1 - u) * splines[i + 1]) * (1 / degree)
      for i, k in enumerate(list(knots)[: len(splines) - 1])
    ]
  yield from splines


BASES: dict[str, Callable[..., Any]] = {
  'bspline': _bspline,
  'rbf': _rbf,
  'chebyshev': _chebyshev,
}


def basis(u: Any, spec: Spec, xp: Any = jnp):
  """Yields the G + 3 basis functions at u, one array of u's shape after the other.

  Args:
    u: float array, places in spacings of the grid: 0 is its lower end, G its upper.
    spec: form of the layer.
    xp: module, jax.numpy or numpy (for float64).
  """
  evaluate = _recursion if spec.form == 'recursion' else BASES[spec.basis]
  return evaluate(u, spec.grid, xp)


@functools.cache
def fit_identity(spec: Spec) -> np.ndarray:
  """Fits coefficients [G + 3] with which an edge is the identity over its grid.

  Exact for B-splines, least squares for the others.
  """
  u = np.linspace(0, spec.grid, 32 * spec.grid + 1)
  columns = np.stack(list(basis(u, spec._replace(form='product'), np)), -1)
  x = spec.low + u * ((spec.high - spec.low) / spec.grid)
  return np.linalg.lstsq(columns, x, rcond=None)[0]


# --- layer --------------------------------------------------------------------------


def init(rng: jax.Array, d_in: int, d_out: int, spec: Spec) -> tuple[Params, Params]:
  """Draws a layer.

  Args:
    rng: key.
    d_in: number of inputs.
    d_out: number of outputs.
    spec: form of the layer.

  Returns:
    Parameters {'base' [d_in, d_out], 'spline' [G + 3, d_in, d_out], 'scale' [d_in,
    d_out]} and grids {'low' [d_in], 'high' [d_in]}, all float32.

  Raises:
    CodaxError: `spec` or a width is not valid.
  """
  check(spec)
  if min(d_in, d_out) < 1:
    raise CodaxError(f'KAN: a layer of {d_in} inputs and {d_out} outputs')
  keys = jax.random.split(rng, 3)
  weights = lambda key: jax.random.normal(key, (d_in, d_out)) * d_in**-0.5
  shape = (spec.size, d_in, d_out)
  if spec.spline_init == 'identity':
    line = jnp.asarray(fit_identity(spec), jnp.float32)
    spline = jnp.broadcast_to(line[:, None, None], shape)
  else:
    spline = _NOISE * jax.random.normal(keys[2], shape)
  params = {
    'base': spec.base_scale * weights(keys[0]),
    'spline': spline,
    'scale': weights(keys[1]),
  }
  full = lambda value: jnp.full(d_in, value, jnp.float32)
  return params, {'low': full(spec.low), 'high': full(spec.high)}


def locate(grids: Params, x: jax.Array, spec: Spec) -> jax.Array:
  """Converts x [..., d_in] to spacings of the grids of its inputs, from low ends."""
  shape = (1,) * (x.ndim - 1) + grids['low'].shape
  low, high = (grids[key].reshape(shape) for key in ('low', 'high'))
  return (x - low) * (spec.grid / (high - low))


def apply(params: Params, grids: Params, x: jax.Array, spec: Spec) -> jax.Array:
  """Runs the layer.

  Args:
    params: parameters of `init`.
    grids: grids of `init`, or moved ones.
    x: float [N, d_in].
    spec: form of the layer.

  Returns:
    float32 [N, d_out].

  Raises:
    CodaxError: shapes do not fit.
  """
  spline, d_in = params['spline'], x.shape[-1]
  if x.ndim != 2 or spline.shape[:2] != (spec.size, d_in):
    raise CodaxError(
      f'KAN: splines of shape {spline.shape} for inputs of shape {x.shape} and '
      f'{spec.size} coefficients an edge'
    )
  x = x.astype(jnp.float32)
  u = locate(grids, x, spec)
  if spec.form == 'scan':
    y = multiply(jax.nn.silu(x), params['base'], spec)
    return y + _scan(u, spline, params['scale'], spec)
  return _sum_edges(u, x, _scale(spline, params['scale']), params['base'], spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sum_edges(
  u: jax.Array, x: jax.Array, edges: jax.Array, base: jax.Array, spec: Spec
) -> jax.Array:
  """Multiplies basis functions and SiLU by the weights of all edges.

  The backward pass makes the columns again, transposed: the gradient of the weights is
  then a product of rows, which CPUs multiply faster in bfloat16 (a quarter of the
  layer's time), and nothing of the size of the columns has to be kept.

  Args:
    u: float32 [N, d_in], places in the grids.
    x: float32 [N, d_in], inputs.
    edges: float32 [G + 3, d_in, d_out], scaled coefficients.
    base: float32 [d_in, d_out], base weights.
    spec: form of the layer.
  """
  return _sum_edges_forward(u, x, edges, base, spec)[0]


def _columns(u: jax.Array, x: jax.Array, spec: Spec) -> list[jax.Array]:
  """Returns G + 4 arrays of the shape of u and x, in the type of products."""
  return [f.astype(spec.dtype) for f in (*basis(u, spec), jax.nn.silu(x))]


def _sum_edges_forward(u, x, edges, base, spec: Spec) -> tuple[jax.Array, tuple]:
  columns = jnp.concatenate(_columns(u, x, spec), -1)
  # cast before they are joined: XLA makes one pass of it
  flat = edges.astype(spec.dtype).reshape(-1, edges.shape[-1])
  weights = jnp.concatenate([flat, base.astype(spec.dtype)])
  return _dot(columns, weights, 1, 0), (u, x, weights)


def _sum_edges_backward(spec: Spec, residuals: tuple, g: jax.Array) -> tuple:
  u, x, weights = residuals
  g, count = g.astype(spec.dtype), spec.size + 1
  rows = jnp.concatenate(_columns(u.T, x.T, spec))
  of_weights = _dot(rows, g, 1, 0).reshape(count, x.shape[-1], -1)
  of_columns = jnp.split(_dot(g, weights, 1, 1), count, axis=1)
  slopes = jax.jvp(lambda u: list(basis(u, spec)), (u,), (jnp.ones_like(u),))[1]
  of_u = sum(a * b for a, b in zip(of_columns, slopes))
  slope = jax.jvp(jax.nn.silu, (x,), (jnp.ones_like(x),))[1]
  return of_u, of_columns[-1] * slope, of_weights[:-1], of_weights[-1]


_sum_edges.defvjp(_sum_edges_forward, _sum_edges_backward)


@jax.custom_vjp
def _scale(spline: jax.Array, scale: jax.Array) -> jax.Array:
  """Multiplies coefficients [G + 3, d_in, d_out] by the scales [d_in, d_out].

  The gradient of the scales adds G + 3 terms as one expression: XLA's reduction over
  the first axis takes longer on CPUs than all the products.
  """
  return spline * scale[None]


def _scale_backward(residuals, g):
  spline, scale = residuals
  total = g[0] * spline[0]
  for j in range(1, len(spline)):
    total = total + g[j] * spline[j]
  return g * scale[None], total


_scale.defvjp(
  lambda spline, scale: (spline * scale[None], (spline, scale)), _scale_backward
)


def multiply(x: jax.Array, weights: jax.Array, spec: Spec) -> jax.Array:
  """Multiplies [N, K] by [K, M] in the type of `spec`; sums are float32."""
  if spec.dtype == 'float32':
    return x @ weights
  return _multiply_bf16(x, weights)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
  dims = (((axis_a,), (axis_b,)), ((), ()))
  return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _multiply_bf16(x: jax.Array, weights: jax.Array) -> jax.Array:
  """Multiplies in bfloat16; the products of the backward pass are bfloat16 too.

  Its derivative by JAX would have one factor in float32, for which there is no fast
  product.
  """
  return _dot(x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16), 1, 0)


def _multiply_forward(x, weights):
  x, weights = x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16)
  return _dot(x, weights, 1, 0), (x, weights)


def _multiply_backward(residuals, g):
  (x, weights), g = residuals, g.astype(jnp.bfloat16)
  return _dot(g, weights, 1, 1), _dot(x, g, 0, 0)


_multiply_bf16.defvjp(_multiply_forward, _multiply_backward)


def _scan(u: jax.Array, spline: jax.Array, scale: jax.Array, spec: Spec) -> jax.Array:
  """Adds the products of one basis function after another, each made anew backward."""

  @jax.checkpoint
  def step(total, item):
    j, coefficients = item
    column = lax.switch(j, columns, u)
    return total + multiply(column, coefficients * scale, spec), None

  columns = [functools.partial(_column, spec, j) for j in range(spec.size)]
  zeros = jnp.zeros((u.shape[0], scale.shape[-1]), jnp.float32)
  return lax.scan(step, zeros, (jnp.arange(spec.size), spline))[0]


def _column(spec: Spec, j: int, u: jax.Array) -> jax.Array:
  """Returns basis function j at u."""
  return list(basis(u, spec))[j]

"""Gaussians to pixels, tile by tile, and back for the gradients.

In the coordinates of a tile's middle the exponent of a Gaussian is a polynomial, so
that for a chunk of Gaussians and the 256 pixels of a tile

  e = coefficients [CHUNK, 6] . basis [6, 256],   w = max(exp(-e) - 2**-8, 0),
  values . w -> [C, 256]

are two small matrix products with an exponential between, and as much again backwards.
The little that is subtracted makes a Gaussian end without a step, where lists end too.
Nothing is scattered into the image. Blends of the weights w:

- 'sum': the image is base + sum_i w_i c_i (GaussianImage).
- 'normalized': (b base + sum_i w_i c_i) / (b + sum_i w_i), a weighted mean, b = FLOOR.
- 'alpha': front to back in the order of the Gaussians, with opacities a_i = w_i o_i:
  sum_i a_i c_i prod_{j<i} (1 - a_j), and the base behind; o_i is the sigmoid of an
  extra channel of the color.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.splat import geometry, tiles
from codax.splat.format import integer

BLENDS = (*integer.BLENDS, 'alpha')
FLOOR = integer.FLOOR / integer.ONE
_MAX_ALPHA = 0.999
# Terms of an exponent nearly cancel: by default GPUs and TPUs would round them to ten
# bits.
_EXACT = jax.lax.Precision.HIGHEST
_product = functools.partial(jnp.matmul, precision=_EXACT)
_TAIL = math.exp(-tiles.CUT)


class Gaussians(NamedTuple):
  """N Gaussians.

  Attributes:
    xy: [N, 2], centers in pixels; the center of the first pixel is (0.5, 0.5).
    shape: [N, 3], see `geometry`.
    color: [N, C], for 'alpha' [N, C + 1] with the logits of opacities last.
    base: [C].
    books: codebooks that quantize shapes and colors (for each of `vectors.GROUPS` a
      tuple of [K, d], in steps), or None. They are no parameters of the image.
  """

  xy: jax.Array
  shape: jax.Array
  color: jax.Array
  base: jax.Array
  books: tuple[tuple[jax.Array, ...], ...] | None = None


def _basis() -> np.ndarray:
  x = np.arange(tiles.TILE, dtype=np.float32) - (tiles.TILE - 1) / 2
  y, x = np.meshgrid(x, x, indexing='ij')
  terms = [x * x, x * y, y * y, x, y, np.ones_like(x)]
  return np.stack(terms).reshape(6, -1).astype(np.float32)


BASIS = _basis()


def compute_coefficients(
  xy: jax.Array, precision: geometry.Precision, lists: tiles.Lists, columns
) -> jax.Array:
  """Returns polynomials of the exponents in the coordinates of each chunk's tile.

  Args:
    xy: [N, 2].
    precision: precisions of N Gaussians.
    lists: tile lists.
    columns: number of columns of tiles.

  Returns:
    [chunks, CHUNK, 6]; where a chunk has no member, an exponent that gives w = 0.
  """
  table = jnp.concatenate([xy, jnp.stack(precision, -1)], -1)
  none = jnp.zeros((1, 5), table.dtype)
  m = jnp.concatenate([table, none])[lists.members]
  row, column = lists.tiles // columns, lists.tiles % columns
  middle = jnp.stack([column, row], -1) * tiles.TILE + tiles.TILE / 2
  x, y = m[..., 0] - middle[:, :1], m[..., 1] - middle[:, 1:]
  xx, both, yy = m[..., 2], m[..., 3], m[..., 4]
  dx, dy = xx * x + both * y, both * x + yy * y
  free = lists.members == len(xy)
  constant = jnp.where(free, 1e4, 0.5 * (dx * x + dy * y))
  return jnp.stack([xx / 2, both, yy / 2, -dx, -dy, constant], -1)


def compute_exponents(
  gaussians: Gaussians, lists: tiles.Lists, size, covariance: str
) -> tuple[jax.Array, int]:
  """Returns `compute_coefficients` of Gaussians, and the number of tiles."""
  columns = tiles.count_tiles(*size)[1]
  exact = geometry.compute_precision(covariance, gaussians.shape)
  return compute_coefficients(gaussians.xy, exact, lists, columns), len(lists.counts)


def compute_weights(coefs: jax.Array) -> jax.Array:
  """Returns weights at a tile's pixels, [..., TILE**2], of coefficients [..., 6]."""
  return jnp.maximum(jnp.exp(-_product(coefs, BASIS)) - _TAIL, 0)


def _is_sequential() -> bool:
  """Returns whether chunks are processed one by one: on CPUs one fits the cache."""
  return jax.default_backend() == 'cpu'


def _count_used(owner: jax.Array, count: int) -> jax.Array:
  """Counts the used chunks: unused ones come last, and cost nothing."""
  return jnp.sum((owner < count).astype(jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def accumulate(coefs: jax.Array, values: jax.Array, owner: jax.Array, count: int):
  """Sums exp(-e_i) values_i for every pixel of every tile.

  Args:
    coefs: [chunks, CHUNK, 6].
    values: [chunks, CHUNK, V].
    owner: int32 [chunks], ascending tile numbers; `count` and more are left out.
    count: number of tiles.

  Returns:
    [count, V, TILE**2].
  """
  if _is_sequential():

    def add_chunk(i, total):
      return total.at[owner[i]].add(_product(values[i].T, compute_weights(coefs[i])))

    zero = jnp.zeros((count, values.shape[-1], BASIS.shape[1]), values.dtype)
    return jax.lax.fori_loop(0, _count_used(owner, count), add_chunk, zero)
  w = compute_weights(coefs)
  each = jnp.einsum('skv,skp->svp', values, w, precision=_EXACT)
  return jax.ops.segment_sum(each, owner, count, indices_are_sorted=True)


def _accumulate_fwd(coefs, values, owner, count):
  return accumulate(coefs, values, owner, count), (coefs, values, owner)


def _accumulate_bwd(count, residuals, g):
  coefs, values, owner = residuals

  def chunk_gradients(c, v, t):
    here = g[jnp.minimum(t, count - 1)]
    full = jnp.exp(-_product(c, BASIS))
    w = jnp.maximum(full - _TAIL, 0)
    slope = jnp.where(w > 0, full, 0)
    down = slope * _product(v, here)
    return -_product(down, BASIS.T), _product(w, here.T)

  if _is_sequential():

    def set_chunk(i, out):
      made = chunk_gradients(coefs[i], values[i], owner[i])
      return tuple(x.at[i].set(new) for x, new in zip(out, made, strict=True))

    zero = jnp.zeros_like(coefs), jnp.zeros_like(values)
    d_coefs, d_values = jax.lax.fori_loop(0, _count_used(owner, count), set_chunk, zero)
  else:
    d_coefs, d_values = jax.vmap(chunk_gradients)(coefs, values, owner)
  return d_coefs, d_values, None


accumulate.defvjp(_accumulate_fwd, _accumulate_bwd)


def _composite(coefs, values, owner, base, count: int) -> jax.Array:
  """Composites front to back, [count, C, TILE**2]; see the head of the module."""
  w = compute_weights(coefs)
  a = jnp.minimum(w * jax.nn.sigmoid(values[..., -1:]), _MAX_ALPHA)
  after = jnp.cumsum(jnp.log1p(-a), 1)
  before = jnp.concatenate([jnp.zeros_like(after[:, :1]), after[:, :-1]], 1)
  seen = a * jnp.exp(before)
  each = jnp.einsum('skv,skp->svp', values[..., :-1], seen, precision=_EXACT)

  def combine(left, right):  # a sum that starts anew with every tile
    same = (left[0] == right[0])[..., None]
    return right[0], right[1] + jnp.where(same, left[1], 0)

  through = jax.lax.associative_scan(combine, (owner, after[:, -1]))[1]
  front = through - after[:, -1]
  total = lambda x: jax.ops.segment_sum(x, owner, count, indices_are_sorted=True)
  left = jnp.exp(total(after[:, -1]))[:, None]
  base = base[None, :, None]
  return total(each * jnp.exp(front)[:, None]) + left * base


def untile(out: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Assembles tiles [tiles, C, TILE**2] to an image [H, W, C]; JAX's or NumPy's.

  Tiles beyond the image's are left out.
  """
  rows, columns = tiles.count_tiles(*size)
  out = out[: rows * columns].reshape(rows, columns, -1, tiles.TILE, tiles.TILE)
  out = out.transpose(0, 3, 1, 4, 2)
  out = out.reshape(rows * tiles.TILE, columns * tiles.TILE, -1)
  return out[: size[0], : size[1]]


def render_image(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size: tuple[int, int],
  covariance: str = 'cholesky',
  blend: str = 'sum',
) -> jax.Array:
  """Renders an image, float32 [H, W, C]; see `render_tiles`."""
  return untile(render_tiles(gaussians, lists, size, covariance, blend), size)


def render_tiles(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size,
  covariance: str = 'cholesky',
  blend: str = 'sum',
) -> jax.Array:
  """Renders, in the colors' own units, neither clamped nor rounded.

  Args:
    gaussians: N Gaussians.
    lists: result of `tiles.bin_gaussians` for the same size.
    size: (height, width) in pixels, integers or arrays of them.
    covariance: parametrization, one of `geometry.COVARIANCES`.
    blend: one of `BLENDS`.

  Returns:
    float32 [tiles, C, TILE**2], row by row of tiles, row by row of pixels. Those beyond
    the image have its base.
  """
  if blend == 'alpha':
    coefs, count = compute_exponents(gaussians, lists, size, covariance)
    values = _gather(gaussians.color, lists)
    return _composite(coefs, values, lists.tiles, gaussians.base, count)
  return render_subsets(gaussians, lists, size, covariance, blend, [None])[0]


def render_subsets(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size,
  covariance: str,
  blend: str,
  shares: Sequence[jax.Array | None],
) -> list[jax.Array]:
  """Renders images of several subsets of the Gaussians at once, not for 'alpha'.

  Args:
    gaussians, lists, size, covariance, blend: see `render_tiles`.
    shares: each image's factors of the Gaussians' weights, float32 [N], or None for 1.

  Returns:
    For each image float32 [tiles, C, TILE**2].
  """
  coefs, count = compute_exponents(gaussians, lists, size, covariance)
  values = gaussians.color
  if blend == 'normalized':
    values = jnp.concatenate([values, jnp.ones_like(values[:, :1])], -1)
  values = [values if share is None else values * share[:, None] for share in shares]
  values = _gather(jnp.concatenate(values, -1), lists)
  out = accumulate(coefs, values, lists.tiles, count)
  base = gaussians.base[None, :, None]
  images = jnp.split(out, len(shares), axis=1)
  if blend == 'sum':
    return [part + base for part in images]
  return [(part[:, :-1] + FLOOR * base) / (part[:, -1:] + FLOOR) for part in images]


def _gather(values: jax.Array, lists: tiles.Lists) -> jax.Array:
  """Gathers values [N, V] of each chunk's Gaussians, [chunks, CHUNK, V]; else 0."""
  none = jnp.zeros((1, values.shape[-1]), values.dtype)
  return jnp.concatenate([values, none])[lists.members]


def render(
  gaussians: Gaussians,
  size: tuple[int, int],
  capacity: tiles.Capacity,
  covariance: str = 'cholesky',
  blend: str = 'sum',
  scale: float = 1.0,
) -> tuple[jax.Array, tiles.Lists]:
  """Bins and renders; `scale` > 1 is a larger image of the same Gaussians."""
  if scale != 1.0:
    gaussians = gaussians._replace(
      xy=gaussians.xy * scale,
      shape=geometry.rescale(covariance, gaussians.shape, scale),
    )
  deviations = geometry.compute_deviations(covariance, gaussians.shape)
  lists = tiles.bin_gaussians(gaussians.xy, deviations, size, capacity)
  return render_image(gaussians, lists, size, covariance, blend), lists

r"""Gaussians to pixels, tile by tile, and back for the gradients.

In the coordinates of a tile's middle the exponent of a Gaussian is a polynomial, so
that for a chunk of Gaussians and the 256 pixels of a tile

  e = coefficients [CHUNK, 6] . basis [6, 256],   w = max(exp(-e) - 2**-8, 0),
  values . w -> [C, 256]

are two small matrix products with an exponential between, and as much again backwards.
The little that is subtracted makes a Gaussian end without a step, where lists end too.
Nothing is scattered into the picture. What is made of w:

- 'sum': the picture is base + sum_i w_i c_i (GaussianImage).
- 'normalised': (b base + sum_i w_i c_i) / (b + sum_i w_i), a weighted mean, b = FLOOR.
- 'alpha': front to back in the order of the Gaussians, with opacities a_i = w_i o_i:
  sum_i a_i c_i prod_{j<i} (1 - a_j), and the base behind; o_i is the sigmoid of an
  extra channel of the colour.
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

RENDERS = (*integer.RENDERS, 'alpha')
FLOOR = integer.FLOOR / integer.ONE
_MAX_ALPHA = 0.999
# Terms of an exponent of which little is left in the sum: by default GPUs and TPUs
# would round them to ten bits.
_EXACT = jax.lax.Precision.HIGHEST
_product = functools.partial(jnp.matmul, precision=_EXACT)
_TAIL = math.exp(-tiles.CUT)


class Gaussians(NamedTuple):
  """N Gaussians.

  Attributes:
    xy: [N, 2], centres in pixels; the centre of the first pixel is (0.5, 0.5).
    shape: [N, 3], see `geometry`.
    colour: [N, C], for 'alpha' [N, C + 1] with the logits of opacities last.
    base: [C].
    books: codebooks (of `vectors.GROUPS` a tuple of [K, d] each, in steps) that shapes
      and colours are quantised with, or None. They are no parameters of the picture.
  """

  xy: jax.Array
  shape: jax.Array
  colour: jax.Array
  base: jax.Array
  books: tuple[tuple[jax.Array, ...], ...] | None = None


def _basis() -> np.ndarray:
  x = np.arange(tiles.TILE, dtype=np.float32) - (tiles.TILE - 1) / 2
  y, x = np.meshgrid(x, x, indexing='ij')
  terms = [x * x, x * y, y * y, x, y, np.ones_like(x)]
  return np.stack(terms).reshape(6, -1).astype(np.float32)


BASIS = _basis()


def coefficients(
  xy: jax.Array, precision: geometry.Precision, lists: tiles.Lists, columns: int
) -> jax.Array:
  """Polynomials of the exponents in the coordinates of each chunk's tile.

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


def exponents(
  gaussians: Gaussians, lists: tiles.Lists, size: tuple[int, int], kind: str
) -> tuple[jax.Array, int]:
  """`coefficients` of Gaussians, and how many tiles a picture of this size has."""
  rows, columns = tiles.grid(*size)
  exact = geometry.precision(kind, gaussians.shape)
  return coefficients(gaussians.xy, exact, lists, columns), rows * columns


def weights(coefs: jax.Array) -> jax.Array:
  """[..., 6] to the weights at a tile's pixels, [..., TILE**2]."""
  return jnp.maximum(jnp.exp(-_product(coefs, BASIS)) - _TAIL, 0)


def _loop() -> bool:
  """Whether chunks are taken one by one: on CPUs all of one is in the cache."""
  return jax.default_backend() == 'cpu'


def _used(owner: jax.Array, count: int) -> jax.Array:
  """How many chunks there are: those that are not used come last, and cost nothing."""
  return jnp.sum((owner < count).astype(jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def accumulate(coefs: jax.Array, values: jax.Array, owner: jax.Array, count: int):
  """sum_i exp(-e_i) values_i for every pixel of every tile.

  Args:
    coefs: [chunks, CHUNK, 6].
    values: [chunks, CHUNK, V].
    owner: int32 [chunks], ascending tile numbers; `count` and more are left out.
    count: number of tiles.

  Returns:
    [count, V, TILE**2].
  """
  if _loop():

    def one(i, total):
      return total.at[owner[i]].add(_product(values[i].T, weights(coefs[i])))

    zero = jnp.zeros((count, values.shape[-1], BASIS.shape[1]), values.dtype)
    return jax.lax.fori_loop(0, _used(owner, count), one, zero)
  w = weights(coefs)
  each = jnp.einsum('skv,skp->svp', values, w, precision=_EXACT)
  return jax.ops.segment_sum(each, owner, count, indices_are_sorted=True)


def _accumulate_fwd(coefs, values, owner, count):
  return accumulate(coefs, values, owner, count), (coefs, values, owner)


def _accumulate_bwd(count, kept, g):
  coefs, values, owner = kept

  def one(c, v, t):
    here = g[jnp.minimum(t, count - 1)]
    full = jnp.exp(-_product(c, BASIS))
    w = jnp.maximum(full - _TAIL, 0)
    slope = jnp.where(w > 0, full, 0)
    down = slope * _product(v, here)
    return -_product(down, BASIS.T), _product(w, here.T)

  if _loop():

    def put(i, out):
      made = one(coefs[i], values[i], owner[i])
      return tuple(x.at[i].set(new) for x, new in zip(out, made, strict=True))

    zero = jnp.zeros_like(coefs), jnp.zeros_like(values)
    d_coefs, d_values = jax.lax.fori_loop(0, _used(owner, count), put, zero)
  else:
    d_coefs, d_values = jax.vmap(one)(coefs, values, owner)
  return d_coefs, d_values, None


accumulate.defvjp(_accumulate_fwd, _accumulate_bwd)


def _composite(coefs, values, owner, base, count: int) -> jax.Array:
  """Front to back: [count, C, TILE**2]; see the head of the module."""
  w = weights(coefs)
  a = jnp.minimum(w * jax.nn.sigmoid(values[..., -1:]), _MAX_ALPHA)
  after = jnp.cumsum(jnp.log1p(-a), 1)
  before = jnp.concatenate([jnp.zeros_like(after[:, :1]), after[:, :-1]], 1)
  seen = a * jnp.exp(before)
  each = jnp.einsum('skv,skp->svp', values[..., :-1], seen, precision=_EXACT)

  def follow(left, right):  # a sum that starts anew with every tile
    same = (left[0] == right[0])[..., None]
    return right[0], right[1] + jnp.where(same, left[1], 0)

  through = jax.lax.associative_scan(follow, (owner, after[:, -1]))[1]
  front = through - after[:, -1]
  total = lambda x: jax.ops.segment_sum(x, owner, count, indices_are_sorted=True)
  left = jnp.exp(total(after[:, -1]))[:, None]
  base = base[None, :, None]
  return total(each * jnp.exp(front)[:, None]) + left * base


def untile(out: jax.Array, size: tuple[int, int]) -> jax.Array:
  """[tiles, C, TILE**2] to a picture [H, W, C]."""
  rows, columns = tiles.grid(*size)
  out = out.reshape(rows, columns, -1, tiles.TILE, tiles.TILE)
  out = out.transpose(0, 3, 1, 4, 2)
  out = out.reshape(rows * tiles.TILE, columns * tiles.TILE, -1)
  return out[: size[0], : size[1]]


def retile(picture: jax.Array) -> jax.Array:
  """Inverse of `untile`: [H, W, C] to [tiles, C, TILE**2], with zeros beyond."""
  rows, columns = tiles.grid(*picture.shape[:2])
  full = rows * tiles.TILE, columns * tiles.TILE
  beyond = [(0, n - m) for n, m in zip(full, picture.shape[:2], strict=True)]
  picture = jnp.pad(picture, (*beyond, (0, 0)))
  h, w, c = picture.shape
  side = tiles.TILE
  out = picture.reshape(h // side, side, w // side, side, c).transpose(0, 2, 4, 1, 3)
  return out.reshape(-1, c, side * side)


def picture(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size: tuple[int, int],
  kind: str = 'cholesky',
  how: str = 'sum',
) -> jax.Array:
  """As `tiled`, but as a picture: float32 [H, W, C]."""
  return untile(tiled(gaussians, lists, size, kind, how), size)


def tiled(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size: tuple[int, int],
  kind: str = 'cholesky',
  how: str = 'sum',
) -> jax.Array:
  """Renders, in the colours' own units, neither clamped nor rounded.

  Args:
    gaussians: what to render.
    lists: from `tiles.bins` for the same size.
    size: (height, width) in pixels.
    kind: of the shapes, one of `geometry.KINDS`.
    how: one of `RENDERS`.

  Returns:
    float32 [tiles, C, TILE**2], row by row of tiles, row by row of pixels.
  """
  if how == 'alpha':
    coefs, count = exponents(gaussians, lists, size, kind)
    values = _listed(gaussians.colour, lists)
    return _composite(coefs, values, lists.tiles, gaussians.base, count)
  return nested(gaussians, lists, size, kind, how, [None])[0]


def nested(
  gaussians: Gaussians,
  lists: tiles.Lists,
  size: tuple[int, int],
  kind: str,
  how: str,
  shares: Sequence[jax.Array | None],
) -> list[jax.Array]:
  """As `tiled` for 'sum' and 'normalised', pictures of some of the Gaussians at once.

  Args:
    shares: for each picture float32 [N], how much of each Gaussian it has; None is all
      of all.

  Returns:
    Of each float32 [tiles, C, TILE**2].
  """
  coefs, count = exponents(gaussians, lists, size, kind)
  values = gaussians.colour
  if how == 'normalised':
    values = jnp.concatenate([values, jnp.ones_like(values[:, :1])], -1)
  values = [values if share is None else values * share[:, None] for share in shares]
  values = _listed(jnp.concatenate(values, -1), lists)
  out = accumulate(coefs, values, lists.tiles, count)
  base = gaussians.base[None, :, None]
  pictures = jnp.split(out, len(shares), axis=1)
  if how == 'sum':
    return [part + base for part in pictures]
  return [(part[:, :-1] + FLOOR * base) / (part[:, -1:] + FLOOR) for part in pictures]


def _listed(values: jax.Array, lists: tiles.Lists) -> jax.Array:
  """Values [N, V] of the Gaussians of each chunk, [chunks, CHUNK, V]; 0 for none."""
  none = jnp.zeros((1, values.shape[-1]), values.dtype)
  return jnp.concatenate([values, none])[lists.members]


def render(
  gaussians: Gaussians,
  size: tuple[int, int],
  room: tiles.Capacity,
  kind: str = 'cholesky',
  how: str = 'sum',
  scale: float = 1.0,
) -> tuple[jax.Array, tiles.Lists]:
  """Bins and renders; `scale` > 1 is a larger picture of the same Gaussians."""
  if scale != 1.0:
    gaussians = gaussians._replace(
      xy=gaussians.xy * scale, shape=geometry.scaled(kind, gaussians.shape, scale)
    )
  deviations = geometry.deviations(kind, gaussians.shape)
  lists = tiles.bins(gaussians.xy, deviations, size, room)
  return picture(gaussians, lists, size, kind, how), lists

"""Gaussians as floats to the whole numbers of a file, in training and at its end.

Positions are taken to the middles of parts of pixels: the sharper a Gaussian, the finer
(`integer.fine_bits`). Shapes and colours have uniform steps, or are sums of entries of
codebooks, in whole steps (`codebooks`). Gradients pass straight through (GaussianImage,
section 3.3, of vectors; `quantize.straight_through`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.quantize.ops import residual
from codax.quantize.ops.straight_through import straight_through
from codax.splat import geometry
from codax.splat.format import integer, positions, stream, vectors
from codax.splat.render import Gaussians

# Y, Cb, Cr to R, G, B (BT.601, full range), as `integer.to_rgb` has it.
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
FROM_RGB = np.linalg.inv(TO_RGB.astype(np.float64)).astype(np.float32)


# A recipe's steps are for mean squared errors of this, 32 dB, and more.
USUAL = 10**-3.2
_FINER = 6  # half octaves at most


def to_luma(pixels: np.ndarray) -> np.ndarray:
  """Pixels [..., C] of 0 to 1 to luma and chromas (grey ones as they are)."""
  return pixels @ FROM_RGB.T if pixels.shape[-1] == 3 else pixels


def to_pixels(colours: jax.Array) -> jax.Array:
  """Inverse of `to_luma`."""
  return colours @ TO_RGB.T if colours.shape[-1] == 3 else colours


def squares(difference: jax.Array) -> jax.Array:
  """What a difference of colours adds to the sum of squared errors of the pixels.

  Args:
    difference: [..., C, n], of luma and chromas.

  Returns:
    [..., n], sums over the channels.
  """
  if difference.shape[-2] != 3:
    return (difference**2).sum(-2)
  form = TO_RGB.T @ TO_RGB  # plane by plane: no product of tiny matrices
  planes = [difference[..., k, :] for k in range(3)]
  return sum(
    float(form[i, j]) * planes[i] * planes[j] for i in range(3) for j in range(3)
  )


def steps_for(kind: str, steps: integer.Steps, mse: float) -> integer.Steps:
  """Steps that suit a picture: where it is met well, rounding must not spoil it.

  (To make steps finer from 26 dB on costs bits: 0.1 dB at 29 dB and equal size.)

  Args:
    kind: of `geometry`.
    steps: that suit an error of `USUAL`.
    mse: mean squared error before anything is rounded, in levels of 0 to 1.

  Returns:
    The steps times the root of mse / USUAL, to half octaves, but not larger; positions
    likewise.
  """
  halves = round(math.log2(max(mse, 1e-9) / USUAL))
  halves = min(max(halves, -_FINER), 0)

  def scaled(name: str, value: int) -> int:
    low, high = stream.STEP_RANGES[name]
    if name == 'fine':
      return min(max(value - halves, low), high)
    value = value * 2 ** (halves / 2)
    if name == 'third' and kind == 'rotation':
      value = 2 ** round(math.log2(value))  # parts of a circle
    return min(max(round(value), low), high)

  return integer.Steps(*(scaled(*item) for item in steps._asdict().items()))


class Units(NamedTuple):
  """Steps as programs take them: one program serves pictures of different steps.

  Attributes:
    shape: float32 [3], a step of each number of `geometry`.
    colour: float32 [C], with levels 0 to 1.
    fine: float32 (), `integer.Steps.fine`.
  """

  shape: jax.Array
  colour: jax.Array
  fine: jax.Array


def units(kind: str, steps: integer.Steps, channels: int) -> Units:
  """The units of steps, as NumPy arrays."""
  log = math.log(2) * steps.log / integer.LOG_STEPS
  third = steps.third / integer.RATIO_STEPS
  if kind == 'rotation':
    third = math.pi * steps.third / 2**integer.ANGLE_BITS
  shape = np.array([log, log, third], np.float32)
  colour = np.array([steps.luma, steps.chroma, steps.chroma][:channels], np.float32)
  return Units(shape, colour / (255 * integer.COLOUR_STEPS), np.float32(steps.fine))


def in_steps(each: Units, gaussians: Gaussians):
  """Shapes [N, 3] and colours [N, C] in units of the steps."""
  return gaussians.shape / each.shape[None], gaussians.colour / each.colour[None]


def _rounded(x: jax.Array, step: jax.Array, books) -> jax.Array:
  """To whole steps, or to entries of codebooks."""
  x_steps = jax.lax.stop_gradient(x) / step[None]
  whole = jnp.round(x_steps) if books is None else residual.nearest(x_steps, books)[0]
  return straight_through(x, whole * step[None])


def fine_digits(kind: str, fine: jax.Array, shape: jax.Array) -> jax.Array:
  """How many bits of a pixel centres have, before it is rounded up and within 0 and
  MAX_FINE: float [N, 2], across and down (`integer.fine_bits`)."""
  exact = geometry.precision(kind, shape)
  sharp = jnp.stack([exact.xx, exact.yy], -1) * (0.5 / math.log(2))
  return (jnp.log2(sharp) + fine - 4) / 2


def quantised(kind: str, each: Units, gaussians: Gaussians) -> Gaussians:
  """The Gaussians of the file, straight through."""
  books = gaussians.books or (None, None)
  shape = _rounded(gaussians.shape, each.shape, books[0])
  digits = jnp.ceil(fine_digits(kind, each.fine, jax.lax.stop_gradient(shape)))
  parts = jnp.exp2(jnp.clip(digits, 0, integer.MAX_FINE))
  xy = straight_through(gaussians.xy, (jnp.floor(gaussians.xy * parts) + 0.5) / parts)
  colour = _rounded(gaussians.colour, each.colour, books[1])
  return gaussians._replace(xy=xy, shape=shape, colour=colour)


def in_order(gaussians: Gaussians, size: tuple) -> np.ndarray:
  """Indices of the Gaussians inside the picture, in the order in which they are coded.

  Args:
    gaussians: as NumPy arrays.
    size: (H, W, C).
  """
  xy = np.asarray(gaussians.xy, np.float64)
  inside = np.flatnonzero(np.all((xy >= 0) & (xy < (size[1], size[0])), axis=1))
  cells = np.floor(xy[inside]).astype(np.int64)
  return inside[positions.order(cells, size[:2])]


def committed(kind: str, each: Units, gaussians: Gaussians, share: float) -> Gaussians:
  """Shapes and colours nearer, by a share of the way, to what the file has.

  Where in its cell it is, a Gaussian does not feel: it would wander, and jump (the
  commitment of VQ-VAE, van den Oord et al. 2017, here apart from Adam, as weight decay
  is in AdamW).
  """
  near = quantised(kind, each, gaussians)
  part = lambda x, value: x + share * (value - x)
  return gaussians._replace(
    shape=part(gaussians.shape, near.shape), colour=part(gaussians.colour, near.colour)
  )


def _turned(shape: np.ndarray, third: int) -> np.ndarray:
  """Shapes [N, 3] of 'rotation' in steps, angles that no code reaches less half turns.

  Training turns Gaussians as far as it likes, and codes clip.
  """
  half, angle = (1 << integer.ANGLE_BITS) / third, shape[:, 2]
  far = np.abs(np.round(angle)) > stream.MAX_CODE
  angle = np.where(far, angle - half * np.round(angle / half), angle)
  return np.concatenate([shape[:, :2], angle[:, None]], 1)


def to_integers(
  recipe, gaussians: Gaussians, size: tuple, layer: np.ndarray | None = None
) -> integer.Picture:
  """What a file holds, in the order in which it is coded.

  Args:
    recipe: its kind, its way to render and its steps of quantisation count.
    gaussians: as NumPy arrays; those with centres outside the picture are left out.
    size: (H, W, C).
    layer: int64 [S], of each Gaussian; or None for a file without layers.
  """
  by, steps, books = in_order(gaussians, size), recipe.steps, gaussians.books
  xy = np.asarray(gaussians.xy, np.float64)[by]
  cells, coded = np.floor(xy).astype(np.int64), None
  parts = in_steps(units(recipe.kind, steps, size[2]), gaussians)
  parts = [np.asarray(x, np.float64)[by] for x in parts]
  if recipe.kind == 'rotation':
    parts[0] = _turned(parts[0], steps.third)
    if books is not None:
      (first, *more), colours = books
      books = (_turned(np.asarray(first), steps.third), *more), colours
  if books is None:
    most = stream.MAX_CODE
    shape, colour = (np.clip(np.round(x).astype(int), -most, most) for x in parts)
  else:
    pairs = zip(books, parts, strict=True)
    coded = tuple(vectors.assigned(books, x) for books, x in pairs)
    shape, colour = (group.codes for group in coded)
  bits = integer.fine_bits(integer.whiten(recipe.kind, steps, shape), steps.fine)
  parts = 1 << bits
  fine = np.clip(np.floor((xy - cells) * parts).astype(np.int64), 0, parts - 1)
  base = np.clip(np.round(np.asarray(to_pixels(gaussians.base)) * 255), 0, 255)
  return integer.Picture(
    size, recipe.kind, recipe.how, steps, base.astype(np.uint8), cells, fine, shape,
    colour, coded, None if layer is None else layer[by],
  )  # fmt: skip

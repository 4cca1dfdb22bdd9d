"""Gaussians as floats to the whole numbers of a file, in training and at its end.

Positions move to the middles of parts of pixels: the sharper a Gaussian, the finer
(`integer.count_fine_bits`). Shapes and colors have uniform steps, or are sums of
entries of codebooks, in whole steps (`codebooks`). Gradients pass straight through
(GaussianImage, section 3.3, of vectors; `quantize.straight_through`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.quantize.ops import residual
from codax.quantize.ops.straight_through import straight_through
from codax.splat import geometry
from codax.splat.format import integer, lookup, positions, stream, vectors
from codax.splat.render import Gaussians

# Y, Cb, Cr to R, G, B (BT.601, full range), as `integer.to_rgb` has it.
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
FROM_RGB = np.linalg.inv(TO_RGB.astype(np.float64)).astype(np.float32)


# Quantization steps of a recipe are for this mean squared error, 32 dB, and more.
REFERENCE_MSE = 10**-3.2
_FINER = 6  # half octaves at most


def to_ycbcr(pixels: np.ndarray) -> np.ndarray:
  """Converts pixels [..., C] to luma and chromas; gray ones stay as they are."""
  return pixels @ FROM_RGB.T if pixels.shape[-1] == 3 else pixels


def to_pixels(colors: jax.Array) -> jax.Array:
  """Inverts `to_ycbcr`."""
  return colors @ TO_RGB.T if colors.shape[-1] == 3 else colors


def pixel_squares(difference: jax.Array) -> jax.Array:
  """Returns the squared error of pixels from a difference of luma and chromas.

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


def adapt_steps(covariance: str, q_steps: integer.QSteps, mse: float) -> integer.QSteps:
  """Returns finer quantization steps for an image that is fitted well.

  Where an image is met well, rounding must not spoil it. (Finer steps from 26 dB on
  cost bits: 0.1 dB at 29 dB and equal size.)

  Args:
    covariance: parametrization, one of `geometry.COVARIANCES`.
    q_steps: steps for an error of `REFERENCE_MSE`.
    mse: mean squared error before anything is rounded, in levels of 0 to 1.

  Returns:
    The steps times the root of mse / REFERENCE_MSE, to half octaves, but not larger;
    positions likewise.
  """
  halves = round(math.log2(max(mse, 1e-9) / REFERENCE_MSE))
  halves = min(max(halves, -_FINER), 0)

  def scaled(name: str, value: int) -> int:
    low, high = stream.Q_STEP_RANGES[name]
    if name == 'fine':
      return min(max(value - halves, low), high)
    value = value * 2 ** (halves / 2)
    if name == 'third' and covariance == 'rotation':
      value = 2 ** round(math.log2(value))  # parts of a circle
    return min(max(round(value), low), high)

  return integer.QSteps(*(scaled(*item) for item in q_steps._asdict().items()))


class Units(NamedTuple):
  """Quantization steps as arrays: one program serves images of different steps.

  Attributes:
    shape: float32 [3], a step of each number of `geometry`.
    color: float32 [C], with levels 0 to 1.
    fine: float32 (), `integer.QSteps.fine`.
  """

  shape: jax.Array
  color: jax.Array
  fine: jax.Array


def make_units(covariance: str, q_steps: integer.QSteps, channels: int) -> Units:
  """Converts quantization steps to NumPy arrays."""
  log = math.log(2) * q_steps.log / lookup.LOG_STEPS
  third = q_steps.third / integer.RATIO_STEPS
  if covariance == 'rotation':
    third = math.pi * q_steps.third / 2**lookup.ANGLE_BITS
  shape = np.array([log, log, third], np.float32)
  color = np.array(
    [q_steps.luma, q_steps.chroma, q_steps.chroma][:channels], np.float32
  )
  return Units(shape, color / (255 * integer.COLOR_STEPS), np.float32(q_steps.fine))


def to_steps(units: Units, gaussians: Gaussians):
  """Returns shapes [N, 3] and colors [N, C] in units of the steps."""
  return gaussians.shape / units.shape[None], gaussians.color / units.color[None]


def _round_to_steps(x: jax.Array, step: jax.Array, books) -> jax.Array:
  """Rounds to whole steps, or to entries of codebooks."""
  x_steps = jax.lax.stop_gradient(x) / step[None]
  whole = jnp.round(x_steps) if books is None else residual.nearest(x_steps, books)[0]
  return straight_through(x, whole * step[None])


def count_fine_digits(covariance: str, fine: jax.Array, shape: jax.Array) -> jax.Array:
  """Returns the number of bits of a pixel that centers have, before rounding up.

  Args:
    covariance: parametrization, one of `geometry.COVARIANCES`.
    fine: `integer.QSteps.fine`.
    shape: [N, 3].

  Returns:
    float [N, 2], across and down, not yet within 0 and MAX_FINE
    (`integer.count_fine_bits`).
  """
  exact = geometry.compute_precision(covariance, shape)
  sharp = jnp.stack([exact.xx, exact.yy], -1) * (0.5 / math.log(2))
  return (jnp.log2(sharp) + fine - 4) / 2


def quantize(covariance: str, units: Units, gaussians: Gaussians) -> Gaussians:
  """Quantizes Gaussians to those of the file, straight through."""
  books = gaussians.books or (None, None)
  shape = _round_to_steps(gaussians.shape, units.shape, books[0])
  digits = jnp.ceil(
    count_fine_digits(covariance, units.fine, jax.lax.stop_gradient(shape))
  )
  parts = jnp.exp2(jnp.clip(digits, 0, integer.MAX_FINE))
  xy = straight_through(gaussians.xy, (jnp.floor(gaussians.xy * parts) + 0.5) / parts)
  color = _round_to_steps(gaussians.color, units.color, books[1])
  return gaussians._replace(xy=xy, shape=shape, color=color)


# The program of `quantize`, between steps.
run_quantize = jit_by_shape(static=('covariance',), kept=KEPT_PADDED)(quantize)


def sort_for_coding(gaussians: Gaussians, size: tuple) -> np.ndarray:
  """Returns indices of the Gaussians inside the image, in the order of coding.

  Args:
    gaussians: NumPy arrays.
    size: (H, W, C).
  """
  xy = np.asarray(gaussians.xy, np.float64)
  inside = np.flatnonzero(np.all((xy >= 0) & (xy < (size[1], size[0])), axis=1))
  cells = np.floor(xy[inside]).astype(np.int64)
  return inside[positions.order(cells, size[:2])]


def commit(
  covariance: str, units: Units, gaussians: Gaussians, share: float
) -> Gaussians:
  """Moves shapes and colors by a share of the way to their quantized values.

  No gradient tells a Gaussian its place in its cell: it would wander, and jump (the
  commitment of VQ-VAE, van den Oord et al. 2017, here apart from Adam, as weight decay
  is in AdamW).
  """
  near = quantize(covariance, units, gaussians)
  part = lambda x, value: x + share * (value - x)
  return gaussians._replace(
    shape=part(gaussians.shape, near.shape), color=part(gaussians.color, near.color)
  )


def _wrap_angles(shape: np.ndarray, third: int) -> np.ndarray:
  """Takes half turns off the angles that no code reaches.

  Training turns Gaussians without limit, and codes clip.

  Args:
    shape: [N, 3] of 'rotation', in steps.
    third: step of angles, see `integer.QSteps`.
  """
  half, angle = (1 << lookup.ANGLE_BITS) / third, shape[:, 2]
  far = np.abs(np.round(angle)) > stream.MAX_CODE
  angle = np.where(far, angle - half * np.round(angle / half), angle)
  return np.concatenate([shape[:, :2], angle[:, None]], 1)


def to_payload(
  recipe, gaussians: Gaussians, size: tuple, layer: np.ndarray | None = None
) -> integer.Payload:
  """Returns the content of a file, in the order of coding.

  Args:
    recipe: settings; only covariance, blend and quantization steps are read.
    gaussians: NumPy arrays; those with centers outside the image are left out.
    size: (H, W, C).
    layer: int64 [S], each slot's layer; or None for a file without layers.
  """
  by, q_steps, books = sort_for_coding(gaussians, size), recipe.q_steps, gaussians.books
  xy = np.asarray(gaussians.xy, np.float64)[by]
  cells, coded = np.floor(xy).astype(np.int64), None
  parts = to_steps(make_units(recipe.covariance, q_steps, size[2]), gaussians)
  parts = [np.asarray(x, np.float64)[by] for x in parts]
  if recipe.covariance == 'rotation':
    parts[0] = _wrap_angles(parts[0], q_steps.third)
    if books is not None:
      (first, *more), colors = books
      books = (_wrap_angles(np.asarray(first), q_steps.third), *more), colors
  if books is None:
    most = stream.MAX_CODE
    shape, color = (np.clip(np.round(x).astype(int), -most, most) for x in parts)
  else:
    pairs = zip(books, parts, strict=True)
    coded = tuple(vectors.assign_entries(books, x) for books, x in pairs)
    shape, color = (group.codes for group in coded)
  bits = integer.count_fine_bits(
    integer.whiten(recipe.covariance, q_steps, shape), q_steps.fine
  )
  parts = 1 << bits
  fine = np.clip(np.floor((xy - cells) * parts).astype(np.int64), 0, parts - 1)
  base = np.clip(np.round(np.asarray(to_pixels(gaussians.base)) * 255), 0, 255)
  return integer.Payload(
    size, recipe.covariance, recipe.blend, q_steps, base.astype(np.uint8), cells, fine,
    shape, color, coded, None if layer is None else layer[by],
  )  # fmt: skip

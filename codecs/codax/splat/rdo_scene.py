"""An image of integer Gaussians, one of which may change: `format.integer`, by boxes.

Sums of weighted colors and of weights of every pixel are kept, exactly as the decoder
has them, and beside them the unrounded pixels, from which changes of the squared error
are estimated for many moves of a Gaussian at once.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from codax.splat.format import integer
from codax.splat.format.lookup import OCTAVES, WHITE, weight_table

_CHUNK = 1 << 16  # pixels of moves at a time: about what a cache holds
_NEAR = 12 * math.log(2)  # estimates see pixels of weights above 2**-12


class Scene(NamedTuple):
  """State of an image; its arrays change in place.

  Attributes:
    payload: content of the file, with arrays of its own.
    image: int16 [C, H, W], the original.
    total: float64 [C + 1, H, W], whole: sums of weighted colors and of weights.
    levels: int16 [C, H, W], decoded pixels.
    pixels: float32 [C, H, W], before they are rounded and clipped.
  """

  payload: integer.Payload
  image: np.ndarray
  total: np.ndarray
  levels: np.ndarray
  pixels: np.ndarray

  @property
  def squared_error(self) -> int:
    """Squared error of the decoded image, summed over pixels and channels."""
    return int(((self.levels - self.image).astype(np.int64) ** 2).sum())


class Box(NamedTuple):
  """Pixels: columns left to right - 1, rows top to bottom - 1."""

  left: int
  top: int
  right: int
  bottom: int

  @property
  def place(self) -> tuple:
    """Index of the pixels in [..., H, W]."""
    return ..., slice(self.top, self.bottom), slice(self.left, self.right)

  @property
  def area(self) -> int:
    """Number of pixels."""
    return max(self.right - self.left, 0) * max(self.bottom - self.top, 0)


class Change(NamedTuple):
  """Pixels of a box after a move.

  Attributes:
    box: the box.
    total, levels: see `Scene`, of the box.
    squared_error: change of the squared error.
  """

  box: Box
  total: np.ndarray
  levels: np.ndarray
  squared_error: int


class Estimate(NamedTuple):
  """Squared errors of K moves, to second order in the color; rounding is left out.

  Attributes:
    change: float64 [K], with the color as it is.
    slope: float64 [K, C], derivative with respect to the color in levels, halved.
    curvature: float64 [K]: a change d of the color adds 2 slope d + curvature |d|^2.
    deletion: change without the Gaussian.
  """

  change: np.ndarray
  slope: np.ndarray
  curvature: np.ndarray
  deletion: float


def copy_codes(payload: integer.Payload) -> integer.Payload:
  """Returns a payload with arrays of its own, which may change in place."""
  return integer.take(payload, np.arange(len(payload.cells)))


def make_scene(payload: integer.Payload, image: np.ndarray) -> Scene:
  """Renders a payload of scalars; its arrays are copied.

  Args:
    payload: content of the file.
    image: uint8 [H, W, C], the original.
  """
  payload = copy_codes(payload)
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  where = integer.compute_centers(payload, white)
  values = _to_values(payload, payload.color)
  total = np.zeros((image.shape[2] + 1, *image.shape[:2]))
  for one in range(len(white)):
    box = find_box(white[one, None], where[one, None], payload.size)
    if box.area:
      weights = weigh(white[one, None], where[one, None], box)[0]
      total[box.place] += values[one][:, None, None] * weights
  levels = integer.to_levels(payload.blend, payload.base, total.copy())
  target = image.transpose(2, 0, 1).astype(np.int16)
  scene = Scene(
    payload, target, total, levels.astype(np.int16),
    np.empty(total[1:].shape, np.float32),
  )  # fmt: skip
  scene.pixels[:] = _to_unrounded(payload, total)
  return scene


def _to_values(payload: integer.Payload, color: np.ndarray) -> np.ndarray:
  """Returns colors in 64ths of a level and a 1, float64 [N, C + 1]."""
  values = integer.to_rgb(color, payload.q_steps)
  return np.append(values, np.ones_like(values[:, :1]), 1).astype(np.float64)


def _to_unrounded(payload: integer.Payload, total: np.ndarray) -> np.ndarray:
  """Returns pixels [C, ...] that are neither rounded nor clipped."""
  base = payload.base.astype(np.float64).reshape(-1, *[1] * (total.ndim - 1))
  if payload.blend == 'normalized':
    below = total[-1] + integer.FLOOR
    return (total[:-1] / 64 + integer.FLOOR * base) / below
  return base + total[:-1] / (64 * integer.ONE)


def find_box(white: np.ndarray, where: np.ndarray, size: tuple[int, ...]) -> Box:
  """Finds the pixels in which at least one of these Gaussians has a weight.

  Args:
    white: int64 [K, 2, 2], of `integer.whiten`.
    where: int64 [K, 2], centers in 64ths of a pixel.
    size: (H, W, C).
  """
  reach = integer.compute_reaches(white)
  most = size[1], size[0]
  low = np.clip((where // 64 - reach).min(0), 0, most)
  high = np.clip((where // 64 + reach + 1).max(0), 0, most)
  return Box(*low.tolist(), *high.tolist())


def weigh(white: np.ndarray, where: np.ndarray, box: Box) -> np.ndarray:
  """Computes weights of K Gaussians, as the decoder does: int32 [K, h, w]."""
  square = np.zeros((len(white), box.bottom - box.top, box.right - box.left), np.int32)
  ends = (box.left, box.right), (box.top, box.bottom)
  offsets = [np.arange(*ends[axis]) * 64 + 32 - where[:, axis, None] for axis in (0, 1)]
  drop = WHITE + 6 - integer.UNIT
  for row in (0, 1):
    along = (offsets[axis] * white[:, row, axis, None] >> drop for axis in (0, 1))
    x, y = (np.clip(v, -integer.LARGE, integer.LARGE).astype(np.int32) for v in along)
    both = y[:, :, None] + x[:, None]
    np.clip(both, -integer.FAR, integer.FAR, out=both)
    both *= both
    square += both
  square >>= 2 * integer.UNIT - 10
  return _whole_weights().take(square, mode='clip')


@functools.cache
def _whole_weights() -> np.ndarray:
  """Returns the decoder's table as int32."""
  return weight_table().astype(np.int32)


def estimate(scene: Scene, one: int, white, where) -> Estimate | None:
  """Estimates squared errors of moves of a Gaussian's shape and center.

  Args:
    scene: the image.
    one: index of the Gaussian.
    white, where: matrices and centers of the moves, see `find_box`; the first is the
      Gaussian as it is.

  Returns:
    None of a Gaussian without pixels.
  """
  payload = scene.payload
  near = _find_pixels(white[0], where[0], payload.size)
  if near is None:
    return None
  rows, columns, basis = near
  pixels, is_mean = scene.pixels[:, rows, columns], payload.blend == 'normalized'
  rest = pixels - scene.image[:, rows, columns]
  color = (_to_values(payload, payload.color[one, None])[0, :-1, None] / 64).astype(
    np.float32
  )
  below = np.full(len(rows), integer.ONE, np.float32)
  if is_mean:
    below = (scene.total[-1, rows, columns] + integer.FLOOR).astype(np.float32)
  to = color - pixels if is_mean else np.broadcast_to(color, pixels.shape)
  linear, square = 2 * (rest * to).sum(0), (to * to).sum(0)
  powers = _to_powers(white, where - where[0])
  old = _weigh_roughly(powers[:1], basis)[0]
  found, size = [], max(1, _CHUNK // len(rows))
  for first in range(0, len(powers), size):
    weight = _weigh_roughly(powers[first : first + size], basis)
    change = weight - old
    share = np.reciprocal(below + change) if is_mean else 1 / below
    change *= share
    weight *= share
    slope = weight @ rest.T + (weight * change) @ to.T
    curvature = np.einsum('kp,kp->k', weight, weight)
    found.append((change @ linear + (change * change) @ square, slope, curvature))
  gone = -old / (np.maximum(below - old, 1) if is_mean else below)
  deletion = float(gone @ linear + (gone * gone) @ square)
  parts = [np.concatenate(x).astype(np.float64) for x in zip(*found, strict=True)]
  return Estimate(*parts, deletion)


def _find_pixels(white: np.ndarray, where: np.ndarray, size: tuple[int, ...]):
  """Finds the pixels near a Gaussian: those of its weight, and some around them.

  Returns:
    Rows and columns, int64 [P], and monomials of the offsets from the center, float32
    [6, P], see `_to_powers`; None where there is no pixel.
  """
  box = find_box(white[None] * 3 // 4, where[None], size)
  if not box.area:
    return None
  x = ((np.arange(box.left, box.right) * 64 + 32 - where[0]) / 64).astype(np.float32)
  y = ((np.arange(box.top, box.bottom) * 64 + 32 - where[1]) / 64).astype(np.float32)
  x, y = (v.ravel() for v in np.broadcast_arrays(x, y[:, None]))
  basis = np.stack([x * x, x * y, y * y, x, y, np.ones_like(x)])
  inside = np.flatnonzero(_to_powers(white[None], np.zeros((1, 2)))[0] @ basis > -_NEAR)
  if not len(inside):
    return None
  rows, columns = np.divmod(inside, box.right - box.left)
  return rows + box.top, columns + box.left, basis[:, inside]


def _to_powers(white: np.ndarray, shift: np.ndarray) -> np.ndarray:
  """Returns logarithms of weights as coefficients of x^2, xy, y^2, x, y and 1.

  Args:
    white: [K, 2, 2], of `integer.whiten`.
    shift: [K, 2], centers less the origin, in 64ths of a pixel.
  """
  w = white / (1 << WHITE)
  form = -math.log(2) * (w.transpose(0, 2, 1) @ w)
  center = shift / 64
  moved = (form @ center[..., None])[..., 0]
  ends = form[:, 0, 0], 2 * form[:, 0, 1], form[:, 1, 1], -2 * moved[:, 0]
  constant = (moved * center).sum(1)
  return np.stack([*ends, -2 * moved[:, 1], constant], 1).astype(np.float32)


def _weigh_roughly(powers: np.ndarray, basis: np.ndarray) -> np.ndarray:
  """Computes weights [K, P] as floats."""
  weight = powers @ basis
  np.exp(weight, out=weight)
  weight -= 2.0**-OCTAVES
  np.maximum(weight, 0, out=weight)
  weight *= integer.ONE
  return weight


def measure(
  scene: Scene, box: Box, old: np.ndarray, new: np.ndarray, before, after
) -> Change:
  """Measures a change of one Gaussian exactly.

  Args:
    scene: the image.
    box: pixels in which either has a weight.
    old, new: weights before and after, int32 [h, w]; 0 of what is not there.
    before, after: codes of the color, int64 [C].
  """
  payload, place = scene.payload, box.place
  values = _to_values(payload, np.stack([before, after]))[..., None, None]
  total = scene.total[place] + (values[1] * new - values[0] * old)
  levels = integer.to_levels(payload.blend, payload.base, total.copy())
  levels = levels.astype(np.int16)
  image = scene.image[place]
  squares = (levels - image).astype(np.int32) ** 2
  squares -= (scene.levels[place] - image).astype(np.int32) ** 2
  return Change(box, total, levels, int(squares.sum(dtype=np.int64)))


def apply(scene: Scene, change: Change) -> None:
  """Changes the image's pixels."""
  place = change.box.place
  scene.total[place] = change.total
  scene.levels[place] = change.levels
  scene.pixels[place] = _to_unrounded(scene.payload, change.total)

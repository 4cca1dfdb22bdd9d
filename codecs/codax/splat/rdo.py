"""Rate-distortion optimization of a file's codes: J = D + lambda R falls, move by move.

After a fit its Gaussians are whole numbers. Each of them in turn is offered moves: of
its shape, its position in its pixel and its color by one to three steps, the color
together with any of the others. D is the squared error of the decoded image, R the
length of the file by the tables of its coder, and a move is made if it lowers J with
both exact. Between two sweeps Gaussians whose absence lowers J are left out, and the
coder's models are fitted again. (Symbol-level rate-distortion optimized quantization,
as encoders of video have it: Sullivan, Wiegand 1998, for a coder with context.)
"""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from codax.splat import rdo_rate, rdo_scene
from codax.splat.format import container, integer
from codax.splat.rdo_scene import Scene

_OFFSETS = np.array([0, -3, -2, -1, 1, 2, 3])
_SETTLED = 2e-4  # a sweep that lowers J by a smaller share is the last one
_DELETED = 0.1  # most Gaussians, of those left, that are tried to leave out at once


def _list_moves() -> tuple[np.ndarray, np.ndarray]:
  """Lists moves of shapes, int64 [K, 3], and of positions, int64 [K, 2], in steps."""
  near = [m for m in itertools.product((0, -1, 1), repeat=3)]
  far = [m for axis in range(3) for m in np.eye(3, dtype=int)[axis] * [[-3], [3]]]
  shape = np.array([*near, *far], np.int64)
  steps = [s for axis in range(2) for s in np.eye(2, dtype=int)[axis] * [
    [-3], [-1], [1], [3]]]  # fmt: skip
  steps += [np.array(s) for s in itertools.product((-2, 2), repeat=2)]
  fine = np.array(steps, np.int64)
  return (
    np.concatenate([shape, np.zeros((len(fine), 3), np.int64)]),
    np.concatenate([np.zeros((len(shape), 2), np.int64), fine]),
  )


_SHAPE_MOVES, _FINE_MOVES = _list_moves()
# Places of the shapes' moves in _OFFSETS.
_SHAPE_PLACES = (_SHAPE_MOVES[..., None] == _OFFSETS).argmax(-1)


class Result(NamedTuple):
  """Outcome of an optimization.

  Attributes:
    payload: content of the new file, or the old one where none is better.
    facts: JSON-able: 'sweeps', 'moves', 'deleted', 'weight' (lambda, squared levels a
      bit), 'bytes' and 'squared_error' before and after, 'seconds'.
    stopped: reason for an early end, or None.
  """

  payload: integer.Payload
  facts: dict
  stopped: str | None


class _Cost(NamedTuple):
  """A file's distortion and rate.

  Attributes:
    squared_error: error of the decoded image, sum over pixels and channels.
    num_bytes: length of the file.
    bits: bits of its streams' parts, see `stream.Bits`.
  """

  squared_error: int
  num_bytes: int
  bits: object

  def weigh(self, weight: float) -> float:
    """Returns J with the rate of the whole file."""
    return self.squared_error + weight * 8 * self.num_bytes


def optimize(
  payload: integer.Payload,
  image: np.ndarray,
  sweeps: int,
  rate_weight: float,
  reason: Callable[[], str | None] = lambda: None,
) -> Result:
  """Optimizes the codes of a payload of scalars without layers.

  Args:
    payload: content of a file.
    image: uint8 [H, W, C], the original.
    sweeps: number of times that every Gaussian is visited, at most.
    rate_weight: weight w of the rate; lambda is w D / R of the payload, with which D +
      lambda R falls where log D + w log R does.
    reason: asked from time to time for a reason to stop.
  """
  begin, moves, done, stopped = time.monotonic(), 0, 0, None
  first = _measure_file(payload, image)
  weight = rate_weight * first.squared_error / (8 * first.num_bytes)
  best, least = payload, first
  scene = rdo_scene.make_scene(payload, image)
  for _ in range(sweeps):
    made, savings = _sweep(scene, weight, least.bits, reason)
    moves, done = moves + made, done + 1
    found = _measure_file(scene.payload, image)
    before = least.weigh(weight)
    if found.weigh(weight) < before:
      best, least = rdo_scene.copy_codes(scene.payload), found
    scene, best, least = _delete(scene, image, savings, weight, best, least)
    stopped = reason()
    if stopped or least.weigh(weight) >= (1 - _SETTLED) * before:
      break
  facts = {
    'sweeps': done, 'moves': moves, 'deleted': len(payload.cells) - len(best.cells),
    'weight': weight, 'bytes': [first.num_bytes, least.num_bytes],
    'squared_error': [first.squared_error, least.squared_error],
    'seconds': time.monotonic() - begin,
  }  # fmt: skip
  return Result(best, facts, stopped)


def _measure_file(payload: integer.Payload, image: np.ndarray) -> _Cost:
  """Measures the decoded file of a payload."""
  data, bits = container.pack(payload)
  error = integer.render(payload).astype(np.int32) - image
  return _Cost(int((error**2).sum(dtype=np.int64)), len(data), bits)


class _Moves(NamedTuple):
  """Moves of one Gaussian's shape and position.

  Attributes:
    shape: int64 [K, 3], codes; the first move is none.
    fine: int64 [K, 2], parts of the pixel.
    white, where: whitening matrices and centers, see `integer`.
    fine_bits: int64 [K], bits of positions.
    is_valid: bool [K].
  """

  shape: np.ndarray
  fine: np.ndarray
  white: np.ndarray
  where: np.ndarray
  fine_bits: np.ndarray
  is_valid: np.ndarray


def _make_moves(payload: integer.Payload, one: int) -> _Moves:
  """Makes the moves of a Gaussian; its center stays where a shape has other digits."""
  q_steps = payload.q_steps
  shape = payload.shape[one] + _SHAPE_MOVES
  white = integer.whiten(payload.covariance, q_steps, shape)
  bits = integer.count_fine_bits(white, q_steps.fine)
  inner = (2 * payload.fine[one] + 1 << 5) >> bits[0]  # in 64ths of a pixel
  fine = (inner >> 6 - bits) + _FINE_MOVES
  is_valid = ((fine >= 0) & (fine < 1 << bits)).all(1)
  where = payload.cells[one] * 64 + ((2 * fine + 1) << 5 >> bits)
  return _Moves(shape, fine, white, where, bits.sum(1), is_valid)


def _color_moves(channels: int) -> np.ndarray:
  """Returns places in _OFFSETS of all moves of a color, int64 [M, C]."""
  places = itertools.product(range(len(_OFFSETS)), repeat=channels)
  return np.array(list(places), np.int64)


class _Savings(NamedTuple):
  """Effects of leaving out each Gaussian.

  Attributes:
    error: float64 [N], estimated change of the squared error; inf where not known.
    bits: float64 [N], bits of its own codes and an average position.
  """

  error: np.ndarray
  bits: np.ndarray


def _sweep(scene: Scene, weight: float, bits, reason) -> tuple[int, _Savings]:
  """Offers every Gaussian its moves; returns how many were made, and `_Savings`."""
  payload = scene.payload
  count = len(payload.cells)
  links = rdo_rate.find_links(payload.cells)
  codes = rdo_rate.join_channels(payload)
  models = rdo_rate.fit_models(codes, payload.cells)
  colors, made = _color_moves(payload.color.shape[1]), 0
  savings = _Savings(np.full(count, np.inf), np.zeros(count))
  place_bits = bits.positions / count
  for one in range(count):
    if one % 64 == 0 and reason():
      break
    moves = _make_moves(payload, one)
    found = rdo_scene.estimate(scene, one, moves.white, moves.where)
    if found is None:
      continue
    rates, own = rdo_rate.compare_codes(links, models, codes, one, _OFFSETS)
    savings.error[one] = found.deletion
    savings.bits[one] = own.sum() + moves.fine_bits[0] + place_bits
    made += _choose(scene, one, moves, found, rates, colors, weight, codes)
  return made, savings


def _choose(
  scene: Scene, one, moves: _Moves, found, rates, colors, weight, codes
) -> bool:
  """Makes the move of a Gaussian that lowers J most, if one does."""
  payload = scene.payload
  shape_bits = rates[np.arange(3), _SHAPE_PLACES].sum(1)
  shape_bits = shape_bits + moves.fine_bits - moves.fine_bits[0]
  color_bits = rates[np.arange(3, len(rates)), colors].sum(1)
  changed = payload.color[one] + _OFFSETS[colors]
  rgb = integer.to_rgb(changed, payload.q_steps) / 64
  rgb = rgb - rgb[0]
  cost = (found.change + weight * shape_bits)[:, None] + weight * color_bits
  cost += 2 * found.slope @ rgb.T + found.curvature[:, None] * (rgb**2).sum(1)
  cost[~moves.is_valid] = np.inf
  k, m = np.unravel_index(np.argmin(cost), cost.shape)
  if k == m == 0 or cost[k, m] >= 0:
    return False
  white, where = moves.white[[0, k]], moves.where[[0, k]]
  box = rdo_scene.find_box(white, where, payload.size)
  weights = rdo_scene.weigh(white, where, box)
  change = rdo_scene.measure(scene, box, *weights, payload.color[one], changed[m])
  if change.squared_error + weight * (shape_bits[k] + color_bits[m]) >= 0:
    return False
  rdo_scene.apply(scene, change)
  payload.shape[one], payload.fine[one] = moves.shape[k], moves.fine[k]
  payload.color[one] = changed[m]
  codes[:3, one], codes[3:, one] = moves.shape[k], changed[m]
  return True


def _delete(scene: Scene, image, savings: _Savings, weight: float, best, least):
  """Leaves out Gaussians whose absence lowers J, many of them together.

  The order of coding changes with it, so that only the whole file tells the bits.

  Args:
    scene: the image.
    image: uint8 [H, W, C].
    savings: result of `_sweep`.
    weight: lambda.
    best, least: the best payload so far and its cost.

  Returns:
    The scene, the best payload and its cost.
  """
  payload, change = scene.payload, savings.error - weight * savings.bits
  order = np.argsort(change, kind='stable')
  order = order[change[order] < 0][: max(1, int(_DELETED * len(change)))]
  order = order[: len(change) - 1]  # a file has one at least
  if not len(order):
    return scene, best, least
  kept = np.ones(len(change), bool)
  for one in order:
    white = integer.whiten(payload.covariance, payload.q_steps, payload.shape[[one]])
    where = integer.compute_centers(integer.take(payload, [one]), white)
    box = rdo_scene.find_box(white, where, payload.size)
    old, color = rdo_scene.weigh(white, where, box)[0], payload.color[one]
    change = rdo_scene.measure(scene, box, old, 0 * old, color, color)
    # others that are gone by now may have made it needed
    if change.squared_error < weight * savings.bits[one]:
      rdo_scene.apply(scene, change)
      kept[one] = False
  fewer = integer.take(payload, kept)
  found = _measure_file(fewer, image)
  if found.weigh(weight) < least.weigh(weight):
    return scene._replace(payload=fewer), rdo_scene.copy_codes(fewer), found
  return rdo_scene.make_scene(payload, image), best, least

"""Contexts of shapes and colors: neighbors, classes, models.

Gaussians are coded in passes, each of which fills the gaps between those of the passes
before. A code is predicted by the nearest of these; the strength of their disagreement
is its class, and a model has a scale for every class (docs/format/splat.md). All
integers, but for the choice of a model.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.entropy import laplace, tables
from codax.splat.format.symbols import REACH

FIRST_PASS = 32  # approximate number of Gaussians of the first pass
NEAR, _WINDOW = 4, 8  # neighbors that predict; candidates on either side
# Least disagreement of the neighbors of each class, in 32nds of a step.
_SPREADS = np.array([8, 20, 40, 80, 160])
CLASSES = len(_SPREADS) + 2  # and one for Gaussians without neighbors
TRUSTS = 9  # number of weights of a prediction, 0 to 8 eighths
UNIT = 1 << laplace.MEAN_FRAC


class Model(NamedTuple):
  """Distribution of a channel's codes.

  Attributes:
    middle: prediction where nothing better is known.
    trust: eighths of the neighbors' prediction in place of the middle.
    levels: int [CLASSES], see `laplace`.
  """

  middle: int
  trust: int
  levels: np.ndarray


def find_first_stride(count: int) -> int:
  """Returns the stride of the Gaussians of the first pass: a power of two."""
  return 1 << max(count // FIRST_PASS, 1).bit_length() - 1


def split_passes(count: int) -> list[np.ndarray]:
  """Returns each pass's Gaussians: indices in the order of `positions.order`."""
  stride = find_first_stride(count)
  out = [np.arange(0, count, stride)]
  while stride > 1:
    out.append(np.arange(stride // 2, count, stride))
    stride //= 2
  return out


class Neighbors(NamedTuple):
  """Neighbors of each Gaussian of a pass.

  Attributes:
    index: int64 [n, NEAR].
    weight: int64 [n, NEAR], of the prediction.
  """

  index: np.ndarray
  weight: np.ndarray


def find_neighbors(cells: np.ndarray) -> list[Neighbors]:
  """Finds the nearest Gaussians of the passes before, for every pass but the first."""
  count, out = len(cells), []
  stride = find_first_stride(count)
  while stride > 1:
    here = np.arange(stride // 2, count, stride)
    beside = stride * np.arange(-_WINDOW, _WINDOW) + stride // 2
    index = here[:, None] + beside
    square = ((cells[np.clip(index, 0, count - 1)] - cells[here][:, None]) ** 2).sum(-1)
    # beyond the ends: as far away as can be
    square = np.where((index >= 0) & (index < count), square, 1 << 40)
    best = np.argsort(square, axis=1, kind='stable')[:, :NEAR]
    square = np.take_along_axis(square, best, 1)
    index = np.take_along_axis(index, best, 1)
    weight = np.where(square < 1 << 40, (1 << 20) // (square + 4), 0)
    weight = np.maximum(weight, (square < 1 << 40).astype(np.int64))
    out.append(Neighbors(np.clip(index, 0, count - 1), weight))
    stride //= 2
  return out


def predict(codes: np.ndarray, near: Neighbors) -> tuple[np.ndarray, np.ndarray]:
  """Returns the neighbors' mean and disagreement, int64 [n] in 32nds of a step."""
  values = codes[near.index] * UNIT
  total = near.weight.sum(1)
  mean = ((values * near.weight).sum(1) + total // 2) // total
  spread = (np.abs(values - mean[:, None]) * near.weight).sum(1) // total
  return mean, spread


def predict_in_classes(codes: np.ndarray, near: Neighbors, middle: int, trust: int):
  """Returns means in 32nds and classes of a pass: int64 [n] each."""
  mean, spread = predict(codes, near)
  return mix(mean, middle, trust), classify(spread)


def mix(mean: np.ndarray, middle: np.ndarray | int, trust: np.ndarray | int):
  """Mixes the neighbors' mean with the middle: int64, in 32nds of a step."""
  return middle * UNIT + ((mean - middle * UNIT) * trust + 4 >> 3)


def classify(spread: np.ndarray) -> np.ndarray:
  """Returns the class of each disagreement of neighbors, 1 to CLASSES - 1."""
  return np.searchsorted(_SPREADS, spread, side='right') + 1


def make_tables(model: Model, mean: np.ndarray, classes: np.ndarray):
  """Makes the tables of a pass.

  Returns:
    Whole parts of the predictions, int64 [n], and tables of the differences from them,
    see `laplace.freqs`.
  """
  whole = (mean + UNIT // 2) // UNIT
  shared = laplace.make(2 * REACH)
  part = mean - whole * UNIT
  return whole, laplace.freqs(shared, model.levels[classes], part, -REACH, REACH)


def join_passes(near: list[Neighbors]) -> Neighbors:
  """Joins the neighbors of all passes, in the order of coding."""
  none = np.zeros((0, NEAR), np.int64)
  index = np.concatenate([none, *(n.index for n in near)])
  return Neighbors(index, np.concatenate([none, *(n.weight for n in near)]))


class ModelFit(NamedTuple):
  """Result of `fit_model`.

  Attributes:
    model: the model of fewest bits for the channel.
    bits: their number.
    classes: int64 [N], in the order of coding.
  """

  model: Model
  bits: float
  classes: np.ndarray


def fit_model(codes: np.ndarray, around: Neighbors) -> ModelFit:
  """Fits the model of a channel that takes the fewest bits.

  Args:
    codes: int64 [N].
    around: result of `join_passes`.
  """
  middle = int(np.sort(codes)[len(codes) // 2])
  coded = codes[np.concatenate(split_passes(len(codes)))]
  first = len(codes) - len(around.index)
  near, spread = predict(codes, around)
  classes = np.append(np.zeros(first, np.int64), classify(spread))
  best, lowest = None, np.inf
  for trust in (0, 3, 5, 6, 7, 8):
    mean = np.append(np.full(first, middle * UNIT), mix(near, middle, trust))
    lengths = _sum_code_lengths(coded, mean, classes)
    total = float(lengths.min(1).sum())
    if total < lowest:
      best, lowest = Model(middle, trust, lengths.argmin(1)), total
  return ModelFit(best, lowest, classes)


def _code_lengths(distance: np.ndarray) -> np.ndarray:
  """Returns code lengths under every level, by the density: float64 [n, LEVELS].

  Args:
    distance: float [n], codes' distances from their means.
  """
  level = np.arange(laplace.LEVELS)
  scale = 2.0 ** (laplace.MIN_LOG2_SCALE + level / laplace.SCALE_STEPS)
  near = distance[:, None] - 0.5
  left, right = np.exp(-np.abs(near) / scale), np.exp(-(near + 1) / scale)
  # the mass of the unit interval: what two tails leave, or one tail less another
  mass = np.where(near < 0, 1 - 0.5 * (left + right), 0.5 * (left - right))
  return -np.log2(np.maximum(mass, 2.0**-tables.PRECISION))


_COMMON = 64  # steps: most codes are nearer


@functools.cache
def _common_code_lengths() -> np.ndarray:
  """Returns `_code_lengths` of the distances below `_COMMON`, in 32nds of a step."""
  return _code_lengths(np.arange(_COMMON * UNIT) / UNIT)


def _sum_code_lengths(
  codes: np.ndarray, mean: np.ndarray, classes: np.ndarray
) -> np.ndarray:
  """Returns bits of each class's codes under every level: float64 [CLASSES, LEVELS]."""
  distance, span = np.abs(codes * UNIT - mean), _COMMON * UNIT
  is_common = distance < span
  counts = np.bincount((classes * span + distance)[is_common], minlength=CLASSES * span)
  counts = counts.reshape(CLASSES, span)
  # Few distances occur. Products of all of them are so large that threads share them,
  # which wait for each other for a hundred times as long where other programs run.
  occurring = np.flatnonzero(counts.any(0))
  out = counts[:, occurring] @ _common_code_lengths()[occurring]
  np.add.at(out, classes[~is_common], _code_lengths(distance[~is_common] / UNIT))
  return out

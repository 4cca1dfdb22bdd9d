"""What shapes and colours of Gaussians are coded with: neighbours, classes, models.

Gaussians are coded in passes, each of which fills the gaps between those of the passes
before. A code is predicted by the nearest of these; how much they disagree is its
class, and a model has a scale for every class (docs/format/splat.md). All integers, but
for the choice of a model.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.entropy import laplace, tables
from codax.splat.format.symbols import REACH

FIRST_PASS = 32  # Gaussians of the first pass, about
NEAR, _WINDOW = 4, 8  # neighbours that predict; looked for on either side
# Disagreement of the neighbours, in 32nds of a step, that begins a class.
_SPREADS = np.array([8, 20, 40, 80, 160])
CLASSES = len(_SPREADS) + 2  # and one for Gaussians without neighbours
TRUSTS = 9  # a prediction is taken by so many eighths, 0 to 8
CENTRE = 1 << laplace.MEAN_FRAC


class Model(NamedTuple):
  """What a channel is coded with.

  Attributes:
    middle: the prediction where nothing better is known.
    trust: eighths of the neighbours' prediction in place of the middle.
    levels: int [CLASSES], of `laplace`.
  """

  middle: int
  trust: int
  levels: np.ndarray


def first_stride(count: int) -> int:
  """The first pass has every so many-th of `count` Gaussians: a power of two."""
  return 1 << max(count // FIRST_PASS, 1).bit_length() - 1


def passes(count: int) -> list[np.ndarray]:
  """Which Gaussians are coded when: indices in the order of `positions.order`."""
  stride = first_stride(count)
  out = [np.arange(0, count, stride)]
  while stride > 1:
    out.append(np.arange(stride // 2, count, stride))
    stride //= 2
  return out


class Neighbours(NamedTuple):
  """Of each Gaussian of a pass: int64 [n, NEAR], indices and weights."""

  index: np.ndarray
  weight: np.ndarray


def neighbours(cells: np.ndarray) -> list[Neighbours]:
  """For every pass but the first the nearest Gaussians of the passes before."""
  count, out = len(cells), []
  stride = first_stride(count)
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
    out.append(Neighbours(np.clip(index, 0, count - 1), weight))
    stride //= 2
  return out


def predict(codes: np.ndarray, near: Neighbours) -> tuple[np.ndarray, np.ndarray]:
  """The neighbours' mean and how much they disagree, int64 [n] in 32nds of a step."""
  values = codes[near.index] * CENTRE
  total = near.weight.sum(1)
  mean = ((values * near.weight).sum(1) + total // 2) // total
  spread = (np.abs(values - mean[:, None]) * near.weight).sum(1) // total
  return mean, spread


def classified(codes: np.ndarray, near: Neighbours, middle: int, trust: int):
  """Means in 32nds and classes of a pass: int64 [n] each."""
  mean, spread = predict(codes, near)
  return _trusted(mean, middle, trust), _classes(spread)


def _trusted(mean: np.ndarray, middle: int, trust: int) -> np.ndarray:
  return middle * CENTRE + ((mean - middle * CENTRE) * trust + 4 >> 3)


def _classes(spread: np.ndarray) -> np.ndarray:
  return np.searchsorted(_SPREADS, spread, side='right') + 1


def differences(model: Model, mean: np.ndarray, kind: np.ndarray):
  """Whole parts of the predictions, and tables of the differences from them: int64
  [n], and as `laplace.freqs` returns them."""
  whole = (mean + CENTRE // 2) // CENTRE
  shared = laplace.make(2 * REACH)
  part = mean - whole * CENTRE
  return whole, laplace.freqs(shared, model.levels[kind], part, -REACH, REACH)


def joined(near: list[Neighbours]) -> Neighbours:
  """Those of all passes as one, in the order in which Gaussians are coded."""
  none = np.zeros((0, NEAR), np.int64)
  index = np.concatenate([none, *(n.index for n in near)])
  return Neighbours(index, np.concatenate([none, *(n.weight for n in near)]))


class Fit(NamedTuple):
  """What `fit` finds.

  Attributes:
    model: with which the channel takes the fewest bits.
    bits: these.
    kind: the classes, in the order in which Gaussians are coded, int64 [N].
  """

  model: Model
  bits: float
  kind: np.ndarray


def fit(codes: np.ndarray, around: Neighbours) -> Fit:
  """The best model of a channel.

  Args:
    codes: int64 [N].
    around: from `joined`.
  """
  middle = int(np.sort(codes)[len(codes) // 2])
  coded = codes[np.concatenate(passes(len(codes)))]
  first = len(codes) - len(around.index)
  near, spread = predict(codes, around)
  kind = np.append(np.zeros(first, np.int64), _classes(spread))
  best, least = None, np.inf
  for trust in (0, 3, 5, 6, 7, 8):
    mean = np.append(np.full(first, middle * CENTRE), _trusted(near, middle, trust))
    prices = _prices(coded, mean, kind)
    total = float(prices.min(1).sum())
    if total < least:
      best, least = Model(middle, trust, prices.argmin(1)), total
  return Fit(best, least, kind)


def _bits(distance: np.ndarray) -> np.ndarray:
  """Bits of codes so far from their means under every level, by the density alone:
  float64 [n, LEVELS]."""
  level = np.arange(laplace.LEVELS)
  scale = 2.0 ** (laplace.MIN_LOG2_SCALE + level / laplace.SCALE_STEPS)
  near = distance[:, None] - 0.5
  left, right = np.exp(-np.abs(near) / scale), np.exp(-(near + 1) / scale)
  # the mass of the unit interval: what two tails leave, or one tail less another
  mass = np.where(near < 0, 1 - 0.5 * (left + right), 0.5 * (left - right))
  return -np.log2(np.maximum(mass, 2.0**-tables.PRECISION))


_USUAL = 64  # steps: most codes are nearer


@functools.cache
def _usual_bits() -> np.ndarray:
  """`_bits` of the distances below `_USUAL`, in 32nds of a step."""
  return _bits(np.arange(_USUAL * CENTRE) / CENTRE)


def _prices(codes: np.ndarray, mean: np.ndarray, kind: np.ndarray) -> np.ndarray:
  """Bits of each class's codes under every level: float64 [CLASSES, LEVELS]."""
  distance, room = np.abs(codes * CENTRE - mean), _USUAL * CENTRE
  usual = distance < room
  counts = np.bincount((kind * room + distance)[usual], minlength=CLASSES * room)
  counts = counts.reshape(CLASSES, room)
  # Few distances occur. Products of all of them are so large that threads share them,
  # which wait for each other for a hundred times as long where other programs run.
  some = np.flatnonzero(counts.any(0))
  out = counts[:, some] @ _usual_bits()[some]
  np.add.at(out, kind[~usual], _bits(distance[~usual] / CENTRE))
  return out

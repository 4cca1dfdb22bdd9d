"""Code lengths of a file's shapes and colors, and how changes of a code change them.

A code has a length of its own, under its neighbors' prediction (`format.contexts`), and
is a neighbor itself: it moves the predictions and classes of Gaussians of later passes.
Lengths are those of the coder's own integer tables.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.entropy import laplace, tables
from codax.splat.format import contexts, integer
from codax.splat.format.symbols import MAX_CODE, REACH

_ESCAPE_BITS = 12  # of a difference of REACH or more, beside its symbol


class Links(NamedTuple):
  """Neighbors of every Gaussian, and the Gaussians that it is a neighbor of.

  Attributes:
    index: int64 [N, NEAR], neighbors; in the first pass all of weight 0.
    weight: int64 [N, NEAR], of the prediction.
    rows, slots: lists over Gaussians: those that one predicts, int64 [n], and its
      places among their neighbors, int64 [n].
  """

  index: np.ndarray
  weight: np.ndarray
  rows: list[np.ndarray]
  slots: list[np.ndarray]


class Models(NamedTuple):
  """Models of all channels, see `contexts.Model`.

  Attributes:
    middle, trust: int64 [channels].
    levels: int64 [channels, CLASSES].
  """

  middle: np.ndarray
  trust: np.ndarray
  levels: np.ndarray


def join_channels(payload: integer.Payload) -> np.ndarray:
  """Returns codes of shapes, then of colors: int64 [channels, N]."""
  return np.concatenate([payload.shape, payload.color], 1).T.copy()


def find_links(cells: np.ndarray) -> Links:
  """Finds who predicts whom.

  Args:
    cells: int64 [N, 2], in the order of coding.
  """
  count = len(cells)
  index = np.zeros((count, contexts.NEAR), np.int64)
  weight = np.zeros_like(index)
  passes = contexts.split_passes(count)[1:]
  for part, near in zip(passes, contexts.find_neighbors(cells), strict=True):
    wide = near.index.shape[1]
    index[part, :wide], weight[part, :wide] = near.index, near.weight
  rows, slots = np.nonzero(weight)
  parent = index[rows, slots]
  by = np.argsort(parent, kind='stable')
  ends = np.cumsum(np.bincount(parent, minlength=count))[:-1]
  return Links(index, weight, np.split(rows[by], ends), np.split(slots[by], ends))


def fit_models(codes: np.ndarray, cells: np.ndarray) -> Models:
  """Fits the models of all channels as the coder does.

  Args:
    codes: int64 [channels, N].
    cells: int64 [N, 2], in the order of coding.
  """
  around = contexts.join_passes(contexts.find_neighbors(cells))
  models = [contexts.fit_model(one, around).model for one in codes]
  return Models(*(np.array(x) for x in zip(*models, strict=True)))


@functools.cache
def _length_table() -> np.ndarray:
  """Returns bits of differences, float64 [LEVELS, UNIT, 2 * REACH + 1].

  By level, part of a step of the mean (from -UNIT / 2 on) and difference.
  """
  unit = contexts.UNIT
  part = np.tile(np.arange(unit) - unit // 2, laplace.LEVELS)
  level = np.repeat(np.arange(laplace.LEVELS), unit)
  freqs = laplace.freqs(laplace.make(2 * REACH), level, part, -REACH, REACH)
  bits = tables.PRECISION - np.log2(freqs)
  bits[:, [0, -1]] += _ESCAPE_BITS
  return bits.reshape(laplace.LEVELS, unit, -1)


def _measure(models: Models, codes, around, weight) -> np.ndarray:
  """Returns code lengths.

  Args:
    models: models of the channels.
    codes: int64 [channels, K, n].
    around: int64 [channels, K, n, NEAR], codes of neighbors.
    weight: int64 [n, NEAR].

  Returns:
    float64 [channels, K, n].
  """
  unit, total = contexts.UNIT, weight.sum(-1)
  known, whole_weight = total > 0, np.maximum(total, 1)
  values = around * unit
  mean = ((values * weight).sum(-1) + whole_weight // 2) // whole_weight
  spread = (np.abs(values - mean[..., None]) * weight).sum(-1) // whole_weight
  middle, trust = models.middle[:, None, None], models.trust[:, None, None]
  mean = np.where(known, contexts.mix(mean, middle, trust), middle * unit)
  classes = np.where(known, contexts.classify(spread), 0)
  level = models.levels[np.arange(len(codes))[:, None, None], classes]
  whole = (mean + unit // 2) // unit
  symbol = np.clip(codes - whole, -REACH, REACH) + REACH
  return _length_table()[level, mean - whole * unit + unit // 2, symbol]


def sum_bits(links: Links, models: Models, codes: np.ndarray) -> np.ndarray:
  """Returns the bits of each code, float64 [channels, N].

  Args:
    links: result of `find_links`.
    models: models of the channels.
    codes: int64 [channels, N].
  """
  around = codes[:, None, links.index]
  return _measure(models, codes[:, None], around, links.weight)[:, 0]


def compare_codes(
  links: Links, models: Models, codes: np.ndarray, one: int, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Compares codes of one Gaussian by the bits of its own codes and of others'.

  Channels do not depend on each other: bits of changes in several of them add up.

  Args:
    links: result of `find_links`.
    models: models of the channels.
    codes: int64 [channels, N].
    one: index of the Gaussian.
    offsets: int64 [K], changes of a code; the first is 0.

  Returns:
    Changes of the bits, float64 [channels, K], inf of codes that are out of range; and
    the bits of its own codes as they are, float64 [channels].
  """
  rows, slots = links.rows[one], links.slots[one]
  here = np.append(one, rows)
  own = codes[:, one, None] + offsets  # [channels, K]
  around = np.repeat(codes[:, None, links.index[here]], len(offsets), 1)
  around[:, :, np.arange(1, len(here)), slots] = own[:, :, None]
  coded = np.repeat(codes[:, None, here], len(offsets), 1)
  coded[:, :, 0] = own
  bits = _measure(models, coded, around, links.weight[here])
  change = bits.sum(-1)
  change -= change[:, :1].copy()
  return np.where(np.abs(own) > MAX_CODE, np.inf, change), bits[:, 0, 0]

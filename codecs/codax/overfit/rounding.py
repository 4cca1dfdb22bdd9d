"""Rate-distortion-optimal rounding of a vector of weights, all together.

The objective is a quadratic model of the loss (see `curvature`) plus the weighted bits
of the integers in the file. `babai_round` rounds one weight after the other and moves
those that are still free to compensate for it (the nearest plane of Babai 1986; for
networks Hassibi and Stork 1993, Frantar et al. 2023). `coordinate_descent` then changes
single integers as long as the objective falls. Both work on many choices of
quantization steps at once: arrays lead with an axis B of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codax.overfit.format import arch as archs
from codax.overfit.format import weights

_MOVES = np.array([-2, -1, 1, 2])
_PASSES = 12  # over all weights, at most
_FLOOR = 1e-3  # least curvature, relative to the mean


class Problem(NamedTuple):
  """An objective over integers q.

  With d = q * q_steps - at it is::

    gradient d + d hessian d / 2 + rate_weight * bits(q)

  Attributes:
    at: float64 [n], expansion point of the model.
    gradient: float64 [n].
    hessian: float64 [n, n], see `damp`.
    owner: int [n], number of the tensor that each weight belongs to.
    rate_weight: weight of a bit.
  """

  at: np.ndarray
  gradient: np.ndarray
  hessian: np.ndarray
  owner: np.ndarray
  rate_weight: float


def owners(listed: Sequence[archs.Tensor]) -> np.ndarray:
  """Lists the number of the tensor of each weight, int64 [n]."""
  return np.repeat(np.arange(len(listed)), [int(np.prod(t.shape)) for t in listed])


def damp(hessian: np.ndarray, share: float) -> np.ndarray:
  """Raises the diagonal of H by a share of itself, against errors of the model."""
  diagonal = np.diag(hessian)
  more = share * diagonal + _FLOOR * diagonal.mean() + 1e-30
  return hessian + np.diag(more)


def levels(q: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """Chooses the best level of each tensor, int64 [B, T], for integers q [B, n]."""
  count = owner[-1] + 1
  out = np.empty((len(q), count), np.int64)
  for t in range(count):
    out[:, t] = [weights.cost(row)[0] for row in q[:, owner == t]]
  return out


def bits(q: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """Computes the bits of integers q [B, n] in a file, float64 [B]."""
  count = owner[-1] + 1
  return np.array(
    [sum(weights.cost(row[owner == t])[1] for t in range(count)) for row in q]
  )


def _code_lengths(level: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Looks up the bits of single integers q [B, K] of tensors with levels [B]."""
  most = weights.MAX_TABULATED
  return weights.code_lengths()[level[:, None], np.clip(q, -most, most) + most]


def babai_round(problem: Problem, q_steps: np.ndarray, level: np.ndarray) -> np.ndarray:
  """Rounds one weight after the other, those of most curvature first.

  Args:
    problem: objective.
    q_steps: float64 [B, n], quantization step of each weight.
    level: int [B, T], levels of the tensors, which set the code lengths.

  Returns:
    int64 [B, n].
  """
  n = len(problem.at)
  order = np.argsort(-np.diag(problem.hessian), kind='stable')
  # H = W W' with W upper triangular, so that its inverse is F' F with F = 1 / W: a
  # weight that is rounded when all after it are free costs (distance / F_ii)**2 / 2.
  ordered = problem.hessian[np.ix_(order, order)]
  lower = np.linalg.cholesky(ordered[::-1, ::-1])
  factor = np.triu(np.linalg.inv(lower[::-1, ::-1]))
  minimum = problem.at - np.linalg.solve(problem.hessian, problem.gradient)
  # Where the gradient is not 0 the model's minimum is elsewhere than `at`.
  wanted = np.repeat(minimum[order][None], len(q_steps), 0)
  q = np.empty((len(q_steps), n), np.int64)
  for i, which in enumerate(order):
    step = q_steps[:, which, None]
    near = np.floor(wanted[:, i, None] / step) + np.array([0, 1])
    # a weight nearer to zero may have a shorter code
    options = np.concatenate([near, near - np.sign(near)], 1).astype(np.int64)
    distance = options * step - wanted[:, i, None]
    cost = 0.5 * (distance / factor[i, i]) ** 2
    cost += problem.rate_weight * _code_lengths(level[:, problem.owner[which]], options)
    best = np.argmin(cost, 1)[:, None]
    q[:, which] = np.take_along_axis(options, best, 1)[:, 0]
    error = np.take_along_axis(distance, best, 1) / factor[i, i]
    wanted[:, i:] += error * factor[i, i:]
  most = weights.MAX_WEIGHT
  return np.clip(q, -most, most)


def coordinate_descent(
  problem: Problem, q_steps: np.ndarray, q: np.ndarray
) -> np.ndarray:
  """Changes single integers, each to its best value, until none gains.

  Args:
    problem: objective.
    q_steps: float64 [B, n], quantization step of each weight.
    q: int64 [B, n], initial integers.

  Returns:
    int64 [B, n], nowhere worse than `q` by the model.
  """
  q = q.copy()
  slope = problem.gradient + (q * q_steps - problem.at) @ problem.hessian
  diagonal = np.diag(problem.hessian)
  most = weights.MAX_WEIGHT
  for _ in range(_PASSES):
    level = levels(q, problem.owner)
    changed = False
    for i in range(len(problem.at)):
      now = q[:, i, None]
      # to zero, and to neighbors
      options = np.concatenate([0 * now, now + _MOVES], 1).clip(-most, most)
      moved = (options - now) * q_steps[:, i, None]
      lengths = _code_lengths(
        level[:, problem.owner[i]], np.concatenate([now, options], 1)
      )
      cost = moved * (slope[:, i, None] + 0.5 * diagonal[i] * moved)
      cost += problem.rate_weight * (lengths[:, 1:] - lengths[:, :1])
      best = np.argmin(cost, 1)[:, None]
      gains = np.take_along_axis(cost, best, 1) < -1e-15
      if not gains.any():
        continue
      change = np.where(gains, np.take_along_axis(moved, best, 1), 0.0)
      q[:, i] = np.where(gains, np.take_along_axis(options, best, 1), now)[:, 0]
      slope += change * problem.hessian[i]
      changed = True
    if not changed:
      break
  return q


def evaluate(problem: Problem, q_steps: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Computes the objective of integers q [B, n], float64 [B]."""
  d = q * q_steps - problem.at
  quadratic = d @ problem.gradient + 0.5 * np.einsum('bi,bi->b', d @ problem.hessian, d)
  return quadratic + problem.rate_weight * bits(q, problem.owner)

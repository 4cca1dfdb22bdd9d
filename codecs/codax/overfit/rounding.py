"""Integers for a network's weights, chosen together: each knows what others did.

Minimised is a quadratic model of the loss (see `curvature`) plus the price of the bits
that the integers take in the file. `settle` rounds one weight after the other and moves
those that are still free so that they make up for it (the nearest plane of Babai 1986;
for networks Hassibi and Stork 1993, Frantar et al. 2023). `descend` then changes single
integers as long as that pays. Both work on many choices of steps at once: arrays lead
with an axis B of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codax.overfit.format import arch as archs
from codax.overfit.format import weights

_MOVES = np.array([-2, -1, 1, 2])
_PASSES = 12  # over all weights, at most
_FLOOR = 1e-3  # of curvature, relative to the mean: no direction is quite free


class Problem(NamedTuple):
  """What is minimised over integers q: with d = q * steps - at,

    gradient d + d hessian d / 2 + price * bits(q).

  Attributes:
    at: float64 [n], where the model stands.
    gradient: float64 [n].
    hessian: float64 [n, n], see `damped`.
    owner: int [n], the tensor that each weight belongs to.
    price: of a bit.
  """

  at: np.ndarray
  gradient: np.ndarray
  hessian: np.ndarray
  owner: np.ndarray
  price: float


def owners(listed: Sequence[archs.Tensor]) -> np.ndarray:
  """For every weight of the tensors in a row, the tensor's number; int64 [n]."""
  return np.repeat(np.arange(len(listed)), [int(np.prod(t.shape)) for t in listed])


def damped(hessian: np.ndarray, share: float) -> np.ndarray:
  """H that trusts itself less: its diagonal is raised by a share of itself."""
  diagonal = np.diag(hessian)
  more = share * diagonal + _FLOOR * diagonal.mean() + 1e-30
  return hessian + np.diag(more)


def levels(q: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """The best level of each tensor, int64 [B, T], for integers q [B, n]."""
  count = owner[-1] + 1
  out = np.empty((len(q), count), np.int64)
  for t in range(count):
    mine = q[:, owner == t]
    out[:, t] = [weights.cost(row)[0] for row in mine]
  return out


def bits(q: np.ndarray, owner: np.ndarray) -> np.ndarray:
  """What integers q [B, n] take in a file, float64 [B]."""
  count = owner[-1] + 1
  return np.array(
    [sum(weights.cost(row[owner == t])[1] for t in range(count)) for row in q]
  )


def _priced(level: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Bits of single integers q [B, K] of tensors with levels [B]."""
  most = weights.MAX_PRICED
  return weights.prices()[level[:, None], np.clip(q, -most, most) + most]


def settle(problem: Problem, steps: np.ndarray, level: np.ndarray) -> np.ndarray:
  """Rounds one weight after the other, those of most curvature first.

  Args:
    problem: what to minimise.
    steps: float64 [B, n], of each weight.
    level: int [B, T], the tensors' levels that prices are taken from.

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
  start = problem.at - np.linalg.solve(problem.hessian, problem.gradient)
  # Where the gradient is not 0 the model's minimum is elsewhere than `at`.
  wanted = np.repeat(start[order][None], len(steps), 0)
  q = np.empty((len(steps), n), np.int64)
  for i, which in enumerate(order):
    step = steps[:, which, None]
    near = np.floor(wanted[:, i, None] / step) + np.array([0, 1])
    # towards zero is what prices may want
    options = np.concatenate([near, near - np.sign(near)], 1).astype(np.int64)
    distance = options * step - wanted[:, i, None]
    cost = 0.5 * (distance / factor[i, i]) ** 2
    cost += problem.price * _priced(level[:, problem.owner[which]], options)
    best = np.argmin(cost, 1)[:, None]
    q[:, which] = np.take_along_axis(options, best, 1)[:, 0]
    error = np.take_along_axis(distance, best, 1) / factor[i, i]
    wanted[:, i:] += error * factor[i, i:]
  most = weights.MAX_WEIGHT
  return np.clip(q, -most, most)


def descend(problem: Problem, steps: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Changes single integers, each to what is best, until none gains.

  Args:
    problem: what to minimise.
    steps: float64 [B, n].
    q: int64 [B, n], where to start.

  Returns:
    int64 [B, n], nowhere worse than `q` by the model.
  """
  q = q.copy()
  slope = problem.gradient + (q * steps - problem.at) @ problem.hessian
  bend = np.diag(problem.hessian)
  most = weights.MAX_WEIGHT
  for _ in range(_PASSES):
    level = levels(q, problem.owner)
    changed = False
    for i in range(len(problem.at)):
      now = q[:, i, None]
      # to zero, and to neighbours
      options = np.concatenate([0 * now, now + _MOVES], 1).clip(-most, most)
      moved = (options - now) * steps[:, i, None]
      prices = _priced(level[:, problem.owner[i]], np.concatenate([now, options], 1))
      cost = moved * (slope[:, i, None] + 0.5 * bend[i] * moved)
      cost += problem.price * (prices[:, 1:] - prices[:, :1])
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


def model(problem: Problem, steps: np.ndarray, q: np.ndarray) -> np.ndarray:
  """What the model says of integers q [B, n], float64 [B]."""
  d = q * steps - problem.at
  quadratic = d @ problem.gradient + 0.5 * np.einsum('bi,bi->b', d @ problem.hessian, d)
  return quadratic + problem.price * bits(q, problem.owner)

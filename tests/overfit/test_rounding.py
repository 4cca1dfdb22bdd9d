"""Integers chosen together, against exhaustive search and the coder's own count."""

import itertools

import numpy as np
import pytest

from codax.overfit import rounding
from codax.overfit.format import arch as archs
from codax.overfit.format import weights


def problem(n=4, rate_weight=0.0, seed=0, owner=None):
  """Weights that hang together, and steps of 1/2."""
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(2 * n, n)) + 2 * rng.normal(size=(2 * n, 1))
  at = rng.normal(scale=1.5, size=n)
  owner = np.zeros(n, int) if owner is None else owner
  return rounding.Problem(at, rng.normal(size=n), root.T @ root, owner, rate_weight)


def chosen(p, steps):
  nearest = np.rint(p.at / steps).astype(np.int64)
  q = rounding.babai_round(p, steps, rounding.levels(nearest, p.owner))
  return nearest, q, rounding.coordinate_descent(p, steps, q)


def loss(p, steps, q):
  d = q * steps - p.at
  bits = sum(weights.cost(q[p.owner == t])[1] for t in range(p.owner[-1] + 1))
  return p.gradient @ d + 0.5 * d @ p.hessian @ d + p.rate_weight * bits


@pytest.mark.parametrize(('rate_weight', 'share'), [(0.0, 0.1), (0.1, 0.1), (1.0, 0.5)])
def test_rounding_is_near_the_best_of_all_integers(rate_weight, share):
  """Not always the best, but on the mean far nearer to it than plain rounding."""
  ours, plain = [], []
  around = np.array(list(itertools.product(range(-3, 4), repeat=3)))
  for seed in range(12):
    p = problem(3, rate_weight, seed)
    steps = np.full((1, 3), 0.5)
    nearest, _, q = chosen(p, steps)
    # the best lies around the model's minimum, not around `at`
    least = p.at - np.linalg.solve(p.hessian, p.gradient)
    every = [*(around + np.rint(least / 0.5).astype(int)), *around]
    best = min(loss(p, steps[0], one) for one in every)
    ours.append(loss(p, steps[0], q[0]) - best)
    plain.append(loss(p, steps[0], nearest[0]) - best)
  assert np.mean(ours) < share * np.mean(plain)


def test_rounding_without_rate_and_correlation_is_plain():
  rng = np.random.default_rng(0)
  at = rng.normal(size=30)
  hessian = np.diag(rng.uniform(1, 2, 30))
  p = rounding.Problem(at, np.zeros(30), hessian, np.zeros(30, int), 0.0)
  steps = np.full((2, 30), [[0.25], [0.125]])
  nearest, q, after = chosen(p, steps)
  np.testing.assert_array_equal(q, nearest)
  np.testing.assert_array_equal(after, nearest)


def test_coordinate_descent_ends_where_no_single_change_gains():
  p = problem(12, rate_weight=0.05, owner=np.repeat([0, 1], 6))
  steps = np.full((1, 12), 0.25)
  start = np.random.default_rng(1).integers(-9, 9, (1, 12))
  q = rounding.coordinate_descent(p, steps, start)
  assert loss(p, steps[0], q[0]) < loss(p, steps[0], start[0])
  level = rounding.levels(q, p.owner)[0]
  rate_weight = weights.code_lengths()[level[p.owner]]
  at_fixed_levels = lambda row: (
    loss(p._replace(rate_weight=0), steps[0], row)
    + p.rate_weight * rate_weight[np.arange(12), row + weights.MAX_TABULATED].sum()
  )
  here = at_fixed_levels(q[0])
  for i, move in itertools.product(range(12), (-2, -1, 1, 2)):
    other = q[0].copy()
    other[i] += move
    assert at_fixed_levels(other) >= here - 1e-12


def test_objective_is_the_quadratic_and_the_bits():
  p = problem(6, rate_weight=0.3, owner=np.array([0, 0, 1, 1, 1, 2]))
  steps = np.full((3, 6), 0.5)
  q = np.random.default_rng(0).integers(-40, 40, (3, 6))
  found = rounding.evaluate(p, steps, q)
  np.testing.assert_allclose(found, [loss(p, steps[0], row) for row in q])


@pytest.mark.parametrize('scale', [0.3, 3, 300])
def test_code_lengths_are_those_of_the_coder(scale):
  q = np.rint(np.random.default_rng(0).laplace(scale=scale, size=200)).astype(int)
  level, bits = weights.cost(q)
  found = weights.code_lengths()[level, q + weights.MAX_TABULATED].sum()
  assert found + np.log2(len(weights.code_lengths())) == pytest.approx(bits)


def test_owners_follow_the_tensors():
  listed = [archs.Tensor('entropy', 'w0', (2, 3), False)]
  listed.append(archs.Tensor('entropy', 'b0', (3,), True))
  np.testing.assert_array_equal(rounding.owners(listed), [0] * 6 + [1] * 3)

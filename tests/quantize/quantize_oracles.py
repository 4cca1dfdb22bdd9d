"""Float64 NumPy counterparts of the quantizers' arithmetic, written independently."""

import numpy as np


def distances(z, codebook):
  """[N, d], [K, d] to squared distances [N, K]."""
  z, codebook = np.asarray(z, np.float64), np.asarray(codebook, np.float64)
  return ((z[:, None] - codebook[None]) ** 2).sum(-1)


def log_sum_exp(a):
  top = a.max(-1, keepdims=True)
  return (top + np.log(np.exp(a - top).sum(-1, keepdims=True)))[..., 0]


def posterior(z, codebook, log_weights, beta):
  """(P [N, K], log sum_k exp(w_k - beta d) [N])."""
  scores = np.asarray(log_weights, np.float64) - beta * distances(z, codebook)
  log_z = log_sum_exp(scores)
  return np.exp(scores - log_z[:, None]), log_z


def free_energy(z, codebook, log_weights, beta):
  return -posterior(z, codebook, log_weights, beta)[1].mean() / beta


def assert_same_codes(found, cost, slack=1e-4):
  """`found` [N] minimize `cost` [N, K], ties (within `slack` of the spread) apart."""
  found = np.asarray(found)
  best = cost.min(-1)
  excess = cost[np.arange(len(found)), found] - best
  assert (excess <= slack * cost.std()).all()
  second = np.partition(cost, 1, axis=-1)[:, 1]
  clear = second - best > slack * cost.std()
  np.testing.assert_array_equal(found[clear], cost.argmin(-1)[clear])
  assert clear.mean() > 0.9


def lambda_max(z):
  """Largest eigenvalue of the (biased) covariance of z [N, d]."""
  return np.linalg.eigvalsh(
    np.cov(np.asarray(z, np.float64).T, bias=True).reshape(z.shape[1], z.shape[1])
  )[-1]

"""The distance to the rate–distortion bound."""

import jax
import numpy as np
import pytest

from codax.vqvae import diagnose


def test_distance_to_bound_equals_the_oracle():
  """Against Blahut's algorithm in float64 NumPy, on Gaussian latents."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(300, 2)).astype(np.float32)
  book = rng.normal(size=(1, 16, 2)).astype(np.float32)
  d = ((z[:, None].astype(np.float64) - book[0]) ** 2).sum(-1)
  codes = d.argmin(1)
  got = diagnose.distance_to_bound(z, codes[:, None], book, iterations=2000)
  hard_d = d.min(1).mean()
  p = np.bincount(codes, minlength=16) / 300
  hard_r = -(p[p > 0] * np.log2(p[p > 0])).sum()
  beta = 2 / (2 * hard_d)
  q = np.full(16, 1 / 16)
  for _ in range(4000):
    post = q * np.exp(-beta * d)
    z_n = post.sum(1, keepdims=True)
    q = (post / z_n).mean(0)
  tangent = -np.log2((q * np.exp(-beta * d)).sum(1)).mean()
  gap = hard_r + beta * hard_d / np.log(2) - tangent
  assert got['hard_bits'] == pytest.approx(hard_r, abs=1e-5)
  assert got['hard_distortion'] == pytest.approx(hard_d, rel=1e-4)
  assert got['gap_bits'] == pytest.approx(gap, abs=0.02) and gap > 0.2
  assert got['bound_lower_bits'] <= got['bound_bits'] + 1e-4
  assert got['bound_violation'] < 0.01


def test_diagnose_of_a_task_reports_the_distance(trained, photo):
  _, made, state, _ = trained
  batches = [{'image': photo[None, :48, :48]}, {'image': photo[None, 48:, 48:96]}]
  got = made.diagnose(jax.device_get(state), batches)
  assert 0 < got['hard_bits'] <= 5 and got['gap_bits'] > 0
  assert got['bound_lower_bits'] <= got['bound_bits'] + 1e-3

"""Diagnostics of the VAE's training against exact figures."""

import jax
import numpy as np
import pytest

from codax.vae import diagnostics


def test_units_that_carry_nothing_are_not_active():
  rng = np.random.default_rng(0)
  scales = np.array([1.0, 0.05, 0.0, 0.2])  # variances 1, 0.0025, 0, 0.04
  mean = 3.0 + scales * rng.normal(size=(4, 5, 6, 4))
  assert diagnostics.count_active(mean) == 2
  assert diagnostics.count_active(mean, threshold=0.001) == 3
  assert diagnostics.count_active_by_kl(np.array([0.5, 0.001, 0.0, 0.011])) == 2


def test_norms_are_described_exactly():
  norms = [1.0, 1.0, 2.0, 1.0, 11.0]
  found = diagnostics.describe_norms(norms, clip_norm=1.0)
  assert found.variation == pytest.approx(np.std(norms) / 3.2)
  assert (found.median, found.spikes, found.clipped_share) == (1.0, 1, 0.4)
  assert diagnostics.describe_norms([0.0, 0.0], 0.0) == (0.0, 0.0, 0, 0.0)


@jax.jit
def run(norms):
  """Adds up the norms of all steps, clipped at 0.05; returns sums and description."""
  add = lambda s, x: (diagnostics.update_norms(s, x, 0.05), None)
  sums = jax.lax.scan(add, diagnostics.init_norms(), norms)[0]
  return sums, diagnostics.stability(sums)


def test_running_sums_agree_with_the_exact_description():
  rng = np.random.default_rng(1)
  norms = np.float32(np.exp(rng.normal(-3, 0.5, 400)))
  norms[[20, 30, 399]] *= 100
  sums, found = run(norms)
  exact = diagnostics.describe_norms(norms, 0.05)
  assert int(sums.count) == int(sums.histogram.sum()) == 400
  assert float(found.variation) == pytest.approx(exact.variation, rel=1e-4)
  assert float(found.median) == pytest.approx(exact.median, rel=0.07)
  assert int(found.spikes) == exact.spikes == 3
  assert float(found.clipped_share) == pytest.approx(exact.clipped_share, rel=1e-6)


def test_sums_stay_finite_at_any_norm():
  norms = np.resize(np.float32([0.0, 1e-20, 1e12]), 400)
  sums, found = run(norms)
  assert int(sums.histogram.sum()) == 400
  assert np.isfinite([float(x) for x in found]).all()
  none = jax.jit(lambda: diagnostics.stability(diagnostics.init_norms()))()
  assert [float(x) for x in none] == [0, 0, 0, 0]

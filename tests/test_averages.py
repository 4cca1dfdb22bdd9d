"""Averaged parameters against the weighted mean in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import averages


@pytest.mark.parametrize('decay', [0.0, 0.5, 0.9, 0.999])
def test_average_is_the_debiased_weighted_mean(decay):
  rng = np.random.default_rng(0)
  history = rng.normal(3.0, 1.0, (50, 4, 2)).astype(np.float32)
  average = averages.init({'w': history[0]})
  for p in history:
    average = averages.update(average, {'w': jnp.asarray(p)}, decay)
  weights = decay ** np.arange(49, -1, -1, dtype=np.float64)
  exact = np.einsum('t,tij->ij', weights, history.astype(np.float64)) / weights.sum()
  found = averages.value(average, {'w': jnp.asarray(history[-1])})['w']
  np.testing.assert_allclose(found, exact, rtol=2e-5)


def test_average_with_changing_decay_is_the_weighted_mean():
  history = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
  decays = [0.9, 0.1, 0.99, 0.5, 0.7]
  average, total, weight = averages.init(history[0]), np.zeros(3), 0.0
  for p, d in zip(history, decays, strict=True):
    average = averages.update(average, jnp.asarray(p), d)
    total = d * total + (1 - d) * p.astype(np.float64)
    weight = d * weight + (1 - d)
  found = averages.value(average, jnp.asarray(history[0]))
  np.testing.assert_allclose(found, total / weight, rtol=1e-5)


def test_value_before_any_update_is_the_parameters():
  params = {'w': jnp.full((3,), 2.0)}
  found = averages.value(averages.init(params), params)
  np.testing.assert_array_equal(found['w'], params['w'])


def test_first_update_gives_back_the_parameters_to_rounding():
  params = {'w': jnp.linspace(-3, 3, 7)}
  average = averages.update(averages.init(params), params, 0.9999)
  found = averages.value(average, jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(found['w'], params['w'], rtol=1e-6)


def test_average_is_kept_in_float32_and_answered_in_the_parameters_dtype():
  params = {'w': jnp.ones((3,), jnp.bfloat16)}
  average = averages.init(params)
  for i in range(100):
    average = averages.update(average, {'w': params['w'] + (i % 2) / 128}, 0.99)
  assert average.total['w'].dtype == jnp.float32
  assert averages.value(average, params)['w'].dtype == jnp.bfloat16
  mean = average.total['w'] / average.weight
  assert abs(float(mean[0]) - (1 + 0.5 / 128)) < 1e-4


class VariantsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
  def test_average_is_the_weighted_mean_compiled_or_not(self):
    history = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    update = self.variant(averages.update)
    average = averages.from_value({'w': history[0]}, 0.5)
    for x in history[1:]:
      average = update(average, {'w': x}, 0.5)
    weights = np.array([1, 2, 4]) / 7
    found = self.variant(averages.value)(average)['w']
    np.testing.assert_allclose(found, weights @ history, rtol=1e-5)


@pytest.mark.parametrize('bad', [{'w': np.zeros((2,))}, {'v': np.zeros((3,))}, []])
def test_value_of_another_form_is_refused(bad):
  average = averages.init({'w': np.zeros((3,))})
  with pytest.raises((AssertionError, ValueError)):
    averages.update(average, bad, 0.5)

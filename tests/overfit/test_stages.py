"""The second stage as C3 has it: straight-through latents, and the plateau rule."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, photo

from codax.errors import CodaxError
from codax.overfit import (
  defaults,
  divergence,
  latent_rounding,
  model,
  parsing,
  stages,
  train,
)
from codax.overfit.presets import Steps, TrainConfig

KEY = jax.random.key(0)
REFERENCE = TrainConfig(
  optimizer='adam', stage2_lr=1e-4, stage2_latents='straight_through',
  stage2_patience=3, stage2_decay=0.5, stage2_min_lr=3e-5,
)  # fmt: skip


def problem(count=1):
  images = np.stack([photo(12, 16, seed=i) for i in range(count)])
  return jnp.asarray(images, jnp.float32) / 255, np.full(count, 1e-3, np.float32)


@pytest.mark.parametrize('temperature', [1e-4, 0.05, 0.3])
def test_straight_through_rounds_with_the_slope_of_soft_rounding(temperature):
  x = np.float32([-1.7, -0.50001, 0.0, 0.49995, 0.50003, 0.8, 2.5002, 3.0])
  rounded = lambda x: latent_rounding.straight_through(x, temperature)
  values, pull = jax.vjp(rounded, jnp.asarray(x))
  np.testing.assert_array_equal(values, np.round(x))
  # the derivative in float64: scale / T / cosh(d / T)**2
  distance = x.astype(np.float64) - np.floor(x) - 0.5
  scale = 0.5 / np.tanh(0.5 / temperature)
  with np.errstate(over='ignore'):  # far from a half it is 0
    expected = scale / temperature / np.cosh(distance / temperature) ** 2
  found = pull(jnp.full(len(x), 2.0))[0]
  np.testing.assert_allclose(found, 2 * expected, rtol=2e-2, atol=1e-6)


def follow_losses(recipe, losses, stage_steps=(2, 40)):
  """Feeds losses to the plateau rule; the parameter counts the steps.

  Returns:
    List of (learning rate, parameter, cuts, ended_at) after each step.
  """
  params = {'latents': jnp.zeros((1, 1))}
  state = train.State(
    jnp.int32(0), params, jnp.zeros(1), jnp.zeros(1, jnp.int32),
    stages.init(recipe, params, jnp.zeros(1)),
  )  # fmt: skip
  ends, found = tuple(map(jnp.int32, stage_steps)), []
  follow = jax.jit(lambda a, b, m: stages.follow(recipe, ends, a, b, m))
  for loss in losses:
    moved = {'latents': state.params['latents'] + 1}
    after = state.replace(step=state.step + 1, params=moved)
    metrics = {name: jnp.full(1, loss, jnp.float32) for name in stages.METRICS}
    state, _ = follow(state, after, metrics)
    p = state.plateau
    found.append(
      (float(p.lr[0]), float(state.params['latents'][0, 0]), int(p.num_cuts[0]),
       int(p.ended_at[0]))
    )  # fmt: skip
  return found, state


def simulate(recipe, losses, stage_steps=(2, 40)):
  """The rule in plain Python."""
  value, best, best_value, lr, waited, cuts, ended, out = 0, 1e30, 0, 1e-4, 0, 0, 0, []
  for at, loss in enumerate(losses):
    now, value = value, value + 1
    if at >= stage_steps[0] and not ended:
      if loss < best:
        best, best_value, waited = loss, now, 0
      else:
        waited += 1
      if waited == recipe.stage2_patience:
        lr, waited, cuts, value = lr * recipe.stage2_decay, 0, cuts + 1, best_value
        ended = at + 1 if lr < recipe.stage2_min_lr else 0
    if ended or at + 1 == sum(stage_steps):
      value = best_value
    out.append((lr, value, cuts, ended))
  return out


def test_plateau_rule_cuts_the_rate_and_goes_back_to_the_best():
  losses = [9, 8, 5, 4, 4.5, 4.5, 4.5, 3, 3, 3, 3, 2, 7, 7, 7, 1, 1, 1]
  found, state = follow_losses(REFERENCE, losses)
  expected = simulate(REFERENCE, losses)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert found[-1][3] == 11  # two cuts: 1e-4 to 2.5e-5, below 3e-5
  assert found[-1][1] == expected[10][1]  # it stays at the best of them
  facts = stages.describe(jax.device_get(state.plateau), 0)
  assert facts['best_loss_before'] == 5 and facts['best_loss_after'] == 3
  assert facts['end'] == 'learning rate' and facts['ended_at'] == 11
  assert facts['lr_cuts'] == 2 and facts['best_step'] == 7


@pytest.mark.parametrize('seed', range(3))
def test_plateau_rule_of_random_losses_is_that_of_plain_python(seed):
  rng = np.random.default_rng(seed)
  losses = np.float32(rng.uniform(1, 2, 20) - 0.03 * np.arange(20))
  recipe = REFERENCE._replace(stage2_patience=2, stage2_min_lr=5e-6)
  found, _ = follow_losses(recipe, losses, (5, 15))
  np.testing.assert_allclose(found, simulate(recipe, losses, (5, 15)), rtol=1e-5)


@pytest.mark.slow
def test_stage2_of_reference_ends_no_worse_than_it_began():
  targets, lmbdas = problem(2)
  steps = Steps(30, 12)
  state = train.init(KEY, SMALL, REFERENCE, targets)
  run = lambda state, count: train.dispatch(
    SMALL, REFERENCE, steps, state, targets, lmbdas, KEY, count
  )
  state, _ = run(state, 30)
  before = np.array(state.params['latents'])
  state, _ = run(state, 12)
  plateau = jax.device_get(state.plateau)
  assert int(state.step) == 42 and not np.array_equal(before, state.params['latents'])
  assert (plateau.best_metrics['loss'] <= plateau.first_loss).all()
  # the parameters are those of the best loss: one more step reads it
  again = state.replace(step=jnp.int32(30))
  _, metrics = run(again, 1)
  np.testing.assert_allclose(metrics['loss'], plateau.best_metrics['loss'], rtol=1e-5)


def test_fixed_latents_have_no_plateau_state():
  targets, _ = problem()
  assert train.init(KEY, SMALL, TrainConfig(), targets).plateau is None


def test_latents_near_a_decision_move_in_stage2_and_others_do_not():
  latents = jnp.float32([0.2, 0.50001, 1.0]) / model.LATENT_GAIN
  loss = lambda x: latent_rounding.round_in_stage2(REFERENCE, x).sum()
  slopes = np.asarray(jax.grad(loss)(latents))
  assert slopes[1] > 1e3 and slopes[0] == slopes[2] == 0


def test_step_without_numbers_leaves_the_plateau_rule_alone():
  targets, _ = problem()
  before = train.init(KEY, SMALL, REFERENCE, targets)
  bad = jax.tree.map(lambda x: x * jnp.nan, before.params)
  plateau = before.plateau.replace(waited=before.plateau.waited + 1)
  after = before.replace(params=bad, plateau=plateau)
  metrics = {name: jnp.zeros(1) for name in stages.METRICS}
  state, _ = jax.jit(divergence.skip_nonfinite)(before, after, metrics, targets)
  assert int(state.plateau.waited[0]) == 0 and int(state.skipped[0]) == 1


def test_metrics_of_a_step_follow_both_stages():
  recipe = REFERENCE._replace(temperature=(0.3, 0.1), noise=(0.2, 0.1))
  plateau = types.SimpleNamespace(lr=jnp.float32([2e-5, 4e-5]))
  at = lambda step: types.SimpleNamespace(step=jnp.int32(step), plateau=plateau)
  listed = lambda step: {
    k: float(v) for k, v in stages.list_metrics(recipe, (10, 5), at(step)).items()
  }
  middle, end = listed(5), listed(12)
  expected = {'lr': 5e-3, 'temperature': 0.2, 'noise': 0.15}
  assert middle == pytest.approx(expected, rel=1e-5)
  assert end == pytest.approx({'lr': 3e-5, 'temperature': 1e-4, 'noise': 0}, rel=1e-5)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('stage2_latents', 'free'), ('stage2_temperature', 0.0), ('stage2_decay', 1.0),
    ('stage2_patience', -1), ('stage2_min_lr', -1.0),
  ],
)  # fmt: skip
def test_bad_key_of_stage2_is_named(key, value):
  config = defaults.get()
  config.recipe[key] = value
  with pytest.raises(CodaxError, match=key):
    parsing.parse_recipe(config)

"""Networks in integers: never worse than plainly rounded ones, by what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, grids, networks, photo

from codax.overfit import (
  codec,
  encode,
  latent_rounding,
  measure,
  model,
  q_step_search,
  train,
  weight_rounding,
)
from codax.overfit.format import arch as archs
from codax.overfit.presets import Steps, TrainConfig

LMBDA = 4e-3
RECIPE = TrainConfig(optimizer='adam')  # quick to compile


@pytest.fixture(scope='module')
def problem():
  """An image, and what a short training made of it."""
  image = photo(48, 64)
  target = jnp.asarray(image, jnp.float32)[None] / 255
  key, lmbdas = jax.random.key(0), jnp.array([LMBDA])
  state = train.init(key, SMALL, RECIPE, target)
  stage_steps = Steps(120, 20)
  state, _ = train.dispatch(
    SMALL, RECIPE, stage_steps, state, target, lmbdas, key, stage_steps.total
  )
  params = jax.device_get(jax.tree.map(lambda x: x[0], state.params))
  return image, encode.FitResult(params, LMBDA, 140, 1.0, None)


def fixed(arch, shape):
  return measure.fix_latents(arch, grids(arch, shape))


def cost(found):
  return found.details['distortion'] + LMBDA * found.details['file_bpp']


def test_file_with_joint_rounding_costs_less_and_decodes(problem):
  image, trained = problem
  (plain,) = encode.write(image, SMALL, trained, is_joint=False)
  (ours,) = encode.write(image, SMALL, trained)
  assert cost(ours) < 0.97 * cost(plain)
  np.testing.assert_array_equal(codec.decode(ours.data), ours.reconstruction)
  assert encode.write(image, SMALL, trained)[0].data == ours.data


def measured(image, trained, modules, name, rate_weight):
  shapes = archs.grid_shapes(SMALL, *image.shape[:2])
  rounded = latent_rounding.round_on_host(trained.params['latents'])
  latents = measure.fix_latents(SMALL, model.split(rounded, shapes))
  listed = [t for t in archs.tensors(SMALL, 3, 3) if t.module == name]
  net = q_step_search.dequantize(modules[name], listed)
  target = jnp.asarray(image, jnp.float32) / 255
  value = measure.measure(name, SMALL, net, latents, target)
  unit = 1 if name == 'synthesis' else rate_weight
  return unit * value + rate_weight * q_step_search.bits(modules[name], listed)


@pytest.mark.parametrize('rate_weight', [1e-9, 1e-6, 1e-3])
def test_joint_rounding_is_no_worse_at_any_rate_weight(problem, rate_weight):
  image, trained = problem
  shapes = archs.grid_shapes(SMALL, *image.shape[:2])
  rounded = latent_rounding.round_on_host(trained.params['latents'])
  latents = measure.fix_latents(SMALL, model.split(rounded, shapes))
  target = np.float32(image) / 255
  args = SMALL, trained.params, latents, target
  (ours,) = weight_rounding.round_networks(*args, [rate_weight])
  plain = q_step_search.choose(q_step_search.candidates(*args), rate_weight)
  for name in archs.MODULES:
    mine = measured(image, trained, ours, name, rate_weight)
    assert mine <= 1.001 * measured(image, trained, plain, name, rate_weight)


def test_network_too_large_is_rounded_plainly(monkeypatch):
  monkeypatch.setattr(weight_rounding, 'MAX_WEIGHTS', 1)
  shape = (24, 32, 3)
  args = SMALL, networks(SMALL, shape, spread=0.1), fixed(SMALL, shape)
  target = np.float32(photo(*shape[:2])) / 255
  (found,) = weight_rounding.round_networks(*args, target, [1e-6])
  wanted = q_step_search.choose(q_step_search.candidates(*args, target), 1e-6)
  for name in archs.MODULES:
    assert found[name].weight_frac == wanted[name].weight_frac
    for key, value in wanted[name].weights.items():
      np.testing.assert_array_equal(found[name].weights[key], value)


def test_networks_with_huge_weights_are_rounded_plainly():
  shape = (24, 32, 3)
  nets = networks(SMALL, shape)
  nets['entropy'] = {k: v + 1e12 for k, v in nets['entropy'].items()}
  args = SMALL, nets, fixed(SMALL, shape), np.zeros(shape, 'f4')
  (found,) = weight_rounding.round_networks(*args, [1e-6])
  wanted = q_step_search.choose(q_step_search.candidates(*args, ('entropy',)), 1e-6)[
    'entropy'
  ]
  np.testing.assert_array_equal(found['entropy'].weights['w0'], wanted.weights['w0'])

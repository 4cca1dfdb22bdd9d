"""Training without the quantizer at first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_vqvae import tiny_config, train

from codax.errors import CodaxError
from codax.quantize import get
from codax.quantize.ops import kmeans
from codax.vqvae import task, warm_up

START = 6


@functools.cache
def run(steps):
  config = tiny_config()
  config.model.update({'encoder_blocks': 0, 'decoder_blocks': 0})
  config.quantizer.revival.below = 0.9  # nothing may move before there are codes
  config.quantize_from = START / config.total_steps
  return train(config, steps)


def test_networks_learn_alone_before_the_switch():
  _, state, history = run(START)
  for metrics in history:
    assert metrics['loss'] == metrics['mse'] and not metrics['is_quantized']
    assert metrics['loss_commitment'] == metrics['loss_context'] == 0
  _, first, _ = run(1)
  for name in ('encoder', 'decoder'):
    kernels = [s.params[name]['Conv_0']['kernel'] for s in (first, state)]
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-4
  for a, b in zip(jax.tree.leaves(first.quantizer), jax.tree.leaves(state.quantizer)):
    np.testing.assert_array_equal(a, b)
  assert float(state.error.weight) == 0


def test_switch_initializes_the_codebook_from_latents():
  _, before, _ = run(START)
  _, after, history = run(START + 2)
  assert [bool(m['is_quantized']) for m in history] == [False] * START + [True] * 2
  assert history[-1]['loss_commitment'] > 0 and history[-1]['loss_context'] > 0
  used = (history[-1]['counts'] > 0).sum()
  assert used > 8 and float(after.error.weight) > 0
  # latents moved since the beginning: old codewords would be far from all of them
  spread = lambda state: float(jnp.std(state.quantizer.codebook))
  assert abs(spread(after) / spread(before) - 1) > 0.05
  # schedules begin with the quantizer
  np.testing.assert_allclose(history[-1]['beta_ratio'], 60.0)


def test_without_warm_up_the_state_is_that_of_before():
  config = tiny_config()
  assert task.make(config) and warm_up.init(0.0, 'spectrum', 60, 4) is None


def follow(latents_of, steps, share=0.9, total_steps=400, bits=6.0):
  """Returns the state of the rule after some steps, and the step of its switch."""
  state = warm_up.init(share, 'spectrum', total_steps, 8)
  step = jax.jit(lambda s, z, i: warm_up.update(s, z, i, bits, total_steps))
  for i in range(steps):
    state = step(state, latents_of(i), jnp.int32(i))
  return state


def latents(directions, seed):
  z = np.random.default_rng(seed).normal(size=(4, 16, 8)).astype(np.float32)
  return jnp.asarray(z * (np.arange(8) < directions))


def test_rule_switches_once_the_reachable_directions_stop_growing():
  """Checks are 4 steps apart here; four in a row without growth make the switch."""
  still = follow(lambda i: latents(3, i), 40)
  assert int(still.most) == 3 and int(still.start) == 20
  growing = follow(lambda i: latents(1 + i // 16, i), 40)
  assert int(growing.start) == 360 and int(growing.most) >= 2


def test_rule_counts_no_more_directions_than_the_bits_reach():
  few, many = (follow(lambda i: latents(8, i), 12, bits=b) for b in (0.05, 40.0))
  assert int(few.most) < 4 and int(many.most) == 8


def test_latents_pass_as_they_are_before_the_switch():
  z = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
  quantizer = get('vq_ema', num_codes=4)
  params, state = jax.jit(quantizer.init)(jax.random.key(0), z)
  quantize = lambda z: quantizer.quantize(params, state, z, train=True)

  @jax.jit
  def value_and_grad(z, step):
    def loss(z):
      out = warm_up.quantize_from(jnp.int32(7), step, quantize, z)
      return (out.values**2).sum() + sum(out.losses.values()), out.values

    return jax.grad(loss, has_aux=True)(z)

  gradient, values = value_and_grad(z, jnp.int32(6))
  np.testing.assert_array_equal(values, z)
  np.testing.assert_allclose(gradient, 2 * z)
  codes = kmeans.nearest(z, state.codebook[0])
  np.testing.assert_allclose(
    value_and_grad(z, jnp.int32(7))[1], state.codebook[0][codes], rtol=1e-6
  )


@pytest.mark.slow
def test_steps_of_revival_count_from_the_switch():
  """So that a warm-up as long as `revive_steps` does not switch revival off."""

  def codebook(revive_steps):
    config = tiny_config()
    config.model.update({'encoder_blocks': 0, 'decoder_blocks': 0})
    config.quantizer.revival.below = 0.9
    config.quantize_from, config.revive_steps = 2 / config.total_steps, revive_steps
    return train(config, 4)[1].quantizer.codebook

  assert np.abs(codebook(2) - codebook(0)).max() > 1e-3


def test_patience_that_could_end_the_run_before_the_switch_is_refused():
  config = tiny_config()
  config.total_steps, config.quantize_from = 100, 0.5
  config.patience, config.eval_every = 4, 10
  with pytest.raises(CodaxError, match='patience'):
    task.make(config)
  config.patience = 5
  task.make(config)


@pytest.mark.parametrize(
  'key, value', [('quantize_from', 1.0), ('quantize_when', 'spectral')]
)
def test_bad_value_is_refused_by_name(key, value):
  config = tiny_config()
  config[key] = value
  with pytest.raises(CodaxError, match=key):
    task.make(config)

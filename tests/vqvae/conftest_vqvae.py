"""A tiny VQ-VAE, trained for a moment, shared by the tests of this folder."""

import functools

import jax
import numpy as np
import pytest

from codax.data import pipeline
from codax.quantize import blahut_arimoto
from codax.vqvae import defaults, task


def tiny_config(**quantizer):
  config = defaults.small()
  config.total_steps = 60
  config.data.update({'batch_size': 8, 'crop': 16, 'gain': 0.0})
  config.model.update({'hidden': 16, 'latent_dim': 4, 'decoder_blocks': 1})
  config.context.update({'hidden': 16, 'embed': 4})
  config.optimizer.update({'learning_rate': 3e-3, 'warmup_steps': 5})
  config.quantizer = {
    'name': 'blahut_arimoto',
    **blahut_arimoto.Config()._asdict(),
    **{'num_codes': 32, 'beta_schedule': 'constant', 'beta_end': 60.0, **quantizer},
  }
  return config


def train(config, steps):
  """(task, state, metrics of each step) after some steps on the embedded photos."""
  made = task.make(config)
  pipe = pipeline.make(config.data, config.seed)
  arrays = jax.device_put(pipe.arrays)

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, arrays):
    key = jax.random.fold_in(jax.random.key(1), state.step)
    batch = pipe.sample(arrays, key)
    return made.train_step(state, batch, key)

  batch = jax.jit(pipe.sample)(arrays, jax.random.key(0))
  state = jax.jit(made.init)(jax.random.key(0), batch)
  state = jax.tree.map(lambda x: x.copy(), state)
  history = []
  for _ in range(steps):
    state, metrics = step(state, arrays)
    history.append(jax.device_get(metrics))
  return made, state, history


@pytest.fixture(scope='session')
def trained():
  """(config, task, state, history) of 60 steps."""
  config = tiny_config()
  return config, *train(config, 60)


@pytest.fixture(scope='session')
def bundle(trained):
  _, made, state, _ = trained
  return made.bundle(jax.device_get(state), {'psnr': 20.0})


@pytest.fixture(scope='session')
def photo():
  """A held-out photograph, uint8 [96, 120, 3]."""
  source = pipeline.source({'name': 'photos'}, 'test')
  return np.ascontiguousarray(source[0]['image'][60:156, 160:280])

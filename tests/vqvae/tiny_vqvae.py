"""A tiny VQ-VAE, trained for a moment, for tests (conftest.py has fixtures of it)."""

import functools

import jax

from codax.data import pipeline
from codax.quantize import blahut_arimoto
from codax.vqvae import defaults, task


def tiny_config(**quantizer):
  config = defaults.small()
  config.total_steps = 60
  config.data.update({'batch_size': 8, 'crop': 16, 'jitter': 0.0})
  config.data.permute_channels = 0.0
  config.model.update({'hidden': 16, 'latent_dim': 4, 'decoder_blocks': 1})
  config.context.update({'hidden': 16, 'embed': 4})
  config.optimizer.update({'learning_rate': 3e-3, 'warmup_steps': 5})
  values = blahut_arimoto.Config()._asdict()
  config.quantizer = defaults.quantizer('blahut_arimoto', values)
  config.quantizer.update(
    {'num_codes': 32, 'beta_schedule': 'constant', 'beta_end': 60.0, **quantizer}
  )
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
  history = []
  for _ in range(steps):
    state, metrics = step(state, arrays)
    history.append(jax.device_get(metrics))
  return made, state, history

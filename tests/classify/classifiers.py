"""Small classifiers on small images, for the tests."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from codax.classify import defaults

SIDE = 8


def make_config(**changes):
  """Makes the configuration of digits with a tiny network; `changes` by dotted key."""
  config = ConfigDict(defaults.get())
  small = {
    'model.front_widths': (4, 4, 4), 'model.widths': (8, 6), 'model.grid': 4,
    'model.classes': 3, 'optimizer.warmup_steps': 1, 'total_steps': 40,
    'data.batch_size': 12, 'model.pool': 2,
  }  # fmt: skip
  with config.unlocked():
    config.update_from_flattened_dict(small | changes)
  return config


def make_batch(count=12, seed=0, labels=3):
  """Makes images whose class is where the light comes from; labels 0 ... labels - 1."""
  rng = np.random.default_rng(seed)
  label = np.arange(count) % labels
  ramps = np.stack([
    np.add.outer(np.arange(SIDE) * np.cos(a), np.arange(SIDE) * np.sin(a))
    for a in label * 2.0
  ])  # fmt: skip
  image = 128 + 12 * ramps + rng.normal(0, 8, ramps.shape)
  image = np.repeat(np.uint8(np.clip(image, 0, 255))[..., None], 3, -1)
  return {'image': jnp.asarray(image), 'label': jnp.asarray(label, jnp.int32)}


def start(task, batch, seed=0):
  """Draws a state of a task; returns it and the compiled step."""
  state = jax.jit(task.init)(jax.random.key(seed), batch)
  return state, jax.jit(task.train_step)

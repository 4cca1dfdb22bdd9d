"""A tiny trained VQ-VAE, its bundle, a run on disk and a held-out photograph."""

import jax
import numpy as np
import pytest
import tiny_run
from tiny_vqvae import tiny_config, train

from codax.data import pipeline


@pytest.fixture(scope='session')
def trained():
  """(config, task, state, history) of 60 steps."""
  config = tiny_config()
  return config, *train(config, 60)


@pytest.fixture(scope='session')
def evaluate(trained):
  """The compiled evaluation step, batch to metrics."""
  _, made, state, _ = trained
  step = jax.jit(made.eval_step)
  return lambda batch: jax.device_get(step(state, batch))


@pytest.fixture(scope='session')
def bundle(trained):
  _, made, state, _ = trained
  return made.bundle(jax.device_get(state), {'psnr': 20.0})


@pytest.fixture(scope='session')
def one(tmp_path_factory):
  """A run of 20 steps on one device through the loop: its directory and last state."""
  workdir = tmp_path_factory.mktemp('one')
  return workdir, tiny_run.train(workdir).state


@pytest.fixture(scope='session')
def photo():
  """A held-out photograph, uint8 [96, 120, 3]."""
  source = pipeline.source({'name': 'photos'}, 'test')
  return np.ascontiguousarray(source[0]['image'][60:156, 160:280])

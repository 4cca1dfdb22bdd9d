"""The VQ-VAE on several devices: the sums over a batch are sums over devices.

A latent on the border between two codes may go to either side by float noise, and what
follows then differs visibly. In these 20 steps there is none: the nearest to a border
is 2e-5 of the costs' spread away, and the noise is a twentieth of that or less.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from codax.training import checkpoints, writers
from codax.training.optim import path_name

HERE = Path(__file__).parent
ONE_STEP = """
import jax
import numpy as np
import tiny_vqvae
from codax.data import pipeline
from codax.training import mesh as meshes
from codax.vqvae import task
config = tiny_vqvae.tiny_config()
config.model.update({'encoder_blocks': 0, 'decoder_blocks': 0})
made, pipe = task.make(config), pipeline.make(config.data, 0)
batch = jax.device_get(jax.jit(pipe.sample)(pipe.arrays, jax.random.key(0)))
state = jax.jit(made.init)(jax.random.key(0), batch)
step = jax.jit(lambda state, batch: made.train_step(state, batch, jax.random.key(1)))
one = step(state, batch)
mesh = meshes.make(4)
state = jax.device_put(state, meshes.replicated(mesh))
four = step(state, jax.device_put(batch, meshes.split(mesh)))
def same(a, b):
  assert len(b.sharding.device_set) == 4
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(a).max(initial=0), 1))
same(one[1]['loss'], four[1]['loss'])
jax.tree.map(same, one[0].quantizer, four[0].quantizer)
"""


def start(workdir, **variables):
  path = os.pathsep.join([str(HERE), os.environ['PYTHONPATH']])
  env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', **variables}
  run = [sys.executable, str(HERE / 'tiny_run.py'), str(workdir)]
  return subprocess.Popen(run, env=env, stderr=subprocess.PIPE, text=True)


def finish(*processes):
  for process in processes:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def assert_same_run(one, workdir, state):
  """Losses and codebook statistics to 1e-5, what Adam makes to 1e-4."""
  rows = [writers.read(d / 'metrics.jsonl') for d in (one[0], workdir)]
  assert len(rows[0]) == 20
  for a, b in zip(*rows, strict=True):
    assert a.keys() == b.keys() >= {'train/loss', 'train/mse', 'train/perplexity'}
    for name, value in a.items():
      np.testing.assert_allclose(b[name], value, rtol=1e-5, err_msg=f'{name} {a}')
  leaves = jax.tree_util.tree_flatten_with_path(one[1])[0]
  names = [path_name(path) for path, _ in leaves]
  assert {name.split('/')[0] for name in names} >= {'quantizer', 'params', 'error'}
  for name, (_, x), y in zip(names, leaves, jax.tree.leaves(state), strict=True):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    atol = (1e-5 if name.startswith('quantizer') else 1e-4) * np.abs(x).max()
    np.testing.assert_allclose(y, x, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
def test_four_devices_train_like_one(one, tmp_path):
  flags = os.environ.get('XLA_FLAGS', '')
  flags += ' --xla_force_host_platform_device_count=4'
  finish(start(tmp_path, XLA_FLAGS=flags))
  # It is complete: this reads what the four saved, on one device.
  assert_same_run(one, tmp_path, tiny_run.train(tmp_path).state)


def test_step_on_four_devices_equals_the_step_on_one(tmp_path):
  path = os.pathsep.join([str(HERE), os.environ['PYTHONPATH']])
  flags = os.environ.get('XLA_FLAGS', '')
  flags += ' --xla_force_host_platform_device_count=4'
  env = {**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': flags}
  run = [sys.executable, '-c', ONE_STEP]
  done = subprocess.run(run, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_and_one_goes_on(one, tmp_path):
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  both = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': '2'}
  finish(*[start(tmp_path, **both, JAX_PROCESS_ID=str(i)) for i in range(2)])
  # Their last checkpoint is lost: one process makes the last ten steps again.
  (tmp_path / 'checkpoints' / '20' / checkpoints.MANIFEST).unlink()
  assert checkpoints.newest(tmp_path / 'checkpoints') == 10
  assert_same_run(one, tmp_path, tiny_run.train(tmp_path).state)

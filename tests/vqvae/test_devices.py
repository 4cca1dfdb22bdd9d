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


def start(workdir, **variables):
  path = os.pathsep.join([str(HERE), str(HERE.parents[1] / 'codecs')])
  env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', **variables}
  run = [sys.executable, str(HERE / 'tiny_run.py'), str(workdir)]
  return subprocess.Popen(run, env=env, stderr=subprocess.PIPE, text=True)


def finish(*processes):
  for process in processes:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """A run on one device: its directory and last state."""
  workdir = tmp_path_factory.mktemp('one')
  return workdir, tiny_run.train(workdir).state


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


def test_four_devices_train_like_one(one, tmp_path):
  flags = os.environ.get('XLA_FLAGS', '')
  flags += ' --xla_force_host_platform_device_count=4'
  finish(start(tmp_path, XLA_FLAGS=flags))
  # It is complete: this reads what the four saved, on one device.
  assert_same_run(one, tmp_path, tiny_run.train(tmp_path).state)


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

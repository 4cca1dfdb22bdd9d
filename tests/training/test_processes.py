"""Runs in processes of their own: killed without warning, and on four devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_task
from PIL import Image

from codax.training import checkpoints, loop, plots, writers

HERE = Path(__file__).parent


def _start(workdir, *changes, script='toy_run.py', **variables):
  path = os.pathsep.join([str(HERE), os.environ['PYTHONPATH']])
  env = {**os.environ, 'PYTHONPATH': path, **variables}
  run = [sys.executable, str(HERE / script), str(workdir), *changes]
  return subprocess.Popen(run, env=env, stderr=subprocess.PIPE, text=True)


def _start_two(workdir, *changes, **options):
  """Starts two processes that train together."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  env = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': '2'}
  env['JAX_PLATFORMS'] = 'cpu'
  return [
    _start(workdir, *changes, **options, **env, JAX_PROCESS_ID=str(i)) for i in range(2)
  ]


def _wait(processes):
  """Waits for processes that end well; ends all if one does not."""
  try:
    for process in processes:
      _, errors = process.communicate(timeout=300)
      assert process.returncode == 0, errors
  finally:
    for process in processes:
      process.kill()


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
  """Draws no curves, which take a third of a run."""
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


def _train(workdir, pipeline, **changes):
  cfg = toy_task.config(**changes)
  batches = toy_task.eval_batches()
  return loop.train(toy_task.make(cfg), pipeline, batches, cfg, workdir)


def test_run_killed_by_sigkill_resumes_to_the_same_bytes(tmp_path):
  whole = _train(tmp_path / 'whole', toy_task.hosted(), total_steps=30, log_every=1)
  broken = tmp_path / 'broken'
  process = _start(broken, 'total_steps=30', 'log_every=1', 'slow=20')
  deadline = time.monotonic() + 120
  while len(writers.read(broken / 'metrics.jsonl')) < 13:
    assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  reached = writers.read(broken / 'metrics.jsonl')[-1]['step']
  saved = checkpoints.newest(broken / 'checkpoints')
  assert 5 <= saved <= reached < 30
  resumed = _train(broken, toy_task.hosted(), total_steps=30, log_every=1)
  expected = (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
  assert (broken / 'metrics.jsonl').read_bytes() == expected
  for a, b in zip(*map(jax.tree.leaves, (whole.state, resumed.state)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _assert_close(a, b):
  for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def _assert_same_log(a, b):
  for x, y in zip(*(writers.read(d / 'metrics.jsonl') for d in (a, b)), strict=True):
    assert x.keys() == y.keys()
    np.testing.assert_allclose(list(x.values()), list(y.values()), rtol=1e-4)


@pytest.mark.slow
def test_four_devices_train_like_one_and_go_on_as_one(tmp_path):
  flags = os.environ.get('XLA_FLAGS', '')
  flags += ' --xla_force_host_platform_device_count=4'
  four = _start(tmp_path / 'four', XLA_FLAGS=flags, JAX_PLATFORMS='cpu')
  one = _train(tmp_path / 'one', toy_task.resident())
  _, errors = four.communicate(timeout=300)
  assert four.returncode == 0, errors
  _assert_close(one.state, _train(tmp_path / 'four', toy_task.resident()).state)
  _assert_same_log(tmp_path / 'one', tmp_path / 'four')


@pytest.mark.slow
def test_two_processes_train_like_one_and_one_goes_on(tmp_path):
  both = _start_two(tmp_path / 'two', 'slow=1')
  one = _train(tmp_path / 'one', toy_task.hosted())
  _wait(both)
  # The newest checkpoint is lost: one process makes the last steps again.
  (tmp_path / 'two' / 'checkpoints' / '20' / checkpoints.MANIFEST).unlink()
  _assert_close(one.state, _train(tmp_path / 'two', toy_task.hosted()).state)
  _assert_same_log(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.slow
def test_two_processes_judge_their_model_by_the_held_out_images_as_one(tmp_path):
  """Validation images are others: the final evaluation is one more of all processes."""
  folder = tmp_path / 'images'
  folder.mkdir()
  for i in range(40):
    level = (60 if i % 2 else 190) + i
    Image.new('RGB', (8, 8), (level,) * 3).save(folder / f'p{i}.png')
  run = {'script': 'toy_fit.py', 'TOY_IMAGES': str(folder)}
  both = _start_two(tmp_path / 'two', **run)
  _wait([*both, _start(tmp_path / 'one', **run)])
  two, one = (
    json.loads((tmp_path / name / 'fitted.json').read_text()) for name in ('two', 'one')
  )
  assert set(one) == {'accuracy', 'validation/accuracy', 'first_batch'}
  assert two == pytest.approx(one)

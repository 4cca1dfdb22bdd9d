"""Runs in processes of their own: killed without warning, and on four devices."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import toy_task

from codax.training import checkpoints, loop, writers

HERE = Path(__file__).parent


def _start(workdir, *changes, **variables):
  path = os.pathsep.join([str(HERE), str(HERE.parents[1] / 'codecs')])
  env = {**os.environ, 'PYTHONPATH': path, **variables}
  run = [sys.executable, str(HERE / 'toy_run.py'), str(workdir), *changes]
  return subprocess.Popen(run, env=env, stderr=subprocess.PIPE, text=True)


def _train(workdir, pipeline, **changes):
  cfg = toy_task.config(**changes)
  batches = toy_task.eval_batches()
  return loop.train(toy_task.make(cfg), pipeline, batches, cfg, workdir)


def test_kill_9_leaves_no_trace(tmp_path):
  whole = _train(tmp_path / 'whole', toy_task.hosted(), total_steps=60, log_every=1)
  broken = tmp_path / 'broken'
  process = _start(broken, 'total_steps=60', 'log_every=1', 'slow=20')
  deadline = time.monotonic() + 120
  while len(writers.read(broken / 'metrics.jsonl')) < 13:
    assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  reached = writers.read(broken / 'metrics.jsonl')[-1]['step']
  saved = checkpoints.newest(broken / 'checkpoints')
  assert 5 <= saved <= reached < 60
  resumed = _train(broken, toy_task.hosted(), total_steps=60, log_every=1)
  expected = (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
  assert (broken / 'metrics.jsonl').read_bytes() == expected
  for a, b in zip(*map(jax.tree.leaves, (whole.state, resumed.state)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_four_devices_train_like_one_and_go_on_as_one(tmp_path):
  flags = '--xla_force_host_platform_device_count=4'
  four = _start(tmp_path / 'four', XLA_FLAGS=flags, JAX_PLATFORMS='cpu')
  one = _train(tmp_path / 'one', toy_task.resident())
  _, errors = four.communicate(timeout=300)
  assert four.returncode == 0, errors
  found = _train(tmp_path / 'four', toy_task.resident())
  assert found.step == 20
  for a, b in zip(*map(jax.tree.leaves, (one.state, found.state)), strict=True):
    np.testing.assert_allclose(
      np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-5, atol=1e-5
    )
  rows = zip(*(writers.read(tmp_path / n / 'metrics.jsonl') for n in ('one', 'four')))
  for a, b in rows:
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)

"""A run of the VQ-VAE broken off or killed, once while it saves, goes on exactly."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from codax.training import checkpoints, writers

HERE = Path(__file__).parent
RUN = {'total_steps': 120, 'eval_every': 60, 'checkpoint_every': 5, 'eval_crops': 8}
RUN |= {'keep_checkpoints': 3}


class Killed:
  """A run in a process of its own, which ends by SIGKILL; a context manager.

  Attributes:
    checkpoints: its directory of checkpoints.
  """

  def __init__(self, workdir):
    path = os.pathsep.join([str(HERE), os.environ['PYTHONPATH']])
    env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
    run = [sys.executable, str(HERE / 'tiny_run.py'), str(workdir)]
    run += [f'{k}={v}' for k, v in RUN.items()]
    self.metrics = workdir / 'metrics.jsonl'
    self.checkpoints = workdir / 'checkpoints'
    self.errors = open(workdir.with_suffix('.stderr'), 'w+')
    self.process = subprocess.Popen(run, env=env, stderr=self.errors)

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    ended = self.process.poll()
    self.process.kill()
    self.process.wait()
    self.errors.seek(0)
    errors = self.errors.read()
    self.errors.close()
    if kind is None:
      assert ended is None, f'it ended by itself: {errors}'

  def wait(self, what, pause=0.002):
    """Until `what()` is true."""
    deadline = time.monotonic() + 120
    while not what():
      assert self.process.poll() is None and time.monotonic() < deadline
      time.sleep(pause)

  def lines(self):
    return len(writers.read(self.metrics))

  def saving(self):
    """Whether a step lies there that is not finished."""
    if not self.checkpoints.is_dir():
      return False
    found = [p for p in self.checkpoints.iterdir() if p.is_dir()]
    return any(not (p / checkpoints.MANIFEST).is_file() for p in found)

  def stop_in_a_save(self):
    """Halts the process at a moment when a step is half saved."""
    while True:
      self.wait(self.saving, pause=0)
      self.process.send_signal(signal.SIGSTOP)
      os.waitpid(self.process.pid, os.WUNTRACED)
      # Unfinished twice over: it is neither before the save nor past it.
      if self.saving():
        return
      self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  assert tiny_run.train(workdir, **RUN).step == 120
  return workdir


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
  """The directory of a run that was killed three times and is not complete."""
  workdir = tmp_path_factory.mktemp('killed') / 'run'
  moments = random.Random(0)
  for kill in range(3):
    before = len(writers.read(workdir / 'metrics.jsonl'))
    with Killed(workdir) as run:
      # Past where the last one had come, so that each kill meets later steps.
      least = before + moments.randint(6, 20)
      run.wait(lambda least=least, run=run: run.lines() >= least)
      if kill == 1:
        run.stop_in_a_save()
      else:
        time.sleep(moments.uniform(0, 0.1))
    if kill == 1:
      assert run.saving()
  return workdir


def test_resumed_run_equals_the_unbroken(one, tmp_path):
  workdir = shutil.copytree(one[0], tmp_path / 'run')
  (workdir / 'checkpoints' / '20' / checkpoints.MANIFEST).unlink()
  assert checkpoints.newest(workdir / 'checkpoints') == 10
  resumed = tiny_run.train(workdir).state
  texts = [(d / 'metrics.jsonl').read_bytes() for d in (workdir, one[0])]
  assert texts[0] == texts[1]
  for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(resumed), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same_lines(workdir, unbroken):
  rows = [writers.read(d / 'metrics.jsonl') for d in (workdir, unbroken)]
  assert len(rows[0]) == 122
  for a, b in zip(*rows, strict=True):
    assert {k: float(v).hex() for k, v in a.items()} == {
      k: float(v).hex() for k, v in b.items()
    }
  texts = [(d / 'metrics.jsonl').read_bytes() for d in (workdir, unbroken)]
  assert texts[0] == texts[1]


@pytest.mark.slow
def test_run_killed_three_times_equals_the_unbroken(killed, unbroken, tmp_path):
  workdir = shutil.copytree(killed, tmp_path / 'run')
  reached = writers.read(workdir / 'metrics.jsonl')[-1]['step']
  saved = checkpoints.newest(workdir / 'checkpoints')
  assert 5 <= saved <= reached < 120
  assert tiny_run.train(workdir, **RUN).step == 120
  assert_same_lines(workdir, unbroken)


@pytest.mark.slow
def test_flipped_bit_is_named_and_the_checkpoint_before_used(
  killed, unbroken, tmp_path, caplog
):
  workdir = shutil.copytree(killed, tmp_path / 'run')
  *_, before, newest = checkpoints.steps(workdir / 'checkpoints')
  step = workdir / 'checkpoints' / str(newest)
  manifest = json.loads((step / checkpoints.MANIFEST).read_text())
  arrays = max((step / name for name in manifest['files']), key=os.path.getsize)
  data = bytearray(arrays.read_bytes())
  at = random.Random(1).randrange(8 * len(data))
  data[at // 8] ^= 1 << at % 8
  arrays.write_bytes(data)
  with caplog.at_level('INFO', logger='absl'):
    assert tiny_run.train(workdir, **RUN).step == 120
  assert f'{step} is damaged ({arrays.relative_to(step)} does not match' in caplog.text
  assert f'going on from step {before} of' in caplog.text
  assert_same_lines(workdir, unbroken)

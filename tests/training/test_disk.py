"""Real disk faults end a run with one line; what was saved before stays good."""

import gc
import os
import resource
import signal
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_task

from codax import errors
from codax.training import checkpoints, flags, loop, plots, settings, writers

FULL = Path('/dev/full')  # every write to it fails as on a full disk


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
  """Draws no curves, which take a third of a run."""
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


def train(workdir, **changes):
  """Trains the toy; exit status as a command's."""
  cfg = toy_task.config(**changes)
  task, data = toy_task.make(cfg), toy_task.resident()
  run = lambda: loop.train(task, data, toy_task.eval_batches(), cfg, workdir)
  return errors.exit_status(lambda: run() and 0)


def one_line(capfd):
  lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith('error: ')]
  assert len(lines) == 1
  return lines[0]


@pytest.mark.skipif(not FULL.exists(), reason='no /dev/full on this system')
@pytest.mark.parametrize('name', ['metrics.jsonl', 'timing.jsonl'])
def test_log_on_a_full_disk_is_one_line_and_status_2(name, tmp_path, capfd):
  (tmp_path / name).symlink_to(FULL)
  assert train(tmp_path) == 2
  assert one_line(capfd) == f'error: {tmp_path / name}: No space left on device'


def test_checkpoint_cut_short_by_the_disk_leaves_the_one_before(
  tmp_path, capfd, caplog
):
  """The system refuses files over one megabyte, in the midst of Orbax's writing."""
  assert train(tmp_path, total_steps=5) == 0
  directory = tmp_path / 'checkpoints'
  noise = np.random.default_rng(0).normal(size=(700, 700))  # does not compress
  state = {'step': jax.numpy.int32(6), 'w': jax.numpy.asarray(noise)}
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limit[1]))
  try:
    status = errors.exit_status(lambda: checkpoints.save(directory, 6, state, keep=1))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, before)
  assert status == 2
  # What Orbax logs of it beside is filtered out by the command.
  gc.collect()
  assert any(r.levelname == 'ERROR' for r in caplog.records)
  shown = [r for r in caplog.records if flags._is_for_users(r)]
  assert not [r for r in shown if r.levelname == 'ERROR']
  line = one_line(capfd)
  assert line.startswith(f'error: cannot save the checkpoint {directory / "6"}: ')
  assert checkpoints.newest(directory) == 5
  checkpoints.save(directory, 6, state, keep=1)
  assert checkpoints.steps(directory) == [6]


def save_checkpoint(workdir):
  checkpoints.save(workdir / 'checkpoints', 1, {'step': jax.numpy.int32(1)}, keep=1)


@pytest.mark.parametrize(
  'write',
  [
    lambda workdir: (workdir / 'below').mkdir(),
    lambda workdir: settings.save({'seed': 1}, workdir),
    lambda workdir: writers.open_run(workdir, 0),
    save_checkpoint,
  ],
)
def test_directory_without_permission_is_one_line_and_stays_empty(write, capfd):
  user = os.geteuid()
  with tempfile.TemporaryDirectory() as folder:
    Path(folder).chmod(0o555)
    if user == 0:  # permissions do not bind root: nobody tries
      os.seteuid(65534)
    try:
      status = errors.exit_status(lambda: write(Path(folder)) and 0)
    finally:
      os.seteuid(user)
      Path(folder).chmod(0o755)
    assert status == 2 and not list(Path(folder).iterdir())
  line = one_line(capfd)
  assert folder in line and 'Permission denied' in line

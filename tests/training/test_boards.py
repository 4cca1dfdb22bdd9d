"""TensorBoard event files read by TensorBoard itself, and W&B without a network."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_task
from PIL import Image

from codax.errors import CodaxError
from codax.training import boards, loop, writers

HERE = Path(__file__).parent
CODECS = str(HERE.parents[1] / 'codecs')

needs_tensorboard = pytest.mark.skipif(
  importlib.util.find_spec('tensorboard') is None, reason='tensorboard not installed'
)
needs_wandb = pytest.mark.skipif(
  importlib.util.find_spec('wandb') is None, reason='wandb not installed'
)


def _read(folder):
  from tensorboard.backend.event_processing import event_accumulator

  read = event_accumulator.EventAccumulator(
    str(folder), {'images': 0, 'scalars': 0}, purge_orphaned_data=True
  )
  read.Reload()
  return read


def _points(read, tag):
  return [(e.step, e.value) for e in read.Scalars(tag)]


@needs_tensorboard
def test_event_files_hold_the_scalars_and_images_of_a_run(tmp_path):
  cfg = toy_task.config(total_steps=10)
  loop.train(
    toy_task.make(cfg), toy_task.resident(), toy_task.eval_batches(), cfg, tmp_path
  )
  read = _read(tmp_path / 'tensorboard')
  rows = writers.read(tmp_path / 'metrics.jsonl')
  for name in ('train/loss', 'train/learning_rate/decoder', 'eval/perplexity'):
    expected = [(row['step'], np.float32(row[name])) for row in rows if name in row]
    assert _points(read, name) == expected
  assert read.Scalars('timing/images_per_s')
  [image] = read.Images('eval/images')
  assert image.step == 10 and (image.height, image.width) == (4 * 8 + 3 * 2, 16)
  saved = (tmp_path / 'images' / 'step_000010.png').read_bytes()
  assert image.encoded_image_string == saved


@needs_tensorboard
def test_resumed_run_replaces_repeated_steps(tmp_path):
  first = writers.open_run(tmp_path, 0)
  for step in range(1, 8):
    writers.write(first, step, {'train/loss': float(step)})
  writers.close(first)
  second = writers.open_run(tmp_path, 5)
  for step in range(6, 10):
    writers.write(second, step, {'train/loss': -float(step)})
  writers.close(second)
  read = _read(tmp_path / 'tensorboard')
  expected = [(s, float(s) if s < 6 else -float(s)) for s in range(1, 10)]
  assert _points(read, 'train/loss') == expected
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2


@needs_tensorboard
def test_points_are_on_the_disk_at_once_and_only_finite_ones(tmp_path):
  writer = writers.open_run(tmp_path, 0)
  writers.write(writer, 1, {'a': 2.0, 'b': math.nan, 'c': math.inf})
  read = _read(tmp_path / 'tensorboard')
  assert read.Tags()['scalars'] == ['a'] and _points(read, 'a') == [(1, 2.0)]
  writers.close(writer)


def test_complete_run_gets_no_further_event_file(tmp_path):
  cfg = toy_task.config(total_steps=2, checkpoint_every=2)
  for _ in range(2):
    loop.train(toy_task.make(cfg), toy_task.resident(), [], cfg, tmp_path)
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 1


def test_writers_off_leave_the_two_text_files_only(tmp_path):
  writer = writers.open_run(tmp_path, 0, boards=())
  writers.write(writer, 1, {'a': 1.0})
  writers.write_images(writer, 1, {'a': np.zeros((2, 2, 3), np.uint8)})
  writers.close(writer)
  assert sorted(os.listdir(tmp_path)) == ['metrics.jsonl', 'timing.jsonl']


def test_unknown_writer_is_one_line_with_the_valid_names(tmp_path):
  with pytest.raises(CodaxError, match=r'valid: tensorboard, wandb'):
    boards.check(['wb'])
  cfg = toy_task.config(writers='wnadb')
  with pytest.raises(CodaxError, match="unknown writer 'wnadb'.*did you mean 'wandb'"):
    loop.train(toy_task.make(cfg), toy_task.resident(), [], cfg, tmp_path)
  assert not list(tmp_path.iterdir())


def test_missing_wandb_is_one_line_that_names_the_extra(monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda n: None if n == 'wandb' else find_spec(n)
  )
  with pytest.raises(CodaxError, match=r"pip install 'codax\[wandb\]'") as e:
    boards.check(['tensorboard', 'wandb'])
  assert '\n' not in str(e.value)


@pytest.fixture
def offline(tmp_path, monkeypatch):
  """Variables that keep W&B off the network and out of the home folder."""
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_DISABLE_GIT', 'true')
  for name in ('WANDB_CACHE_DIR', 'WANDB_CONFIG_DIR', 'WANDB_DATA_DIR'):
    monkeypatch.setenv(name, str(tmp_path / 'home'))


RUN = """
import pathlib, sys, toy_task
from codax.training import loop
cfg = toy_task.config(total_steps=6, eval_every=6, checkpoint_every=3)
cfg.writers, cfg.max_seconds = ('tensorboard', 'wandb'), float(sys.argv[2])
data, batches = toy_task.resident(), toy_task.eval_batches()
loop.train(toy_task.make(cfg), data, batches, cfg, pathlib.Path(sys.argv[1]))
"""


@needs_wandb
def test_wandb_offline_run_is_written_and_resumed_with_its_id(offline, tmp_path):
  out, identities = tmp_path / 'run', []
  for seconds in ('1e-6', '0'):  # in processes of their own: W&B writes the end at exit
    run = [sys.executable, '-c', RUN, str(out), seconds]
    path = os.pathsep.join([str(HERE), CODECS, os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path}
    done = subprocess.run(run, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    identities.append(json.loads((out / boards.WANDB_ID).read_text())['id'])
  assert identities[0] == identities[1]
  name = identities[0]
  files = sorted((out / 'wandb').glob(f'offline-run-*-{name}/run-{name}.wandb'))
  assert len(files) == 2
  assert b'eval/loss' not in files[0].read_bytes()
  assert b'eval/loss' in files[1].read_bytes()
  images = list(files[1].parent.rglob('*.png'))
  assert len(images) == 1
  saved = out / 'images' / 'step_000006.png'
  with Image.open(images[0]) as logged, Image.open(saved) as mosaic:
    np.testing.assert_array_equal(np.asarray(logged), np.asarray(mosaic))

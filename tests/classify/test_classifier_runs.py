"""A classifier from the command line: trained, chosen, judged, and taken up again."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from classifiers import make_batch

from codax import bundle as bundles
from codax import errors
from codax.classify import figures, probe
from codax.data import sources
from codax.reports import figures as run_figures
from codax.training import checkpoints, plots, writers

ROOT = Path(__file__).parents[2]
COUNTS = {'train': 120, 'test': 40}
SMALL = {
  'model.front_widths': (4, 4, 4), 'model.widths': (8,), 'model.grid': 4,
  'model.pool': 2, 'model.classes': 3, 'data.batch_size': 12, 'data.val_fraction': 0.3,
  'optimizer.warmup_steps': 1, 'total_steps': 40, 'steps_per_call': 4, 'log_every': 4,
  'eval_every': 4, 'checkpoint_every': 8, 'keep_checkpoints': 9, 'patience': 2,
  'writers': (), 'training.grid_update_prob': 0.2,
}  # fmt: skip


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Runs the command in this process on ramps in the place of the digits."""

  def digits(split):
    batch = make_batch(COUNTS[split], seed=len(split))
    images, labels = (np.asarray(batch[key]) for key in ('image', 'label'))
    load = lambda i: {'image': images[i], 'label': int(labels[i])}
    names = tuple(f'{split}_{i}' for i in range(len(labels)))
    return sources.Source(names, load, shape=(8, 8))

  monkeypatch.setitem(sources.SOURCES, 'digits', digits)
  monkeypatch.setattr(run_figures, 'write', lambda *_: [])
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)
  monkeypatch.setattr(figures, '_ROWS', 1)
  monkeypatch.chdir(tmp_path)
  spec = importlib.util.spec_from_file_location('train', ROOT / 'launch' / 'train.py')
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)

  def run(**changes):
    overrides = [f'--config.{key}={value}' for key, value in (SMALL | changes).items()]
    args = ['train.py', f'--config={ROOT}/configs/rapid_kan.py', *overrides]
    return errors.exit_status(lambda: script.main(args))

  return run


def test_run_chooses_by_validation_images_and_is_judged_by_others(
  train, tmp_path, capsys
):
  assert train(**{'checkpoint_every': 40, 'training.grid_update_prob': 0.0}) == 0
  assert '| accuracy |' in capsys.readouterr().out
  workdir = tmp_path / 'runs' / 'rapid_kan'
  results = json.loads((workdir / 'results.json').read_text())
  metrics = results['metrics']
  rows = writers.read(workdir / writers.METRICS)
  scores = {row['step']: row['eval/accuracy'] for row in rows if 'eval/loss' in row}
  best = max(scores, key=lambda step: (scores[step], -step))
  assert max(scores) == min(best + 8, 40)  # two evaluations were no better
  assert metrics['validation/accuracy'] == scores[best] > 0.5
  assert checkpoints.steps(workdir / 'best')[-1] == best
  assert results['rows'] == []
  names = {path.name for path in (workdir / figures.FOLDER).iterdir()}
  assert names == {'confusion.png', 'edges_kan_0.png', 'learning_curve.png'}
  # of the held-out images
  batch = make_batch(40, seed=len('test'))
  found = probe.make(bundles.load(workdir))(np.asarray(batch['image']))
  share = (found == np.asarray(batch['label'])).mean()
  assert share == pytest.approx(metrics['accuracy'])


@pytest.mark.slow
def test_run_that_lost_its_end_comes_out_the_same(train, tmp_path, monkeypatch, capsys):
  """Taken up from its first checkpoint, which lies before the best state."""
  monkeypatch.setattr(figures, 'write', lambda *_: [])
  assert train() == 0
  capsys.readouterr()
  assert train() == 0 and 'the run is complete' in capsys.readouterr().out
  workdir = tmp_path / 'runs' / 'rapid_kan'
  metrics = json.loads((workdir / 'results.json').read_text())['metrics']
  rows = writers.read(workdir / writers.METRICS)
  whole = bundles.load(workdir).id
  for name in ('results.json', bundles.FILE_NAME):
    (workdir / name).unlink()
  first, *later = checkpoints.steps(workdir / 'checkpoints')
  assert first < checkpoints.steps(workdir / 'best')[-1]
  for step in later:
    shutil.rmtree(workdir / 'checkpoints' / str(step))
  assert train() == 0
  assert json.loads((workdir / 'results.json').read_text())['metrics'] == metrics
  assert bundles.load(workdir).id == whole
  assert writers.read(workdir / writers.METRICS) == rows


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'data.val_fraction': 0.0},
      'patience = 2 chooses a state by evaluations: it needs',
    ),
    ({'eval_every': 0}, 'patience = 2, but config.eval_every = 0'),
    ({'model.classes': 2}, "'digits' has 3 classes or more, the network 2"),
    ({'model.head': 'mlp', 'training.grid_update_prob': 0.0}, 'grid = 4 changes nothi'),
  ],
)
def test_bad_choice_is_one_line_and_status_2(train, capfd, changes, message):
  assert train(**changes) == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if 'error: ' in line]
  assert len(lines) == 1 and message in lines[0]

"""An early end: after the best evaluation nothing but the best state counts."""

import jax
import numpy as np
import pytest
import toy_task

from codax.errors import CodaxError
from codax.training import checkpoints, loop, patience, plots, writers


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


def make_task(cfg, scores):
  """The toy, whose evaluations have the scores of a list, one for every two steps."""
  task = toy_task.make(cfg)
  table = jax.numpy.asarray(scores, jax.numpy.float32)

  def evaluate(state, batch):
    return task.eval_step(state, batch) | {'score': table[state.step // 2 - 1]}

  return task._replace(eval_step=evaluate, score='score')


def train(workdir, scores, **changes):
  cfg = toy_task.config(**{'eval_every': 2, 'checkpoint_every': 2, **changes})
  data = toy_task.resident()
  task = make_task(cfg, scores)
  return loop.train(task, data, toy_task.eval_batches(), cfg, workdir)


SCORES = [1.0, 3.0, 2.0, 2.5, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0]


def test_training_ends_after_so_many_evaluations_without_a_better_one(tmp_path):
  """The best is at step 4, as an equal one is no better; five are never made."""
  result = train(tmp_path, SCORES, patience=3)
  assert (result.step, result.stopped) == (10, None)
  assert int(result.state.step) == 4 and result.metrics['score'] == 3.0
  assert checkpoints.steps(tmp_path / 'checkpoints')[-1] == 10
  assert checkpoints.steps(tmp_path / patience.FOLDER) == [4]
  rows = writers.read(tmp_path / writers.METRICS)
  assert [r['step'] for r in rows if 'eval/score' in r] == [2, 4, 6, 8, 10]


def test_best_state_is_that_of_its_step(tmp_path):
  result = train(tmp_path, SCORES, patience=3, keep_checkpoints=9)
  saved = checkpoints.load(
    tmp_path / 'checkpoints', 4, result.state, loop.mesh_lib.make(1)
  )
  for x, y in zip(*map(jax.tree.leaves, (saved, result.state)), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_without_an_early_end_the_best_counts_all_the_same(tmp_path):
  result = train(tmp_path, [1.0, 5.0, 2.0, 3.0, 4.0], patience=9, total_steps=10)
  assert (result.step, int(result.state.step)) == (10, 4)


def test_interrupted_run_ends_at_the_same_step(tmp_path):
  """Killed between the best evaluation and the end, from the checkpoint before it."""
  whole = train(tmp_path / 'a', SCORES, patience=3)
  other = tmp_path / 'b'
  train(other, SCORES, patience=3)
  for step in (6, 8, 10):
    checkpoints._remove(other / 'checkpoints' / str(step))
  result = train(other, SCORES, patience=3)
  assert (result.step, result.metrics) == (whole.step, whole.metrics)
  for x, y in zip(*map(jax.tree.leaves, (result.state, whole.state)), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
  text = (other / writers.METRICS).read_bytes()
  assert text == (tmp_path / 'a' / writers.METRICS).read_bytes()


def test_best_state_after_the_newest_checkpoint_is_found_again(tmp_path):
  """Killed when the best is saved and no checkpoint is: it is made once more."""
  whole = train(tmp_path / 'a', SCORES, patience=3)
  other = tmp_path / 'b'
  train(other, SCORES, patience=3)
  for step in (4, 6, 8, 10):
    checkpoints._remove(other / 'checkpoints' / str(step))
  checkpoints._remove(other / 'checkpoints' / '2')
  assert checkpoints.steps(other / patience.FOLDER) == [4]
  result = train(other, SCORES, patience=3)
  assert int(result.state.step) == 4 and result.metrics == whole.metrics


def kill_at_the_checkpoint_of(step, monkeypatch):
  """Ends a run where it would save this step."""
  save = loop._save

  def save_or_die(run, state, now, saved):
    if now == step:
      raise RuntimeError('killed')
    save(run, state, now, saved)

  monkeypatch.setattr(loop, '_save', save_or_die)


def test_kill_before_the_next_checkpoint_costs_no_best_state(tmp_path, monkeypatch):
  """The run goes on from step 4, and what was better at step 6 is not so again."""
  with monkeypatch.context() as patch:
    kill_at_the_checkpoint_of(8, patch)
    with pytest.raises(RuntimeError, match='killed'):
      train(tmp_path, [1.0, 3.0, 4.0, 2.0], patience=3, checkpoint_every=4)
  assert checkpoints.steps(tmp_path / 'checkpoints') == [4]
  assert checkpoints.steps(tmp_path / patience.FOLDER) == [4, 6]
  result = train(tmp_path, SCORES, patience=3, checkpoint_every=4)
  assert (result.step, int(result.state.step)) == (10, 4)
  assert result.metrics['score'] == 3.0


def test_damaged_newest_checkpoint_costs_no_best_state(tmp_path):
  """The checkpoint before it belongs to an older best state."""
  changes = {'patience': 9, 'total_steps': 8, 'keep_checkpoints': 2}
  train(tmp_path, [1.0, 3.0, 2.0, 4.0], **changes)
  assert checkpoints.steps(tmp_path / 'checkpoints') == [6, 8]
  assert checkpoints.steps(tmp_path / patience.FOLDER) == [4, 8]
  (tmp_path / 'checkpoints' / '8' / checkpoints.MANIFEST).write_text('{}')
  result = train(tmp_path, [1.0, 3.0, 2.0, 2.5], **changes)
  assert (result.step, int(result.state.step)) == (8, 4)


def test_best_states_that_no_checkpoint_needs_are_gone(tmp_path):
  rising = [float(i) for i in range(10)]
  changes = {'patience': 3, 'checkpoint_every': 8, 'keep_checkpoints': 1}
  train(tmp_path, rising, **changes)
  assert checkpoints.steps(tmp_path / 'checkpoints') == [20]
  assert checkpoints.steps(tmp_path / patience.FOLDER) == [20]


def test_lost_best_state_is_named(tmp_path):
  train(tmp_path, SCORES, patience=3)
  checkpoints._remove(tmp_path / patience.FOLDER / '4')
  with pytest.raises(
    CodaxError, match='best does not hold the best state, that of step 4'
  ):
    train(tmp_path, SCORES, patience=3)


def test_run_that_is_over_makes_no_step(tmp_path):
  train(tmp_path, SCORES, patience=3)
  text = (tmp_path / writers.METRICS).read_bytes()
  result = train(tmp_path, SCORES, patience=3)
  assert result.step == 10 and int(result.state.step) == 4
  assert (tmp_path / writers.METRICS).read_bytes() == text


def test_patience_needs_a_score_and_evaluations(tmp_path):
  cfg = toy_task.config(patience=2)
  task, data = toy_task.make(cfg), toy_task.resident()
  with pytest.raises(CodaxError, match='patience = 2, but the run has no score'):
    loop.train(task, data, toy_task.eval_batches(), cfg, tmp_path)
  with pytest.raises(CodaxError, match='has no held-out images'):
    loop.train(make_task(cfg, SCORES), data, [], cfg, tmp_path)


def test_patience_without_evaluations_under_way_is_refused(tmp_path):
  with pytest.raises(CodaxError, match='patience = 2, but config.eval_every = 0'):
    train(tmp_path, SCORES, patience=2, eval_every=0)

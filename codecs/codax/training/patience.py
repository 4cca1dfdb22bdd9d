"""An early end: training stops when evaluations get no better, and the best one counts.

What is best is read from ``metrics.jsonl``, so a run that was interrupted ends at the
same step as one that was not. The best state lies in the folder ``best``, in the form
of a checkpoint.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from codax.errors import CodaxError
from codax.training import checkpoints, settings, writers
from codax.training.task import Task

FOLDER = 'best'


class Best(NamedTuple):
  """The best evaluation so far.

  Attributes:
    step: its step.
    since: number of evaluations after it.
  """

  step: int
  since: int


def check(task: Task, options: settings.Settings, has_evaluations: bool) -> None:
  """Checks that a task can have an early end, if one is asked for.

  Raises:
    CodaxError: `config.patience` without a score, or without evaluations.
  """
  if options.patience and (task.score is None or not has_evaluations):
    missing = 'has no score' if task.score is None else 'has no held-out images'
    raise CodaxError(f'config.patience = {options.patience}, but the run {missing}')


def find(workdir: Path, score: str, step: int) -> Best | None:
  """Finds the best evaluation up to a step; None without any.

  Args:
    workdir: work directory of the run.
    score: name of the metric; of equal values the first is the best.
    step: last step that counts.
  """
  if jax.process_count() > 1:  # the log is the first process's
    own = _find(workdir, score, step) if jax.process_index() == 0 else None
    pair = np.array([-1, -1] if own is None else own, np.int32)
    pair = multihost_utils.broadcast_one_to_all(pair)
    return None if pair[0] < 0 else Best(int(pair[0]), int(pair[1]))
  return _find(workdir, score, step)


def _find(workdir: Path, score: str, step: int) -> Best | None:
  """Finds the best evaluation in the log of this process."""
  key = f'eval/{score}'
  rows = writers.read(workdir / writers.METRICS)
  found = [(r[key], r['step']) for r in rows if key in r and r['step'] <= step]
  if not found:
    return None
  at = max(range(len(found)), key=lambda i: (found[i][0], -i))
  return Best(found[at][1], len(found) - 1 - at)


def is_over(workdir: Path, task: Task, options: settings.Settings, step: int) -> bool:
  """Tells whether the evaluations up to a step were no better for long enough."""
  if not options.patience:
    return False
  best = find(workdir, task.score, step)
  return best is not None and best.since >= options.patience


def keep(workdir: Path, task: Task, options: settings.Settings, state: Any) -> None:
  """Saves a state that has just been evaluated, if it is the best one."""
  step = int(state.step)
  best = find(workdir, task.score, step) if options.patience else None
  if best is not None and best.step == step:
    checkpoints.save(workdir / FOLDER, step, state, keep=1)


def load(
  workdir: Path, score: str, last: int, like: Any, mesh: Any
) -> tuple[Any, dict[str, float]]:
  """Loads the best state and the metrics of its evaluation.

  Args:
    workdir: work directory of the run.
    score: name of the metric.
    last: last step of the run.
    like: a state, for shapes and types.
    mesh: the data mesh.

  Raises:
    CodaxError: the state is lost or damaged.
  """
  directory = workdir / FOLDER
  best, step = find(workdir, score, last), checkpoints.newest(directory)
  if best is None or best.step != step:
    raise CodaxError(
      f'{directory} does not hold the best state, that of step '
      f'{best and best.step}; remove {workdir / "checkpoints"} to train again'
    )
  metrics = {
    key.removeprefix('eval/'): value
    for row in writers.read(workdir / writers.METRICS)
    if row['step'] == step
    for key, value in row.items()
    if key.startswith('eval/')
  }
  return checkpoints.load(directory, step, like, mesh), metrics

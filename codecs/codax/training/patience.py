"""An early end: training stops when evaluations get no better, and the best one counts.

What is best is read from ``metrics.jsonl``, so a run that was interrupted ends at the
same step as one that was not. The best state lies in the folder ``best``, in the form
of a checkpoint, and so does the best one up to every checkpoint that a run may go on
from.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from codax.errors import CodaxError
from codax.training import checkpoints, networks, settings, writers
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
  if not options.patience:
    return
  obstacles = {
    'the run has no score': task.score is None,
    'the run has no held-out images': not has_evaluations,
    'config.eval_every = 0 evaluates at the end only': not options.eval_every,
  }
  for obstacle, is_there in obstacles.items():
    if is_there:
      raise CodaxError(f'config.patience = {options.patience}, but {obstacle}')


def find(workdir: Path, score: str, step: int) -> Best | None:
  """Finds the best evaluation up to a step; None without any.

  Args:
    workdir: work directory of the run.
    score: name of the metric; of equal values the first is the best.
    step: last step that counts.
  """
  if jax.process_count() > 1:  # the log is the first process's
    best = _find(workdir, score, step) if jax.process_index() == 0 else None
    pair = np.array([-1, -1] if best is None else best, np.int32)
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
  """Saves a state that has just been evaluated, if it is the best one.

  The one before it stays: a run that is killed now goes on from an older checkpoint.
  """
  step = int(state.step)
  best = find(workdir, task.score, step) if options.patience else None
  if best is not None and best.step == step:
    checkpoints.save(workdir / FOLDER, step, state, keep=None)
    discard_unneeded(workdir)


def discard_unneeded(workdir: Path) -> None:
  """Removes the states that are neither the newest one nor that of a checkpoint.

  A checkpoint goes with the newest best state up to its step.
  """
  directory = workdir / FOLDER
  saved = checkpoints.steps(directory)
  ends = [*checkpoints.steps(workdir / networks.CHECKPOINTS), math.inf]
  needed = {max((s for s in saved if s <= end), default=None) for end in ends}
  checkpoints.discard(directory, set(saved) - needed)


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

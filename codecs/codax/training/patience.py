"""An early end: training stops when evaluations get no better, and the best one counts.

What is best is read from ``metrics.jsonl``, so a run that was interrupted ends at the
same step as one that was not. The best state lies in the folder ``best``, in the form
of a checkpoint.
"""

from pathlib import Path
from typing import Any, NamedTuple

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
  if options.patience and find(workdir, task.score, step).since == 0:
    checkpoints.save(workdir / FOLDER, step, state, keep=1)


def load(workdir: Path, like: Any, mesh: Any) -> tuple[Any, dict[str, float]] | None:
  """Loads the best state and the metrics of its evaluation; None if there is none.

  Args:
    workdir: work directory of the run.
    like: a state, for shapes and types.
    mesh: the data mesh.
  """
  directory = workdir / FOLDER
  step = checkpoints.newest(directory)
  if step is None:
    return None
  metrics = {
    key.removeprefix('eval/'): value
    for row in writers.read(workdir / writers.METRICS)
    if row['step'] == step
    for key, value in row.items()
    if key.startswith('eval/')
  }
  return checkpoints.load(directory, step, like, mesh), metrics

"""Sums of training metrics since the last line of the log.

A line of training metrics holds the means over all steps since the line before. A
checkpoint between two lines takes the sums so far along, in ``interval.json``, so that
a run that goes on from there writes the same line, to the bit.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from codax import files
from codax.errors import CodaxError
from codax.training import checkpoints, metrics_reduction
from codax.training.task import Task

FILE_NAME = 'interval.json'


class Interval(NamedTuple):
  """Metrics of some steps.

  Attributes:
    count: number of steps.
    totals: name -> float64 sum over the steps, of the metric's shape.
  """

  count: int = 0
  totals: Mapping[str, np.ndarray] = {}


def add(interval: Interval, metrics: Mapping[str, Any]) -> Interval:
  """Adds the metrics of a dispatch, name -> array [steps, ...]."""
  count, totals = 0, dict(interval.totals)
  for name, values in metrics.items():
    values = np.asarray(values, np.float64)
    count, total = len(values), values.sum(0)
    totals[name] = totals[name] + total if name in totals else total
  return Interval(interval.count + count, totals)


def reduce(task: Task, interval: Interval) -> dict[str, float]:
  """Averages scalars and sums arrays over the steps, by the task's `summarize`."""
  means = {
    name: total if total.ndim else total / interval.count
    for name, total in interval.totals.items()
  }
  return metrics_reduction.summarize(task, means)


def save(workdir: Path, step: int, interval: Interval, kept: Iterable[int]) -> None:
  """Writes the sums at a checkpoint; those of checkpoints that are gone go.

  Args:
    workdir: work directory of the run.
    step: step of the checkpoint.
    interval: sums since the last line of the log.
    kept: steps of other checkpoints.
  """
  path = workdir / FILE_NAME
  before = _read(path)
  after = {key: before[key] for key in map(str, kept) if key in before}
  after.pop(str(step), None)
  if interval.count:
    totals = {name: total.tolist() for name, total in interval.totals.items()}
    after[str(step)] = {'count': interval.count, 'totals': totals}
  if after != before:
    files.write_text(path, json.dumps(after, sort_keys=True) + '\n')


def load(workdir: Path, step: int) -> Interval:
  """Returns the sums at a checkpoint; none where a line of the log ended there.

  Nothing was kept by earlier versions: the next line then begins at the checkpoint.
  """
  path = workdir / FILE_NAME
  row = _read(path).get(str(step))
  if row is None:
    return Interval()
  try:
    totals = {k: np.asarray(x, np.float64) for k, x in row['totals'].items()}
    return Interval(int(row['count']), totals)
  except (KeyError, TypeError, ValueError, AttributeError) as e:
    logging.warning('%s is damaged (%r): a line of the log begins anew', path, e)
    return Interval()


def _read(path: Path) -> dict[str, Any]:
  """Reads the file; a damaged one, which costs part of a line of the log, is empty."""
  try:
    content = files.read_json(path)
  except FileNotFoundError:
    return {}
  except CodaxError as e:
    logging.warning('%s: a line of the log begins anew', e)
    return {}
  return content if isinstance(content, dict) else {}


def keep(workdir: Path, checkpoint_folder: str, step: int, interval: Interval) -> None:
  """Writes the sums at a checkpoint that is about to be saved, on the first process."""
  if jax.process_index() == 0:
    save(workdir, step, interval, checkpoints.steps(workdir / checkpoint_folder))

"""Summary of a training: metrics, sessions, wall time, parameters, figures.

Everything is read from ``metrics.jsonl`` and ``timing.jsonl``, so it is the same for a
run that was interrupted, wall time aside, and can be made at any moment. The work
directory gets

``summary.md``           tables for people
``summary.csv``          the first table for programs, of all metrics
``learning_rates.csv``   history of the learning rates, a column for each group
``figures/``             overview, losses, KL, learning rates and step times, see
                         `codax.reports.figures`
"""

import csv
import datetime
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax import files
from codax.reports import figures
from codax.reports.layout import Column, markdown_table
from codax.training import progress, writers

TEXT, TABLE, RATES = 'summary.md', 'summary.csv', 'learning_rates.csv'
# Metrics that come first, and those that `summary.md` shows beside them.
_FIRST = ('train/loss', 'train/kl', 'train/kl_weight')
_SHOWN = re.compile(
  r'(train|eval|outside)/(loss.*|kl(_bpp|_weight)?|l1|mse.*|.*psnr.*|.*bpp.*|lpips|ssim'
  r'|grad_norm.*|clipped.*|active_units|perplexity|usage|chroma_ratio|webp_.*)'
)
_RATE = re.compile(r'train/(learning_rate.*)')
KL_WEIGHT = 'train/kl_weight'
SHARES = (0.5, 0.75, 1.0)

Series = dict[str, list[tuple[int, float]]]


class Row(NamedTuple):
  """One metric over a training.

  Attributes:
    metric: name, 'train/loss'.
    initial: first value that was logged.
    final: last value.
    change: final less initial.
    min, max, mean: least and greatest value and mean of those that were logged.
    deviation: their standard deviation.
  """

  metric: str
  initial: float
  final: float
  change: float
  min: float
  max: float
  mean: float
  deviation: float


class Session(NamedTuple):
  """One process that worked on a run.

  Attributes:
    id: date and time of its start, UTC, '20260131-235959.123'.
    first, last: steps of its first and last line of metrics.
    seconds: seconds from its start to that last line.
  """

  id: str
  first: int
  last: int
  seconds: float


def write(workdir: str | Path, params: Any = None) -> None:
  """Writes the summary and the figures of a run, complete or under way.

  Args:
    workdir: work directory of the run; without metrics nothing is written.
    params: pytree of parameters, to be counted by part; None if there are none.
  """
  workdir = Path(workdir)
  series = read_series(workdir)
  if not series:
    return
  timing = writers.read(workdir / writers.TIMING)
  rows = describe(series)
  files.write_text(workdir / TEXT, _format(workdir, series, rows, timing, params))
  files.write_text(workdir / TABLE, _format_csv(Row._fields, rows))
  rates = {m[1]: points for k, points in series.items() if (m := _RATE.fullmatch(k))}
  if rates:
    files.write_text(workdir / RATES, format_history(rates))
  figures.write(workdir, series, timing)


def read_series(workdir: str | Path) -> Series:
  """Returns (step, value) of every metric in ``metrics.jsonl``, by name."""
  series: Series = {}
  for row in writers.read(Path(workdir) / writers.METRICS):
    for name, value in row.items():
      if name != 'step' and np.isfinite(value):
        series.setdefault(name, []).append((row['step'], value))
  return series


def describe(series: Series) -> list[Row]:
  """Describes every metric; loss, KL and its weight come first."""
  first = [name for name in _FIRST if name in series]
  names = [*first, *sorted(name for name in series if name not in first)]
  rows = []
  for name in names:
    x = np.array([value for _, value in series[name]], np.float64)
    ends = float(x[0]), float(x[-1])
    moments = (float(f(x)) for f in (np.min, np.max, np.mean, np.std))
    rows.append(Row(name, *ends, ends[1] - ends[0], *moments))
  return rows


def find_warmup_steps(series: Series) -> dict[float, int]:
  """Finds the lines in which the KL weight has reached some shares of its rise.

  Returns:
    Share (0.5, 0.75, 1) -> step; nothing without a KL weight that rises.
  """
  points = series.get(KL_WEIGHT, [])
  values = np.array([value for _, value in points])
  if not len(values) or values.min() == values.max():
    return {}
  reached = lambda share: int(np.argmax(values >= share * values.max() * (1 - 1e-6)))
  return {share: points[reached(share)][0] for share in SHARES}


def find_sessions(timing: Sequence[Mapping[str, float]]) -> list[Session]:
  """Finds the processes that made a run, in their order.

  Args:
    timing: lines of ``timing.jsonl``. Those of earlier versions name no session.
  """
  groups: dict[float, list] = {}
  for row in timing:
    if 'session' in row and 'seconds' in row:
      groups.setdefault(row['session'], []).append(row)
  sessions = []
  for begin, rows in groups.items():
    start = datetime.datetime.fromtimestamp(begin, datetime.UTC)
    name = f'{start:%Y%m%d-%H%M%S}.{start.microsecond // 1000:03}'
    steps = [row['step'] for row in rows]
    seconds = max(row['seconds'] for row in rows)
    sessions.append(Session(name, steps[0], steps[-1], seconds))
  return sessions


def count_parameters(params: Any) -> dict[str, int]:
  """Counts the parameters of each part, by the first two names of their paths."""
  import jax

  from codax.training.optim import path_name

  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    part = '/'.join(path_name(path).split('/')[:2])
    counts[part] = counts.get(part, 0) + int(np.prod(np.shape(leaf)))
  return counts


def format_history(rates: Series) -> str:
  """Lays out learning rates as CSV: the step, then a column for each group."""
  steps = sorted({step for points in rates.values() for step, _ in points})
  columns = [dict(points) for points in rates.values()]
  rows = [(step, *(column.get(step, '') for column in columns)) for step in steps]
  return _format_csv(('step', *rates), rows)


def _format_csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(head)
  writer.writerows(rows)
  return buffer.getvalue()


def _format(
  workdir: Path, series: Series, rows: list[Row], timing: list[dict], params: Any
) -> str:
  """Lays out ``summary.md``."""
  numbers = ('initial', 'final', 'change', 'min', 'max', 'mean')
  columns = [Column('metric', 'metric'), *(Column(x, x, '.5g') for x in numbers)]
  columns.append(Column('standard deviation', 'deviation', '.5g'))
  shown = [row for row in rows if row.metric in _FIRST or _SHOWN.fullmatch(row.metric)]
  table = markdown_table(columns, shown, is_padded=True)
  parts = [f'# Training in {workdir.resolve().name}\n', table]
  if steps := find_warmup_steps(series):
    head = (
      '## At 50, 75 and 100 % of the KL warm-up\n\nFirst logged steps whose KL weight '
      'has risen that far; evaluations are the nearest ones.\n'
    )
    parts += [head, _warmup(series, steps)]
  if sessions := find_sessions(timing):
    total = progress.duration(sum(one.seconds for one in sessions))
    columns = [Column('session', 'id')]
    columns += [Column(f'{x} step', x, '.0f') for x in ('first', 'last')]
    columns.append(Column('seconds', 'seconds', '.1f'))
    table = markdown_table(columns, sessions, is_padded=True)
    parts += [f'## Sessions\n\nWall time: {total}.\n', table]
  if params and (counts := count_parameters(params)):
    columns = [Column('part', lambda x: x[0])]
    columns.append(Column('parameters', lambda x: x[1], ',.0f'))
    entries = [*counts.items(), ('all', sum(counts.values()))]
    parts += ['## Parameters\n', markdown_table(columns, entries, is_padded=True)]
  return '\n'.join(parts)


def _warmup(series: Series, steps: Mapping[float, int]) -> str:
  """Lays out the metrics at some steps; evaluations are the nearest ones."""

  def at(points: list[tuple[int, float]], step: int) -> float:
    return min(points, key=lambda point: (abs(point[0] - step), point[0]))[1]

  names = [row.metric for row in describe(series)]
  names = [name for name in names if name in _FIRST or _SHOWN.fullmatch(name)]
  columns = [Column('metric', lambda name: name)]
  for share, step in steps.items():
    head = f'{100 * share:.0f} % (step {step})'
    value = lambda name, step=step: at(series[name], step)
    columns.append(Column(head, value, '.5g'))
  return markdown_table(columns, names, is_padded=True)

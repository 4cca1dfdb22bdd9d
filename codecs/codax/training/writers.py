"""Where metrics go: ``metrics.jsonl``, ``timing.jsonl`` and, if installed, TensorBoard.

``metrics.jsonl`` holds one JSON object a line, ``{"step": 100, "train/loss": ...}``.
Its floats are written in the shortest form that reads back as the same float64, and
nothing in it depends on the clock, so an interrupted run that was resumed leaves the
same bytes as an unbroken one. Seconds and images per second are in ``timing.jsonl``.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codax import files

METRICS = 'metrics.jsonl'
TIMING = 'timing.jsonl'


class Writer(NamedTuple):
  """Open files; closed by `close`. Every field is None where nothing is written."""

  metrics: Any
  timing: Any
  board: Any


def open_run(workdir: Path, step: int, active: bool = True) -> Writer:
  """Opens a run's files, dropping what was logged after `step`.

  Args:
    workdir: of the run.
    step: the step that the run goes on from; 0 starts anew.
    active: False on the processes that write nothing.
  """
  if not active:
    return Writer(None, None, None)
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  for name in (METRICS, TIMING):
    _truncate(workdir / name, step)
  return Writer(
    open(workdir / METRICS, 'a', encoding='utf-8'),
    open(workdir / TIMING, 'a', encoding='utf-8'),
    _tensorboard(workdir / 'tensorboard'),
  )


def write(writer: Writer, step: int, metrics: Mapping[str, float]) -> None:
  """Appends one line of metrics, flushed."""
  if writer.metrics is not None:
    _line(writer.metrics, step, metrics)
  if writer.board is not None:
    writer.board.write_scalars(step, dict(metrics))


def write_timing(writer: Writer, step: int, timing: Mapping[str, float]) -> None:
  """Appends one line of things that depend on the clock, flushed."""
  if writer.timing is not None:
    _line(writer.timing, step, timing)
  if writer.board is not None:
    writer.board.write_scalars(step, {f'timing/{k}': v for k, v in timing.items()})


def close(writer: Writer) -> None:
  """Closes the files.

  Raises:
    OSError: no space for what could not be written before; it names the file.
  """
  with contextlib.ExitStack() as stack:
    if writer.board is not None:
      stack.callback(writer.board.close)
    for f in (writer.timing, writer.metrics):
      if f is not None:
        stack.callback(_close, f)


def read(path: Path) -> list[dict[str, Any]]:
  """The lines of a .jsonl file; none if there is no such file.

  A line cut short by a crash can only be the last one, and is left out.
  """
  if not Path(path).is_file():
    return []
  return [row for _, row in _rows(path)]


def _rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
  """Every readable line with its text."""
  rows = []
  for line in Path(path).read_bytes().splitlines(keepends=True):
    try:
      row = json.loads(line)
    except ValueError:
      continue
    whole = line.endswith(b'\n') and isinstance(row, dict)
    if whole and isinstance(row.get('step'), int):
      rows.append((line, row))
  return rows


def _truncate(path: Path, step: int) -> None:
  """Drops lines after `step` and lines cut short, leaving the others' bytes alone."""
  if path.is_file():
    kept = b''.join(line for line, row in _rows(path) if row['step'] <= step)
    if kept != path.read_bytes():
      files.write_bytes(path, kept)


def _line(f: Any, step: int, values: Mapping[str, float]) -> None:
  row = {'step': int(step), **{k: float(values[k]) for k in sorted(values)}}
  try:
    f.write(json.dumps(row) + '\n')
    f.flush()
    os.fsync(f.fileno())
  except OSError as e:
    raise OSError(e.errno, e.strerror, f.name) from e


def _close(f: Any) -> None:
  try:
    f.close()
  except OSError as e:
    raise OSError(e.errno, e.strerror, f.name) from e


def _tensorboard(path: Path) -> Any:
  """A TensorBoard writer where the [tensorboard] extra is installed, else None."""
  try:
    import tensorflow  # noqa: F401 (clu's writers need it and do not say so)
    from clu import metric_writers
  except ImportError:
    return None
  return metric_writers.SummaryWriter(str(path))

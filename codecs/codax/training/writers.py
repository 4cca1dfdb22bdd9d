"""Writers of metrics: ``metrics.jsonl``, ``timing.jsonl`` and the boards.

``metrics.jsonl`` holds one JSON object a line, ``{"step": 100, "train/loss": ...}``.
Its floats are written in the shortest form that reads back as the same float64, and
nothing in it depends on the clock, so an interrupted run that was resumed leaves the
same bytes as an unbroken one. Seconds and images per second are in ``timing.jsonl``.
`boards` has TensorBoard and Weights & Biases, which get all of it, and images.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from codax import files
from codax.training import boards as boards_lib

METRICS = 'metrics.jsonl'
TIMING = 'timing.jsonl'


class Writer(NamedTuple):
  """Open files; closed by `close`.

  Attributes:
    metrics: text file, or None on processes that write nothing.
    timing: text file, or None likewise.
    boards: open boards; none on processes that write nothing.
  """

  metrics: Any
  timing: Any
  boards: tuple[boards_lib.Board, ...] = ()


def open_run(
  workdir: Path,
  step: int,
  active: bool = True,
  boards: Iterable[str] = (boards_lib.TENSORBOARD,),
  config: Any = None,
) -> Writer:
  """Opens a run's files, dropping lines after `step`.

  Args:
    workdir: folder of the run; made if it is missing.
    step: number of steps already made; 0 starts anew.
    active: False on the processes that write nothing.
    boards: names of boards to open beside, from `boards.NAMES`.
    config: the whole configuration, for the boards that show it.

  Raises:
    CodaxError: an unknown board, or one that is not installed.
    OSError: no space, no permission.
  """
  if not active:
    return Writer(None, None)
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  for name in (METRICS, TIMING):
    _truncate(workdir / name, step)
  with contextlib.ExitStack() as stack:
    open_file = lambda name: stack.enter_context(
      open(workdir / name, 'a', encoding='utf-8')
    )
    metrics, timing = open_file(METRICS), open_file(TIMING)
    opened = boards_lib.open_boards(boards, workdir, step, config)
    stack.pop_all()  # all is open: the files are closed by `close`
  return Writer(metrics, timing, opened)


def write(writer: Writer, step: int, metrics: Mapping[str, float]) -> None:
  """Appends one line of metrics, flushed."""
  if writer.metrics is not None:
    _append(writer.metrics, step, metrics)
  for board in writer.boards:
    board.scalars(int(step), metrics)


def write_timing(writer: Writer, step: int, timing: Mapping[str, float]) -> None:
  """Appends one line of numbers that depend on the clock, flushed.

  The boards do not get 'session', which is the same in all lines of a process.
  """
  if writer.timing is not None:
    _append(writer.timing, step, timing)
  shown = {f'timing/{k}': v for k, v in timing.items() if k != 'session'}
  for board in writer.boards:
    board.scalars(int(step), shown)


def write_images(writer: Writer, step: int, images: Mapping[str, np.ndarray]) -> None:
  """Shows images on the boards.

  Args:
    writer: open files.
    step: step of the images.
    images: name -> uint8 [H, W, 3].
  """
  for board in writer.boards:
    board.images(int(step), images)


def close(writer: Writer) -> None:
  """Closes the files.

  Raises:
    OSError: no space for lines that could not be written before; it names the file.
  """
  with contextlib.ExitStack() as stack:
    for board in writer.boards:
      stack.callback(board.close)
    for f in (writer.timing, writer.metrics):
      if f is not None:
        stack.callback(_close, f)


def read(path: Path) -> list[dict[str, Any]]:
  """Returns the lines of a .jsonl file; none if there is no such file.

  A line cut short by a crash is the last one, and is left out, as damaged ones are.
  """
  if not Path(path).is_file():
    return []
  return [row for _, row in _rows(path)]


def _rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
  """Returns every readable line with its text."""
  lines = Path(path).read_bytes().splitlines(keepends=True)
  rows = [(line, _parse(line)) for line in lines]
  return [(line, row) for line, row in rows if row is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
  """Returns the numbers of a line; None if it is damaged or not whole."""
  is_number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  try:
    row = json.loads(line)
    if line.endswith(b'\n') and all(map(is_number, row.values())):
      return row if isinstance(row['step'], int) else None
  except (ValueError, KeyError, AttributeError, RecursionError):
    pass
  return None


def warn_damaged(workdir: Path) -> None:
  """Names the damaged logs of a complete run in warnings: nobody can make them again.

  Args:
    workdir: work directory of the run; those of its buckets are looked at too.
  """
  for name in (METRICS, TIMING):
    for path in [
      Path(workdir) / name,
      *sorted(Path(workdir).glob(f'buckets/**/{name}')),
    ]:
      if path.is_file():
        is_empty = not _find_whole_lines(path, is_cut_allowed=False)
        if is_empty and name == METRICS:
          logging.warning('%s is damaged: it is empty', path)
      elif path.exists():
        logging.warning('%s is damaged: it is no file', path)


def _find_whole_lines(
  path: Path, is_cut_allowed: bool = True
) -> list[tuple[bytes, dict[str, Any]]]:
  """Returns every readable line with its text; a warning counts the damaged ones.

  Where `is_cut_allowed`, a last line that a crash has cut short is no damage.
  """
  rows, lines = _rows(path), path.read_bytes().splitlines(keepends=True)
  is_cut = bool(lines) and not lines[-1].endswith(b'\n')
  count = len(lines) - len(rows) - (is_cut and is_cut_allowed)
  if count:
    logging.warning('%s is damaged: %d of its lines are left out', path, count)
  return rows


def _truncate(path: Path, step: int) -> None:
  """Drops lines after `step` and damaged ones, leaving the others' bytes alone."""
  if not path.is_file():
    return
  rows = _find_whole_lines(path) if step else []
  new = b''.join(line for line, row in rows if row['step'] <= step)
  if new != path.read_bytes():
    files.write_bytes(path, new)


def _append(f: Any, step: int, values: Mapping[str, float]) -> None:
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

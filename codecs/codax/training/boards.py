"""Optional writers beside ``metrics.jsonl``: TensorBoard event files and W&B runs.

TensorBoard's event files are written through tensorboardX, a small package that needs
neither TensorFlow nor PyTorch. Weights & Biases is the extra ``codax[wandb]``.

A resumed run repeats the steps between its last checkpoint and the point where it was
stopped. TensorBoard gets a new event file for every process, which opens with the
session start that makes TensorBoard drop the repeated steps of earlier files. W&B goes
on with the same run, whose id is kept in the work directory; it cannot take points
back, so repeated steps appear twice there, with equal values.
"""

import contextlib
import importlib.util
import io
import json
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from codax import files
from codax.errors import CodaxError, unknown

TENSORBOARD = 'tensorboard'
WANDB = 'wandb'
NAMES = (TENSORBOARD, WANDB)
WANDB_ID = 'wandb_run.json'


class Board(NamedTuple):
  """An open writer.

  Attributes:
    scalars: function (step, name -> float) that writes the finite ones.
    images: function (step, name -> uint8 [H, W, 3]).
    close: function () that writes the rest and frees the files.
  """

  scalars: Callable[[int, Mapping[str, float]], None]
  images: Callable[[int, Mapping[str, np.ndarray]], None]
  close: Callable[[], None]


def check(names: Iterable[str]) -> None:
  """Checks that all writers of ``config.writers`` exist and are installed.

  Raises:
    CodaxError: an unknown name, or W&B without its package.
  """
  for name in names:
    if name not in NAMES:
      raise unknown('writer', name, NAMES)
    if name == WANDB and importlib.util.find_spec('wandb') is None:
      raise CodaxError(
        "config.writers names 'wandb', which is not installed: "
        "pip install 'codax[wandb]'"
      )


def open_boards(
  names: Iterable[str], workdir: Path, step: int, config: Any
) -> tuple[Board, ...]:
  """Opens writers by name.

  Args:
    names: any of `NAMES`.
    workdir: folder of the run.
    step: number of steps already made; later points of earlier processes are dropped.
    config: the whole configuration, shown by W&B; any mapping.
  """
  names = tuple(names)
  check(names)
  boards = []
  for name in names:
    if name == TENSORBOARD:
      boards.append(open_tensorboard(workdir / TENSORBOARD, step))
    else:
      boards.append(open_wandb(workdir, step, config))
  return tuple(boards)


def open_tensorboard(folder: Path, step: int) -> Board:
  """Opens a new event file in `folder`, which is made if it is missing.

  `step` is the number of steps already made: TensorBoard drops later points of older
  files. OSError, also from the functions of the board: no space, no permission.
  """
  from tensorboardX import RecordWriter
  from tensorboardX.proto import event_pb2, summary_pb2

  folder.mkdir(parents=True, exist_ok=True)
  # TensorBoard reads the files of a folder in the order of their names.
  count = len(list(folder.glob('events.out.tfevents.*')))
  path = folder / f'events.out.tfevents.{int(time.time()):010d}.{count:04d}'
  # tensorboardX's SummaryWriter has a queue and a thread, which lose what is under way
  # when a process is killed, and hang on a full disk. Records are simple: no thread.
  records = RecordWriter(str(path.absolute()))  # a relative one may look like a URL

  def write(**fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    records.write(event.SerializeToString())

  @contextlib.contextmanager
  def naming() -> Iterator[None]:
    try:
      yield
    except OSError as e:
      raise OSError(e.errno, e.strerror, str(path)) from e

  def add(at: int, values: list) -> None:
    with naming():
      for value in values:
        write(step=at, summary=summary_pb2.Summary(value=[value]))
      records.flush()

  def scalars(at: int, metrics: Mapping[str, float]) -> None:
    value = summary_pb2.Summary.Value
    add(at, [value(tag=k, simple_value=v) for k, v in _finite(metrics).items()])

  def images(at: int, arrays: Mapping[str, np.ndarray]) -> None:
    values = []
    for name, array in arrays.items():
      image = summary_pb2.Summary.Image(
        height=array.shape[0],
        width=array.shape[1],
        colorspace=3,
        encoded_image_string=_encode_png(array),
      )
      values.append(summary_pb2.Summary.Value(tag=name, image=image))
    add(at, values)

  def close() -> None:
    with naming():
      records.close()

  write(file_version='brain.Event:2')
  start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  write(step=step + 1, session_log=start)
  return Board(scalars, images, close)


def open_wandb(workdir: Path, step: int, config: Any) -> Board:
  """Opens a run of Weights & Biases, or goes on with that of the work directory.

  The variables of W&B's own, such as WANDB_MODE=offline and WANDB_PROJECT, hold.

  Args:
    workdir: folder of the run; ``wandb_run.json`` in it keeps the id.
    step: number of steps already made; with 0 a new run begins.
    config: the whole configuration; any mapping.

  Raises:
    CodaxError: W&B refuses, for example without a login.
  """
  import wandb

  workdir.mkdir(parents=True, exist_ok=True)
  try:
    run = wandb.init(
      project=None if wandb.Settings().project else 'codax',
      id=_run_id(workdir / WANDB_ID, step),
      name=workdir.resolve().name,
      dir=str(workdir),
      config=dict(config or {}),
      resume='allow' if step else None,
      settings=wandb.Settings(console='off', silent=True),
    )
  except wandb.errors.Error as e:
    text = ' '.join(str(e).split())
    raise CodaxError(f'Weights & Biases: {text}') from e
  # Its own counter of steps cannot go back, as a resumed run has to.
  run.define_metric('*', step_metric='step')

  def scalars(at: int, metrics: Mapping[str, float]) -> None:
    run.log({**_finite(metrics), 'step': at})

  def images(at: int, arrays: Mapping[str, np.ndarray]) -> None:
    shown = {name: wandb.Image(Image.fromarray(x)) for name, x in arrays.items()}
    run.log({**shown, 'step': at})

  return Board(scalars, images, run.finish)


def _run_id(path: Path, step: int) -> str:
  """Returns the id kept in a file, or a new one (kept from now on) at step 0."""
  if step:
    try:
      name = files.read_json(path).get('id')
      if isinstance(name, str) and name.isalnum():
        return name
      logging.warning('%s is damaged: it holds no id; a new W&B run begins', path)
    except FileNotFoundError:
      pass  # W&B was not among the writers before
    except CodaxError as e:
      logging.warning('%s; a new W&B run begins', e)
  name = secrets.token_hex(4)
  files.write_text(path, json.dumps({'id': name}) + '\n')
  return name


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
  values = {name: float(value) for name, value in metrics.items()}
  return {name: value for name, value in values.items() if math.isfinite(value)}


def _encode_png(image: np.ndarray) -> bytes:
  out = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(out, 'png')
  return out.getvalue()

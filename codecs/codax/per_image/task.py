"""The contract of a codec that trains on every image, as the runtime sees it.

A family's ``task.py`` has ``PER_IMAGE``, a `PerImageTask`. The runtime (`run.run`) puts
jobs that one program can fit into buckets, calls `fit` for each bucket, stores the
fits, and calls `write` for each file. All that is stored is taken from there when the
same command is given again. A family neither keeps files nor watches the clock.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax.training.settings import Settings


class Job(NamedTuple):
  """One file to make.

  Attributes:
    label: name of the file without suffix, unique in the run.
    image_name: name of the image, as the data source has it.
    image: uint8 [H, W, 3].
    settings: settings of the family, such as the weight of the rate.
    program_key: jobs of one image size are fitted together if these are equal.
  """

  label: str
  image_name: str
  image: np.ndarray
  settings: Any
  program_key: tuple[int | str, ...] = ()


class Session(NamedTuple):
  """The surroundings of a fit.

  Attributes:
    workdir: work directory of the run.
    folder: folder of the bucket, for checkpoints, metrics and curves.
    chosen: ``seed``, ``log_every``, ``checkpoint_every`` and the like.
    reason: () -> None, or the reason to stop now ('signal', 'max_seconds').
    seconds_left: () -> seconds until 'max_seconds', more than 0; 0 is no limit.
  """

  workdir: Path
  folder: Path
  chosen: Settings
  reason: Callable[[], str | None]
  seconds_left: Callable[[], float]


class FitOutcome(NamedTuple):
  """The end of a call of `PerImageTask.fit`.

  Attributes:
    fits: one a job, or None if the fit is not complete.
    seconds: time of all steps, those before an interruption included.
    stopped: None, or the reason for which the fit is not complete; the same call then
      goes on from a checkpoint.
  """

  fits: Sequence[Any] | None
  seconds: float
  stopped: str | None = None


class PerImageTask(NamedTuple):
  """The functions of a family.

  Attributes:
    plan: (config, pass_over) -> [Job], in the order of the report. Checks the whole
      configuration and reads all images; raises `CodaxError`. Bad images are handed to
      `pass_over` if ``config.data.skip_bad`` is set, see `codax.data.checks`.
    fit: (config, jobs, session) -> FitOutcome. Fits the jobs of a bucket in one
      program, from the newest checkpoint in `session.folder` if there is one; saves
      checkpoints and writes ``metrics.jsonl`` there; asks `session.reason` regularly.
    pack: (fits) -> (arrays, facts), named NumPy arrays and JSON-able facts.
    unpack: (arrays, facts) -> fits, the inverse. Files are always made of unpacked
      fits.
    write: (config, job, fit, session) -> codax.codec.Encoded. Raises `OutOfReach` for a
      target that the image cannot meet; `stop_reason` says why the file is not the
      requested one.
    decode: (data) -> uint8 [H, W, C].
    row_facts: (job, details) -> dict, added to the file's row of the report.
    columns: columns of ``metrics.csv``, keys of the details and of `csv_facts`.
    csv_facts: (details) -> dict of further columns. Optional.
    report: (details, label) -> Markdown, the report sheet of a file. Optional.
  """

  plan: Callable[..., list[Job]]
  fit: Callable[..., FitOutcome]
  pack: Callable[..., tuple[dict[str, np.ndarray], dict[str, Any]]]
  unpack: Callable[..., Sequence[Any]]
  write: Callable[..., Any]
  decode: Callable[[bytes], np.ndarray]
  row_facts: Callable[..., dict[str, Any]]
  columns: Sequence[str]
  csv_facts: Callable[..., dict[str, Any]] = lambda details: {}
  report: Callable[..., str] | None = None

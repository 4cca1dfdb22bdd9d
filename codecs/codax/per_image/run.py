"""The runtime of codecs that train on every image of a data set, and encode it.

`run` is called by ``launch/train.py``. The work directory gets

=========================  ========================================================
``files/LABEL.cdx``        every file, its details (``.json``) and, of families that
                           have one, its report (``.md``)
``files/LABEL.missed.json``  a target that is out of reach
``buckets/NAME/``          of images that one program fits: ``metrics.jsonl``,
                           ``timing.jsonl``, curves, checkpoints and
                           ``fits.safetensors``, of which files are made
``metrics.csv``            a line for each file
``config.json``, ``images.json``  identity of the run, for the same command given again
=========================  ========================================================

Nothing is made twice: the same command goes on inside the fit in which it was
interrupted. What is damaged is named and made again.
"""

import collections
import csv
import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from codax import files, signals
from codax.codec import Encoded
from codax.config import MAX_INT, check_range
from codax.data import checks
from codax.errors import CodaxError, Diverged, OutOfReach
from codax.metrics import distortion
from codax.per_image import result, store
from codax.per_image.result import EncodedImage, RunResult
from codax.per_image.task import Job, PerImageTask, Session
from codax.training import memory, progress, settings, stopping, workdirs, writers

BUCKETS = 'buckets'
_EVERY = 60.0  # seconds between lines about files, beside those about their steps


def make_buckets(jobs: Sequence[Job], max_batch: int) -> dict[str, list[Job]]:
  """Divides jobs into those that one program fits, by the bucket's name.

  Args:
    jobs: all jobs of the run.
    max_batch: largest number of jobs in a bucket; 0 is no limit. Buckets of
      `max_batch` 1 have the names of their files.
  """
  if max_batch == 1:
    return {_bucket_name(job.label): [job] for job in jobs}
  by_program = collections.defaultdict(list)
  for job in jobs:
    width, height = job.image.shape[1::-1]
    by_program['_'.join(map(str, (f'{width}x{height}', *job.program_key)))].append(job)
  out = {}
  for name, alike in by_program.items():
    size = max_batch or len(alike)
    for i in range(0, len(alike), size):
      out[f'{name}_{i // size}' if len(alike) > size else name] = alike[i : i + size]
  return out


def _bucket_name(label: str) -> str:
  """Names the bucket of a file: checkpoints need names that are UTF-8, in one line."""
  if label.isprintable():
    return label
  digest = hashlib.sha256(label.encode('utf-8', 'surrogateescape')).hexdigest()
  plain = ''.join(x if x.isprintable() else '_' for x in label)
  return f'{plain}_{digest[:8]}'


def run(
  task: PerImageTask, config: Mapping[str, Any], workdir: str | Path
) -> RunResult:
  """Encodes every image of the configuration's data set.

  A file whose target is out of reach is passed over, here and when the same command is
  given again; the result and ``metrics.csv`` say so. With ``config.data.skip_bad`` this
  holds for images too that cannot be read, or that the family refuses to encode.

  Args:
    task: the family.
    config: the whole configuration; the runtime reads ``max_batch`` and the keys of
      `settings.Settings`.
    workdir: work directory; that of another process is refused.

  Raises:
    CodaxError: a bad configuration or image, a work directory of another run or
      process, or no file's target is in reach.
  """
  workdir, passed_over = Path(workdir).expanduser(), []
  workdirs.check_place(workdir, config.get('data'))
  jobs = task.plan(config, passed_over.append)
  max_batch, chosen = _read_max_batch(config), settings.read(config)
  if len({job.label for job in jobs}) < len(jobs):
    raise CodaxError('two files of the run would have the same name')
  files.check_labels(job.label for job in jobs)
  with files.lock(workdir):
    _claim(config, jobs, workdir)
    start = time.monotonic()

    def seconds_left() -> float:
      limit = chosen.max_seconds
      return limit and max(limit - (time.monotonic() - start), 1e-3)

    done: dict[str, Encoded | str] = {}
    with (
      stopping.watch(chosen.max_seconds) as reason,
      progress.track(
        len(jobs), unit='file', every=_EVERY, is_warm=True
      ) as shown,
    ):  # fmt: skip
      for name, members in make_buckets(jobs, max_batch).items():
        folder = workdir / BUCKETS / name
        session = Session(workdir, folder, chosen, reason, seconds_left)
        with memory.explain(config):
          stopped = _run_bucket(task, config, members, session, done, shown.advance)
        if stopped:
          return RunResult(stopped)
    return _collect(task, jobs, done, workdir)._replace(passed_over=passed_over)


def _read_max_batch(config: Mapping[str, Any]) -> int:
  found = config.get('max_batch', 0)
  check_range('config.max_batch', found, 0, MAX_INT, is_integer=True)
  return found


def _claim(config: Mapping[str, Any], jobs: Sequence[Job], workdir: Path) -> None:
  """Makes a work directory this run's, unless it has results of another one."""
  images = [(job.image_name, job.image) for job in jobs]
  if workdirs.has_results(workdir):
    settings.check_same(config, workdir)
    result.check_images(images, workdir)
  settings.save(config, workdir)
  result.save_images(images, workdir)


def _run_bucket(
  task: PerImageTask,
  config: Mapping[str, Any],
  members: Sequence[Job],
  session: Session,
  done: dict[str, Encoded | str],
  advance: Callable[[int], Any],
) -> str | None:
  """Makes the files of a bucket that are not there yet.

  Args:
    done: output: each file by its label, or the reason that it is missed.

  Returns:
    None, or the reason for which it is not complete.
  """
  fits = None
  for i, job in enumerate(members):
    found = _load(task, session.workdir, job.label)
    if found is None:
      stopped = session.reason()
      if fits is None and not stopped:
        fits, stopped = _fit(task, config, members, session)
      if stopped:
        return stopped
      fitted, stored = fits
      if isinstance(fitted, CodaxError):  # of a bucket of one file
        found = _pass_over(config, job.label, fitted, session.workdir)
      else:
        # The fit is stored: a file that a signal interrupts is made again from it.
        with signals.allow():
          found = _write(task, config, job, fitted[i], stored, len(members), session)
      if isinstance(found, Encoded) and found.stop_reason:
        return found.stop_reason
    done[job.label] = found
    advance(1)
  return None


def _load(task: PerImageTask, workdir: Path, label: str) -> Encoded | str | None:
  """Returns a file that is there, or why it is missed; None if it is to be made."""
  missed = result.load_missed(workdir, label)
  return missed or result.load_encoded(workdir, label, task.decode)


def _fit(task: PerImageTask, config: Any, members: Sequence[Job], session: Session):
  """Fits a bucket, or finds it fitted.

  Returns:
    ((fits, store.Stored) or None, None or the reason for which there is none). A
    `Diverged` error stands for the fits of a bucket of one file, and None for the rest.
  """
  file = session.folder / store.FILE
  if file.is_file():
    try:
      return _load_fits(task, file, len(members)), None
    except CodaxError as e:
      logging.warning('%s: it is made again', e)
  session.folder.mkdir(parents=True, exist_ok=True)
  files.try_writing(file)  # before the fit, which may take hours
  logging.info('bucket %s: fitting %d', session.folder.name, len(members))
  try:
    outcome = task.fit(config, members, session)
  except Diverged as e:
    if len(members) > 1:
      raise CodaxError(
        f'bucket {session.folder.name}: {e} (with config.max_batch=1 '
        f'{checks.CONFIG_ADVICE})'
      ) from e
    return (e, None), None
  if outcome.stopped:
    return None, outcome.stopped
  store.save(file, *task.pack(outcome.fits), outcome.seconds)
  return _load_fits(task, file, len(members)), None


def _load_fits(task: PerImageTask, file: Path, count: int):
  """Returns (fits, store.Stored) of a file of `store.save`."""
  with store.open_store(file) as stored:
    fits = task.unpack(stored.arrays, stored.facts)
    if len(fits) != count:
      raise ValueError(f'it holds {len(fits)} fits, not {count}')
    return fits, stored


def _write(
  task: PerImageTask,
  config: Any,
  job: Job,
  fit: Any,
  stored: store.Stored,
  count: int,
  session: Session,
) -> Encoded | str:
  """Makes a file, and saves it unless it was stopped; or returns why it is missed."""
  label, (width, height) = files.make_printable(job.label), job.image.shape[1::-1]
  logging.info('%s: %d x %d pixels', label, width, height)
  start = time.monotonic()
  try:
    encoded = task.write(config, job, fit, session)
  except CodaxError as e:
    return _pass_over(config, job.label, e, session.workdir)
  if encoded.stop_reason:
    return encoded
  seconds = time.monotonic() - start + stored.seconds / count
  details = encoded.details | {'seconds': seconds, 'source': stored.source}
  if count > 1:
    details['fitted_together'] = count
  details['psnr_above_one_color'] = gain = distortion.psnr_above_one_color(
    job.image, encoded.reconstruction
  )
  if text := distortion.explain_gain(gain):
    logging.warning('%s: %s', label, text)
  if task.report is not None:
    path = session.workdir / result.FILES / f'{job.label}.md'
    files.write_text(path, task.report(details, job.label))
  encoded = encoded._replace(details=details)
  return result.save_encoded(session.workdir, job.label, encoded)


def _pass_over(config: Any, label: str, error: CodaxError, workdir: Path) -> str:
  """Records why a file is missed, and returns that.

  Raises:
    CodaxError: the image is refused, and not to be passed over.
  """
  if not (isinstance(error, OutOfReach) or config.get('data', {}).get('skip_bad')):
    raise CodaxError(f'{label}: {error} ({checks.CONFIG_ADVICE})') from error
  logging.warning('%s: %s', files.make_printable(label), error)
  result.save_missed(workdir, label, str(error))
  return str(error)


def _collect(
  task: PerImageTask,
  jobs: Sequence[Job],
  done: Mapping[str, Encoded | str],
  workdir: Path,
) -> RunResult:
  """Returns the result of a complete run, in the order of the configuration."""
  _write_csv(workdir / result.CSV, task, {job.label: done[job.label] for job in jobs})
  missed = {label: why for label, why in done.items() if isinstance(why, str)}
  if len(missed) == len(jobs):
    label = jobs[0].label
    raise CodaxError(f'no target is in reach; {label}: {missed[label]}')
  images, sources = [], []
  for job in jobs:
    if job.label in missed:
      continue
    encoded = done[job.label]
    details = encoded.details
    facts = {'image': job.image_name, **task.row_facts(job, details)}
    images.append(EncodedImage(job.label, job.image, encoded, facts))
    sources.append({'seconds': details['seconds'], **details['source']})
  metrics = {
    'seconds_a_file': float(np.mean([source['seconds'] for source in sources]))
  }
  writers.warn_damaged(workdir)
  speeds = [
    line['images_per_s']
    for path in sorted((workdir / BUCKETS).rglob(writers.TIMING))
    for line in writers.read(path)
    if line.get('images_per_s', 0) > 0
  ]
  if speeds:
    metrics['step_ms_a_picture'] = 1e3 / float(np.median(speeds))
  lines = [f'{label}: {why}' for label, why in missed.items()]
  return RunResult(None, images, metrics, sources, lines)


def _write_csv(
  path: Path, task: PerImageTask, done: Mapping[str, Encoded | str]
) -> None:
  """Writes a line for each file, missed ones included."""
  out = io.StringIO()
  columns = ('label', *task.columns, 'psnr_above_one_color', 'missed')
  table = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
  table.writeheader()
  for label, found in done.items():
    if isinstance(found, str):
      table.writerow({'label': label, 'missed': found})
    else:
      details = found.details
      table.writerow({'label': label, **details, **task.csv_facts(details)})
  files.write_text(path, out.getvalue())

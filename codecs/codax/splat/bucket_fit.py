"""Fits of a bucket of images for `per_image.run`: logged, checkpointed, interruptible.

A fit that is killed at any moment continues from its newest checkpoint and ends with
the same Gaussians, to the bit, and the same ``metrics.jsonl`` (on the same machine).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from codax.per_image import store
from codax.per_image.task import FitOutcome, Job, Session
from codax.splat import counts, fit, fit_state, schedule, snapshots
from codax.splat.fit_config import FitConfig
from codax.splat.fit_state import CallMetrics, FitResult, FitState, Stage
from codax.splat.schedule import Schedule
from codax.splat.target import Target, make_target
from codax.training import plots, progress, settings, writers

_PLOT_EVERY = 30.0  # seconds: drawing takes half a second


class StoredFit(NamedTuple):
  """A finished fit of one image.

  Attributes:
    result: Gaussians and facts.
    stages: snapshots, of images that were fitted by themselves.
  """

  result: FitResult
  stages: Sequence[Stage] = ()


class _Progress(NamedTuple):
  """A fit under way.

  Attributes:
    state: after the last call.
    stages: snapshots so far.
    seconds: time spent so far.
  """

  state: FitState
  stages: list[Stage]
  seconds: float


class _Log(NamedTuple):
  """Open metrics files of a bucket.

  Attributes:
    writer: open files.
    session: surroundings of the fit.
    count: number of images.
  """

  writer: writers.Writer
  session: Session
  count: int


def fit_bucket(
  config: Mapping[str, Any], jobs: Sequence[Job], session: Session
) -> FitOutcome:
  """Fits the images of jobs in one program; see `per_image.task.PerImageTask`.

  Args:
    config: whole configuration; the jobs' settings are `encode.EncodeConfig`.
    jobs: jobs of one bucket.
    session: surroundings.
  """
  first = jobs[0].settings
  recipe = fit.limit_growth(first.recipe, first.total)
  plan = schedule.plan_calls(first.total, recipe)
  targets = [make_target(job.image) for job in jobs]
  reached = _start(jobs, targets, recipe, first.seed, session.folder)
  step = _count_steps(plan, reached.state.call)
  names = settings.board_names(config.get('writers', ()))
  shown = settings.plain(config)
  writer = writers.open_run(session.folder, step, boards=names, config=shown)
  try:
    log = _Log(writer, session, len(jobs))
    with progress.track(first.total, step, leave=False) as shown:
      reached, metrics, stopped = _make_calls(reached, plan, log, shown)
  finally:
    writers.close(writer)
  plots.curves(session.folder)
  if stopped:
    logging.info('stopped by %s at step %d; saved', stopped,
                 _count_steps(plan, reached.state.call))  # fmt: skip
    return FitOutcome(None, reached.seconds, stopped)
  look = _make_look(reached.stages, len(jobs))
  results = fit.finish(reached.state, plan, metrics, look=look)
  fits = [StoredFit(each, reached.stages) for each in results]
  return FitOutcome(fits, reached.seconds)


def _make_calls(
  reached: _Progress, plan: Schedule, log: _Log, shown: progress.Progress
) -> tuple[_Progress, CallMetrics, str | None]:
  """Makes the remaining calls, unless there is a reason to stop.

  Returns:
    The progress, metrics of the last call, and None or the reason.
  """
  state, stages, spent = reached
  chosen, count = log.session.chosen, log.count
  look, devices = _make_look(stages, count), math.gcd(count, jax.device_count())
  step, stopped, timed_from = _count_steps(plan, state.call), None, None
  started = clock = time.monotonic()
  begin = started - spent
  while state.call < plan.num_calls and not stopped:
    before = step
    state, metrics = fit.advance(state, plan, devices, look)
    step = _count_steps(plan, state.call)
    shown.advance(step - before)
    is_done = state.call == plan.num_calls
    stopped = None if is_done else log.session.reason()
    if is_done or settings.crossed(before, step, chosen.log_every):
      now = time.monotonic()
      speed = None if timed_from is None else (step - timed_from) / (now - clock)
      _write_line(log, step, _average(state, metrics), speed)
      if now - started > _PLOT_EVERY:
        plots.curves(log.session.folder, min_age=_PLOT_EVERY)
      clock, timed_from = time.monotonic(), step
    due = stopped or settings.crossed(before, step, chosen.checkpoint_every)
    if due and not is_done:
      _save(log.session, step, _Progress(state, stages, time.monotonic() - begin))
  return _Progress(state, stages, time.monotonic() - begin), metrics, stopped


def _write_line(
  log: _Log, step: int, means: dict[str, float], speed: float | None
) -> None:
  """Writes metrics, and from the second line on also the speed.

  The first line would time compilation.
  """
  writers.write(log.writer, step, means)
  if speed is not None:
    timing = {'steps_per_s': speed, 'images_per_s': speed * log.count}
    writers.write_timing(log.writer, step, timing)


def _make_look(stages: list[Stage], count: int) -> Callable:
  """Returns a recorder of stages for a single image's fit, a no-op for several."""
  return snapshots.make_recorder(stages) if count == 1 else fit.ignore_stage


def _count_steps(plan: Schedule, call: int) -> int:
  """Returns the number of steps made after `call` calls."""
  return min(call * plan.steps_per_call, plan.lr_steps)


def _start(
  jobs: Sequence[Job],
  targets: Sequence[Target],
  recipe: FitConfig,
  seed: int,
  folder: Path,
) -> _Progress:
  """Returns the newest checkpoint of a bucket, or the state before the first step."""
  found = store.load_checkpoint(folder)
  if found is None:
    sizes, stages = [counts.choose_count(job.image, job.settings) for job in jobs], []
    look = _make_look(stages, len(jobs))
    return _Progress(fit.init_state(targets, sizes, recipe, seed, look), stages, 0.0)
  logging.info('going on from step %d of %s', found.step, folder)
  facts = found.facts
  state = fit_state.unpack_state(found.arrays, facts['state'], targets, recipe)
  stages = fit_state.unpack_stages(found.arrays, facts['stages'])
  return _Progress(state, stages, facts['seconds'])


def _save(session: Session, step: int, reached: _Progress) -> None:
  """Saves a checkpoint."""
  arrays, state = fit_state.pack_state(reached.state)
  more, stages = fit_state.pack_stages(reached.stages)
  facts = {'state': state, 'stages': stages, 'seconds': reached.seconds}
  keep = session.chosen.keep_checkpoints
  store.save_checkpoint(session.folder, step, arrays | more, facts, keep)


def _average(state: FitState, metrics: CallMetrics) -> dict[str, float]:
  """Returns the metrics of a line of the log, means over the images."""
  mse = np.asarray(metrics.mse, np.float64)
  found = {
    'train/mse': mse.mean(),
    'train/psnr': np.mean(-10 * np.log10(np.maximum(mse, 1e-12))),
    'train/gaussians': np.mean([each.num_active for each in state.fits]),
  }
  models = [each.rate_model for each in metrics.qat or ()]
  if models and None not in models:
    height, width = state.fits[0].target.size
    bits = np.mean([float(model.total) for model in models])
    found['train/bpp'] = bits / (height * width)
  return {name: float(value) for name, value in found.items()}


def pack(fits: Sequence[StoredFit]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns fits as named arrays and JSON-able facts."""
  arrays: dict[str, np.ndarray] = {}
  images = []
  for i, each in enumerate(fits):
    arrays |= fit_state.pack_gaussians(f'{i}.gaussians', each.result.gaussians)
    more, stages = fit_state.pack_stages(each.stages)
    arrays |= {f'{i}.{name}': value for name, value in more.items()}
    images.append({'facts': each.result.facts._asdict(), 'stages': stages})
  return arrays, {'images': images}


def unpack(
  arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> list[StoredFit]:
  """Inverts `pack`."""
  fits = []
  for i, about in enumerate(facts['images']):
    gaussians = fit_state.unpack_gaussians(f'{i}.gaussians', arrays)
    prefix = f'{i}.'
    own_arrays = {
      name.removeprefix(prefix): value
      for name, value in arrays.items()
      if name.startswith(prefix)
    }
    stages = fit_state.unpack_stages(own_arrays, about['stages'])
    result = FitResult(gaussians, fit_state.unpack_facts(about['facts']))
    fits.append(StoredFit(result, stages))
  return fits

"""The training loop, one for all families.

It is crash-exact: everything that a step does is a function of the state and of
(seed, step), dispatches always end at the same steps, and sums of metrics since the
last line of the log are kept with the checkpoints (`intervals`). So a run that was
killed at any moment and started again writes the same ``metrics.jsonl``, to the bit, as
one that was not (on the same machine; GPUs need
XLA_FLAGS=--xla_gpu_deterministic_ops=true).

The order at a step is: log, evaluate, save. A checkpoint thus never lies ahead of the
log, and on resuming the lines after the checkpoint are dropped and written again.
"""

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from codax import files
from codax.training import (
  boards,
  checkpoints,
  dispatch,
  identity,
  intervals,
  memory,
  metrics_reduction,
  networks,
  outside,
  patience,
  plots,
  prefetch,
  profiling,
  progress,
  settings,
  starts,
  stopping,
  workdirs,
  writers,
)
from codax.training import mesh as mesh_lib
from codax.training.task import Task

CHECKPOINTS = networks.CHECKPOINTS
MAX_IMAGES = 16
# Dispatches under way at a time: enough to keep the device busy, few enough that a
# signal or the time limit is heeded soon.
_IN_FLIGHT = 2
# Seconds of a dispatch above which it is waited for: a device does without the next one
# for a moment only, and a signal is heeded in a third of the time.
_SLOW_DISPATCH = 0.5
_PLOT_EVERY = 30.0  # seconds: drawing takes half a second


class Result(NamedTuple):
  """End of a training run.

  Attributes:
    state: last state, which is saved; with `config.patience`, the best one.
    step: number of steps made.
    stopped: None if it is complete, else 'signal' or 'max_seconds'.
    metrics: evaluation of that state or the last one before it, names without 'eval/';
      empty if there was none.
  """

  state: Any
  step: int
  stopped: str | None
  metrics: dict[str, float]


class _Run(NamedTuple):
  """Parts of a run that do not change: arguments of `train` and compiled functions.

  `begin` is the time at which this process took it up, in seconds since 1970.
  """

  task: Task
  options: settings.Settings
  workdir: Path
  batch_size: int
  call: Callable[..., tuple[Any, Any]]
  evaluate: Callable[..., Any] | None
  finite: Callable[..., Any]
  writer: writers.Writer
  outside: outside.Outside | None
  begin: float


def train(
  task: Task,
  pipeline: Any,
  eval_batches: list[dict],
  config: Mapping[str, Any],
  workdir: str | Path,
  devices: int | None = None,
  judged_by: Sequence[dict] = (),
) -> Result:
  """Trains a task, from the newest good checkpoint in `workdir` if there is one.

  Args:
    task: the task to train.
    pipeline: a `codax.data.pipeline.Pipeline`, or anything with its `arrays`, `sample`
      and `host_batch`.
    eval_batches: dicts of NumPy arrays, the held-out data; may be empty.
    config: the whole configuration; the loop reads the keys of `settings.Settings`.
    workdir: gets config.json, data.json, metrics.jsonl, timing.jsonl, checkpoints/,
      images/, tensorboard/ and the plots; interval.json where checkpoints lie between
      lines of the log.
    devices: number of devices to train on; None is all.
    judged_by: batches that the state at the end is judged by, where they are others;
      they have to be the same when the run goes on.

  Raises:
    CodaxError: a bad configuration, a work directory of another run, of other data or
      of another process, a metric or a state that is not finite, a disk that is full,
      a batch that does not fit into memory.
  """
  options, workdir = settings.read(config), Path(workdir).expanduser()
  workdirs.check_place(workdir, config.get('data'))
  boards.check(options.writers)
  is_chief = jax.process_index() == 0
  with (
    files.lock(workdir) if is_chief else contextlib.nullcontext(),
    memory.explain(config),
  ):
    held_out = [*eval_batches, *(judged_by if judged_by is not eval_batches else ())]
    data_identity = identity.describe(pipeline, held_out)
    return _train(
      task, pipeline, eval_batches, config, options, workdir, devices, data_identity
    )


def _train(
  task: Task,
  pipeline: Any,
  eval_batches: list[dict],
  config: Mapping[str, Any],
  options: settings.Settings,
  workdir: Path,
  devices: int | None,
  data_identity: dict[str, Any],
) -> Result:
  """Trains as `train` does, in a work directory of this process's own."""
  mesh, chief = mesh_lib.make(devices), jax.process_index() == 0
  patience.check(task, options, bool(eval_batches))
  sample = dispatch.make_sampler(pipeline)
  example = starts.put_example(task, pipeline, mesh)
  batch_size = _batch_size(sample, example, task.init_batches)
  mesh_lib.check_batch(mesh, batch_size)
  shown = outside.prepare(config, options, task, pipeline, workdir, mesh)
  if shown is not None:
    data_identity['outside'] = identity.hash_arrays(shown.pixels)
  init = dispatch.make_init(task, sample, options)
  state, step = starts.load_or_init(init, example, config, data_identity, workdir, mesh)
  starts.log_model(state)
  if chief:
    settings.save(config, workdir)
    identity.save(data_identity, workdir)
    outside.discard_after(workdir, step)
  checkpoints.discard_after(workdir / patience.FOLDER, step)
  is_over = patience.is_over(workdir, task, options, step)
  calls = [] if is_over else dispatch.plan(step, options)
  if step and calls and task.resume is not None:
    state = task.resume(state)
  batches = None
  if sample is None and calls:
    batches = prefetch.prefetch(pipeline.host_batch, calls, mesh)
  names = options.writers if calls else ()  # a complete run has nothing to add
  run = _Run(
    task=task,
    options=options,
    workdir=workdir,
    batch_size=batch_size,
    call=dispatch.make_dispatcher(task, sample, options, mesh),
    evaluate=metrics_reduction.make_evaluator(task, eval_batches, mesh),
    finite=jax.jit(metrics_reduction.finite_leaves),
    writer=writers.open_run(workdir, step, chief, names, settings.plain(config)),
    outside=shown,
    begin=time.time(),
  )
  try:
    with stopping.watch(options.max_seconds) as reason:
      data = None if sample is None else example
      state, step, stopped = _loop(run, state, step, calls, data, batches, reason)
  finally:
    if batches is not None:
      batches.close()
    writers.close(run.writer)
  if options.patience and not stopped:
    like = jax.eval_shape(init, example)
    best, metrics = patience.load(workdir, task.score, step, like, mesh)
    return Result(best, step, None, metrics)
  return Result(state, step, stopped, metrics_reduction.last_evaluation(workdir))


def _batch_size(sample: Any, example: Any, init_batches: int) -> int:
  """Returns the number of images in a batch, of all processes together."""
  if sample is None:
    return jax.tree.leaves(example)[0].shape[0] // init_batches
  example = jax.eval_shape(sample, example, jax.random.key(0), np.int32(0))
  return jax.tree.leaves(example)[0].shape[0]


def _loop(
  run: _Run,
  state: Any,
  step: int,
  calls: list[tuple[int, int]],
  data: Any,
  batches: Any,
  reason: Callable[[], str | None],
) -> tuple[Any, int, str | None]:
  """Makes the dispatches; returns the state, its step and the reason to stop."""
  options, chief = run.options, jax.process_index() == 0
  first, saved, stopped, metrics = step, step or None, None, None
  interval = intervals.load(run.workdir, step) if step else intervals.Interval()
  unchecked: list[tuple[int, Any]] = []
  in_flight: deque = deque()
  allowed = 0  # until the time of a dispatch is known
  clock, timed_from, waited = time.monotonic(), step, 0.0
  with (
    progress.track(options.total_steps, step, is_shown=chief) as shown,
    profiling.profile(run.workdir, *options.profile_steps, active=chief) as trace,
  ):
    for start, count in calls:
      trace(start, start + count, metrics)
      asked = time.monotonic()
      batch = data if batches is None else next(batches)
      waited += time.monotonic() - asked
      state, metrics = run.call(state, batch, np.int32(start), count)
      step = start + count
      unchecked.append((start, metrics))
      in_flight.append(metrics)
      if start == first:  # the time of the first one is compilation
        jax.block_until_ready(metrics)
        shown.log(f'compiled in {time.monotonic() - clock:.1f} s')
        clock, timed_from, waited = time.monotonic(), step, 0.0
        in_flight.clear()
      while len(in_flight) > allowed:
        jax.block_until_ready(in_flight.popleft())
      if start != first:
        is_slow = time.monotonic() - asked > _SLOW_DISPATCH
        allowed = 0 if is_slow else _IN_FLIGHT
      shown.advance(count)

      due = dispatch.list_due(options, start, step, bool(run.outside))
      stopped = None if due.end else _stop_reason(reason, due.log)
      is_over = False
      if stopped or any(due):
        interval = functools.reduce(intervals.add, _fetch(unchecked, saved), interval)
        unchecked = []
        seconds = max(time.monotonic() - clock, 1e-9)
        if due.log:
          speed = (step - timed_from) / seconds
          _log(run, shown, step, interval, speed, waited / seconds)
          interval = intervals.Interval()
        if due.evaluate:
          is_over = _evaluate(run, shown, state, step, saved)
        if due.show:
          shown.log(outside.show(run.outside, state, step, run.writer))
        if due.save or stopped or is_over:
          intervals.keep(run.workdir, CHECKPOINTS, step, interval)
          _save(run, state, step, saved)
          saved = step
        clock, timed_from, waited = time.monotonic(), step, 0.0
      if is_over:
        shown.log(f'{options.patience} evaluations without a better one: complete')
        stopped = None
        break
      if stopped:
        shown.log(f'stopped by {stopped} at step {step}; saved')
        break
  return state, step, stopped


def _fetch(calls: list[tuple[int, Any]], saved: int | None) -> list[dict]:
  """Checks and returns the metrics of some dispatches, in order."""
  calls = [
    (start, metrics_reduction.stack(jax.device_get(metrics)))
    for start, metrics in calls
  ]
  metrics_reduction.check_finite(calls, saved)
  return [metrics for _, metrics in calls]


def _save(run: _Run, state: Any, step: int, saved: int | None) -> None:
  """Saves a state, if it is finite."""
  metrics_reduction.check_state(run.finite(state), step, saved)
  starts.check_step(state, step)
  directory = run.workdir / CHECKPOINTS
  checkpoints.save(directory, step, state, run.options.keep_checkpoints)
  patience.discard_unneeded(run.workdir)


def _stop_reason(reason: Callable[[], str | None], logs: bool) -> str | None:
  """Returns the reason to stop now, if any, the same on all processes.

  With several processes it is asked for only where they log, since asking waits.
  """
  if jax.process_count() == 1:
    return reason()
  return stopping.agree(reason()) if logs else None


def _log(
  run: _Run,
  shown: progress.Progress,
  step: int,
  interval: intervals.Interval,
  steps_per_s: float,
  input_wait: float,
) -> None:
  """Writes one line of training metrics: means since the line before.

  `steps_per_s` and `input_wait`, the share of time in which the next batches were not
  ready, are since the line before.
  """
  means = intervals.reduce(run.task, interval)
  writers.write(run.writer, step, {f'train/{k}': v for k, v in means.items()})
  text = f'step {step}/{run.options.total_steps}  {metrics_reduction.short(means)}'
  timing = {'session': run.begin, 'seconds': time.time() - run.begin}
  timing['peak_mib'] = memory.peak_mib()
  if steps_per_s:  # not known after the first dispatch, which compiles
    speed = {'steps_per_s': steps_per_s, 'images_per_s': steps_per_s * run.batch_size}
    timing |= speed | {'input_wait': input_wait}
    text += f'  {speed["images_per_s"]:.4g} images/s'
  writers.write_timing(run.writer, step, timing)
  shown.log(text)


def _evaluate(
  run: _Run, shown: progress.Progress, state: Any, step: int, saved: int | None
) -> bool:
  """Evaluates on the held-out batches; writes metrics, images and plots.

  With `config.patience` the best state is saved.

  Returns:
    True if evaluations were no better for so long that training is complete.
  """
  if run.evaluate is None:
    return False
  metrics, images = run.evaluate(state)
  writers.write(run.writer, step, {f'eval/{k}': v for k, v in metrics.items()})
  shown.log(f'eval at {step}  {metrics_reduction.short(metrics)}')
  if jax.process_index() == 0:
    if images is not None:
      mosaic = plots.grid(images[:MAX_IMAGES])
      plots.save_mosaic(run.workdir, step, mosaic, run.options.keep_images)
      writers.write_images(run.writer, step, {'eval/images': mosaic})
    is_last = step == run.options.total_steps
    plots.curves(run.workdir, min_age=0 if is_last else _PLOT_EVERY)
  if run.options.patience:
    metrics_reduction.check_state(run.finite(state), step, saved)
    patience.keep(run.workdir, run.task, run.options, state)
  return patience.is_over(run.workdir, run.task, run.options, step)

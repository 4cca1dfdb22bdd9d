"""The training loop, one for all families.

It is crash-exact: everything that a step does is a function of the state and of
(seed, step), dispatches always end at the same steps, and what is logged at a step
depends on the dispatch that ends there only. So a run that was killed at any moment and
started again writes the same ``metrics.jsonl``, to the bit, as one that was not (on the
same machine; GPUs need XLA_FLAGS=--xla_gpu_deterministic_ops=true).

The order at a step is: log, evaluate, save. A checkpoint thus never lies ahead of the
log, and on resuming the lines after the checkpoint are dropped and made again.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from codax.training import (
  checkpoints,
  metrics_reduction,
  plots,
  prefetch,
  settings,
  stopping,
  writers,
)
from codax.training import mesh as mesh_lib
from codax.training.task import Task

CHECKPOINTS = 'checkpoints'
MAX_IMAGES = 16
# Dispatches under way at a time: enough to keep the device busy, few enough that a
# signal or the time limit is heeded soon.
_IN_FLIGHT = 2
_PLOT_EVERY = 30.0  # seconds: drawing takes half a second


class Result(NamedTuple):
  """How training ended.

  Attributes:
    state: the last state; it is saved.
    step: the number of steps made.
    stopped: None if it is complete, else 'signal' or 'max_seconds'.
    metrics: the last evaluation, names without 'eval/'; empty if there was none.
  """

  state: Any
  step: int
  stopped: str | None
  metrics: dict[str, float]


class _Run(NamedTuple):
  """What the parts of a run share; the arguments of `train` and things made once."""

  task: Task
  chosen: settings.Settings
  workdir: Path
  batch_size: int
  call: Callable[..., tuple[Any, Any]]
  evaluate: Callable[..., Any] | None
  finite: Callable[..., Any]
  writer: writers.Writer


def train(
  task: Task,
  pipeline: Any,
  eval_batches: list[dict],
  config: Mapping[str, Any],
  workdir: str | Path,
  devices: int | None = None,
) -> Result:
  """Trains, going on from the newest good checkpoint in `workdir` if there is one.

  Args:
    task: what is trained.
    pipeline: a `codax.data.pipeline.Pipeline`, or anything with its `arrays`, `sample`
      and `host_batch`.
    eval_batches: dicts of NumPy arrays, the held-out data; may be empty.
    config: the whole configuration; the loop reads the keys of `settings.Settings`.
    workdir: gets config.json, metrics.jsonl, timing.jsonl, checkpoints/, images/ and
      the plots.
    devices: train on so many; None is on all.

  Raises:
    CodaxError: a bad configuration, a work directory of another run, a metric or a
      state that is not finite, a disk that is full.
  """
  chosen, workdir = settings.read(config), Path(workdir)
  mesh, chief = mesh_lib.make(devices), jax.process_index() == 0
  sample = pipeline.sample
  if sample is None:
    data, example = None, mesh_lib.put_replicated(pipeline.host_batch(0, 0, 1), mesh)
  else:
    data = example = mesh_lib.put_replicated(pipeline.arrays, mesh)
  batch_size = _batch_size(sample, example)
  mesh_lib.check_batch(mesh, batch_size)
  init = _initialiser(task, sample, chosen)
  state, step = _start(init, example, config, workdir, mesh)
  _log_model(state)
  if chief:
    settings.save(config, workdir)
  calls = _calls(step, chosen)
  batches = None
  if sample is None and calls:
    batches = prefetch.prefetch(pipeline.host_batch, calls, mesh)
  run = _Run(
    task=task,
    chosen=chosen,
    workdir=workdir,
    batch_size=batch_size,
    call=_dispatcher(task, sample, chosen, mesh),
    evaluate=metrics_reduction.evaluator(task, eval_batches, mesh)
    if eval_batches
    else None,
    finite=jax.jit(metrics_reduction.finite_leaves),
    writer=writers.open_run(workdir, step, active=chief),
  )
  try:
    with stopping.watch(chosen.max_seconds) as reason:
      state, step, stopped = _loop(run, state, step, calls, data, batches, reason)
  finally:
    if batches is not None:
      batches.close()
    writers.close(run.writer)
  return Result(state, step, stopped, metrics_reduction.last_evaluation(workdir))


def _keys(seed: int) -> jax.Array:
  """Three keys: of the initial state, of the data and of the steps."""
  return jax.random.split(jax.random.key(seed), 3)


def _batch_size(sample: Any, example: Any) -> int:
  """Images in a batch, of all processes together."""
  if sample is not None:
    example = jax.eval_shape(sample, example, jax.random.key(0))
  return jax.tree.leaves(example)[0].shape[0]


def _initialiser(task: Task, sample: Any, chosen: settings.Settings) -> Any:
  """A function from the data (or, on the host way, one batch) to the first state."""

  def init(data: Any) -> Any:
    init_key, data_key, _ = _keys(chosen.seed)
    batch = data if sample is None else sample(data, jax.random.fold_in(data_key, 0))
    state = task.init(init_key, batch)
    # A weakly typed leaf would change type in the first step and compile it twice.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

  return init


def _start(
  init: Any, example: Any, config: Mapping[str, Any], workdir: Path, mesh: Any
) -> tuple[Any, int]:
  """The state to go on from and its step."""
  directory = workdir / CHECKPOINTS
  step = checkpoints.newest(directory)
  if step is None:
    if checkpoints.steps(directory):
      logging.warning('no checkpoint in %s is whole: starting again', directory)
    checkpoints.discard_after(directory, 0)
    state = jax.jit(init, out_shardings=mesh_lib.replicated(mesh))(example)
    # Leaves that share a buffer (parameters and their average) cannot both be donated.
    state, step = jax.tree.map(jnp.copy, state), 0
  else:
    settings.check_same(config, workdir)
    state = checkpoints.load(directory, step, jax.eval_shape(init, example), mesh)
    checkpoints.discard_after(directory, step)
    logging.info('going on from step %d of %s', step, directory)
  _check_step(state, step)
  return state, step


def _check_step(state: Any, step: int) -> None:
  if int(state.step) != step:
    raise ValueError(
      'a task starts at state.step == 0 and adds one in every train_step: it is '
      f'{int(state.step)} after {step} steps'
    )


def _log_model(state: Any) -> None:
  """Logs names, shapes and sizes of the parameters."""
  params = getattr(state, 'params', None)
  if params and jax.process_index() == 0:
    from clu import parameter_overview

    # clu knows dicts only; a family may have tuples in its parameters
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}
    overview = parameter_overview.get_parameter_overview(named, include_stats=False)
    logging.info('parameters:\n%s', overview)


def _calls(step: int, chosen: settings.Settings) -> list[tuple[int, int]]:
  """(first step, number of steps) of every dispatch from `step` to the end."""
  size, total = chosen.steps_per_call, chosen.total_steps
  return [(s, min(size, total - s)) for s in range(step, total, size)]


def _dispatcher(task: Task, sample: Any, chosen: settings.Settings, mesh: Any) -> Any:
  """The function (state, data, start, count) -> (state, metrics of `count` steps).

  Metrics are a dict of arrays [count, ...] or a list of `count` dicts. What it runs is
  compiled once for `steps_per_call`, and at most once more if the last dispatch of the
  run is shorter.
  """

  def step(state: Any, data: Any, index: jax.Array, batch: Any) -> tuple[Any, Any]:
    _, data_key, step_key = _keys(chosen.seed)
    if sample is not None:
      batch = sample(data, jax.random.fold_in(data_key, index))
    batch = mesh_lib.constrain(batch, mesh)
    return task.train_step(state, batch, jax.random.fold_in(step_key, index))

  def scanned(state: Any, data: Any, start: jax.Array, count: int) -> tuple[Any, Any]:
    xs = start + jnp.arange(count, dtype=jnp.int32), None if sample else data
    return jax.lax.scan(lambda s, x: step(s, data, *x), state, xs)

  def single(state: Any, data: Any, start: jax.Array, i: jax.Array) -> tuple[Any, Any]:
    pick = lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
    batch = None if sample else jax.tree.map(pick, data)
    return step(state, data, start + i, batch)

  jit = functools.partial(
    jax.jit, donate_argnums=0, out_shardings=mesh_lib.replicated(mesh)
  )
  if _scans(mesh):
    return jit(scanned, static_argnums=3)
  compiled = jit(single)

  def call(state: Any, data: Any, start: Any, count: int) -> tuple[Any, Any]:
    metrics = []
    for i in range(count):
      state, one = compiled(state, data, start, np.int32(i))
      metrics.append(one)
    return state, metrics

  return call


def _scans(mesh: Any) -> bool:
  """Whether the steps of a dispatch are one program.

  Not on CPUs: XLA runs convolutions inside a loop there without its fast routines,
  seven times slower for a small autoencoder, and a dispatch costs next to nothing.
  """
  return mesh.devices.flat[0].platform != 'cpu'


def _loop(
  run: _Run,
  state: Any,
  step: int,
  calls: list[tuple[int, int]],
  data: Any,
  batches: Any,
  reason: Callable[[], str | None],
) -> tuple[Any, int, str | None]:
  """Makes the dispatches; returns the state, its step and why it stopped."""
  chosen = run.chosen
  first, saved, stopped = step, step or None, None
  unchecked: list[tuple[int, Any]] = []
  in_flight: deque = deque()
  clock, timed_from, waited = time.monotonic(), step, 0.0
  with _bar(chosen.total_steps, step) as bar:
    for start, count in calls:
      asked = time.monotonic()
      batch = data if batches is None else next(batches)
      waited += time.monotonic() - asked
      state, metrics = run.call(state, batch, np.int32(start), count)
      step = start + count
      unchecked.append((start, metrics))
      in_flight.append(metrics)
      if start == first:  # the time of the first one is compilation
        jax.block_until_ready(metrics)
        logging.info('compiled in %.1f s', time.monotonic() - clock)
        clock, timed_from, waited = time.monotonic(), step, 0.0
      elif len(in_flight) > _IN_FLIGHT:
        jax.block_until_ready(in_flight.popleft())
      bar.update(count)

      done = step == chosen.total_steps
      logs = done or settings.crossed(start, step, chosen.log_every)
      evaluates = done or settings.crossed(start, step, chosen.eval_every)
      stopped = None if done else _stop(reason, logs)
      saves = done or stopped or settings.crossed(start, step, chosen.checkpoint_every)
      if logs or evaluates or saves:
        last = _fetch(unchecked, saved)
        unchecked = []
        seconds = max(time.monotonic() - clock, 1e-9)
        if logs:
          _log(run, bar, step, last, (step - timed_from) / seconds, waited / seconds)
        if evaluates:
          _evaluate(run, bar, state, step, done)
        if saves:
          _save(run, state, step, saved)
          saved = step
        clock, timed_from, waited = time.monotonic(), step, 0.0
      if stopped:
        logging.info('stopped by %s at step %d; saved', stopped, step)
        break
  return state, step, stopped


def _fetch(calls: list[tuple[int, Any]], saved: int | None) -> dict:
  """Checks the metrics of some dispatches and returns those of the last."""
  calls = [
    (start, metrics_reduction.stack(jax.device_get(metrics)))
    for start, metrics in calls
  ]
  metrics_reduction.check_finite(calls, saved)
  return calls[-1][1]


def _save(run: _Run, state: Any, step: int, saved: int | None) -> None:
  """Saves a state, if it is finite."""
  metrics_reduction.check_state(run.finite(state), step, saved)
  _check_step(state, step)
  directory = run.workdir / CHECKPOINTS
  checkpoints.save(directory, step, state, run.chosen.keep_checkpoints)


def _bar(total: int, step: int) -> Any:
  """A progress bar, on a terminal and on the first process only."""
  disable = None if jax.process_index() == 0 else True
  return tqdm(total=total, initial=step, unit='step', disable=disable)


def _stop(reason: Callable[[], str | None], logs: bool) -> str | None:
  """The reason to stop now, if any, the same on all processes.

  With several processes it is asked for only where they log, since asking waits.
  """
  if jax.process_count() == 1:
    return reason()
  return stopping.agree(reason()) if logs else None


def _log(
  run: _Run, bar: Any, step: int, metrics: dict, steps_per_s: float, input_wait: float
) -> None:
  """One line of training metrics, the means over the dispatch that ended here.

  `steps_per_s` and `input_wait`, the share of time in which the next batches were not
  ready, are since the line before.
  """
  means = metrics_reduction.reduce(run.task, metrics, None)
  writers.write(run.writer, step, {f'train/{k}': v for k, v in means.items()})
  text = f'step {step}/{run.chosen.total_steps}  {metrics_reduction.short(means)}'
  if steps_per_s:  # not known after the first dispatch, which compiles
    speed = {'steps_per_s': steps_per_s, 'images_per_s': steps_per_s * run.batch_size}
    writers.write_timing(run.writer, step, speed | {'input_wait': input_wait})
    text += f'  {speed["images_per_s"]:.4g} images/s'
  _say(bar, text)


def _evaluate(run: _Run, bar: Any, state: Any, step: int, done: bool) -> None:
  """Evaluates on the held-out batches; writes metrics, images and plots."""
  if run.evaluate is None:
    return
  metrics, images = run.evaluate(state)
  writers.write(run.writer, step, {f'eval/{k}': v for k, v in metrics.items()})
  _say(bar, f'eval at {step}  {metrics_reduction.short(metrics)}')
  if jax.process_index() == 0:
    if images is not None:
      keep = run.chosen.keep_images
      plots.save_images(run.workdir, step, images[:MAX_IMAGES], keep)
    plots.curves(run.workdir, min_age=0 if done else _PLOT_EVERY)


def _say(bar: Any, text: str) -> None:
  """A log line that does not run into the progress bar."""
  if jax.process_index() == 0:
    bar.clear()
    logging.info('%s', text)
    bar.refresh()

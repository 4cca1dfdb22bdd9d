"""Dispatches: one call of a compiled program makes one or several training steps.

Every step is a function of the state and of (seed, step): the keys of its batch and of
its noise are folded from the seed and the step's index.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from codax.training import mesh as mesh_lib
from codax.training import settings
from codax.training.task import Task


class Due(NamedTuple):
  """Events that come after a dispatch.

  Attributes:
    end: True if training is complete.
    log: True for a line of training metrics.
    evaluate: True for an evaluation.
    show: True for a reconstruction of the image of `config.outside_image`.
    save: True for a checkpoint.
  """

  end: bool
  log: bool
  evaluate: bool
  show: bool
  save: bool


def split_seed(seed: int) -> jax.Array:
  """Returns three keys: of the initial state, of the data and of the steps."""
  return jax.random.split(jax.random.key(seed), 3)


def make_sampler(pipeline: Any) -> Any:
  """Returns (arrays, rng, step) -> batch of a resident pipeline, None of another."""
  if pipeline.sample is None:
    return None
  if getattr(pipeline, 'has_epochs', False):
    return pipeline.sample
  return lambda arrays, rng, step: pipeline.sample(arrays, rng)


def make_init(task: Task, sample: Any, options: settings.Settings) -> Any:
  """Returns a function from the data (or, on the host way, a batch) to a state."""

  def draw(data: Any, key: jax.Array) -> Any:
    """Returns the first `init_batches` batches in one."""
    count = task.init_batches
    if count == 1:
      return sample(data, jax.random.fold_in(key, 0), jnp.int32(0))
    one = lambda i: sample(data, jax.random.fold_in(key, i), i)
    batches = jax.lax.map(one, jnp.arange(count))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)

  def init(data: Any) -> Any:
    init_key, data_key, _ = split_seed(options.seed)
    batch = data if sample is None else draw(data, data_key)
    state = task.init(init_key, batch)
    # A weakly typed leaf would change type in the first step and compile it twice.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

  return init


def plan(step: int, options: settings.Settings) -> list[tuple[int, int]]:
  """Returns (first step, number of steps) of every dispatch from `step` to the end."""
  size, total = options.steps_per_call, options.total_steps
  return [(s, min(size, total - s)) for s in range(step, total, size)]


def list_due(
  options: settings.Settings, before: int, step: int, has_outside: bool
) -> Due:
  """Lists what is due after a dispatch.

  Args:
    options: settings of the loop.
    before: number of steps before the dispatch.
    step: number of steps after it.
    has_outside: True if there is an image of `config.outside_image`.
  """
  end = step == options.total_steps
  is_due = lambda every: end or settings.crossed(before, step, every)
  return Due(
    end=end,
    log=is_due(options.log_every),
    evaluate=is_due(options.eval_every),
    show=has_outside and is_due(options.outside_every or options.eval_every),
    save=is_due(options.checkpoint_every),
  )


def make_dispatcher(
  task: Task, sample: Any, options: settings.Settings, mesh: Any
) -> Any:
  """Returns the function (state, data, start, count) -> (state, metrics).

  Metrics are a dict of arrays [count, ...] or a list of `count` dicts. The function is
  compiled once for `steps_per_call`, and at most once more if the last dispatch of the
  run is shorter.
  """

  def step(state: Any, data: Any, index: jax.Array, batch: Any) -> tuple[Any, Any]:
    _, data_key, step_key = split_seed(options.seed)
    if sample is not None:
      batch = sample(data, jax.random.fold_in(data_key, index), index)
    batch = mesh_lib.constrain(batch, mesh)
    new, metrics = task.train_step(state, batch, jax.random.fold_in(step_key, index))
    check_same_state(state, new)
    return new, metrics

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
  if scans(mesh):
    return jit(scanned, static_argnums=3)
  compiled = jit(single)

  def call(state: Any, data: Any, start: Any, count: int) -> tuple[Any, Any]:
    metrics = []
    for i in range(count):
      state, values = compiled(state, data, start, np.int32(i))
      metrics.append(values)
    return state, metrics

  return call


def check_same_state(before: Any, after: Any) -> None:
  """Checks that a step keeps the state's structure, shapes and dtypes.

  Raises:
    ValueError: it does not; the first difference is named. (A mistake in a task: the
      state could neither be donated nor saved, and each step would compile anew.)
  """
  try:
    chex.assert_trees_all_equal_structs(before, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
  except AssertionError as e:
    raise ValueError(f'train_step changes the type of the state: {e}') from e


def scans(mesh: Any) -> bool:
  """Returns whether the steps of a dispatch are one program.

  Not on CPUs: XLA runs convolutions inside a loop there without its fast routines,
  seven times slower for a small autoencoder, and a dispatch costs next to nothing.
  """
  return mesh.devices.flat[0].platform != 'cpu'

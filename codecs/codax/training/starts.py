"""Starts of runs: from nothing, from given networks, or from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from codax.training import checkpoints, identity, networks, settings, workdirs
from codax.training import mesh as mesh_lib
from codax.training.task import Task


def put_example(task: Task, pipeline: Any, mesh: Any) -> Any:
  """Puts the data that a state is drawn from on the devices.

  Returns:
    The arrays of a resident pipeline, or the first batches of the other kind.
  """
  if pipeline.sample is not None:
    return mesh_lib.put_replicated(pipeline.arrays, mesh)
  first = [pipeline.host_batch(i, 0, 1) for i in range(task.init_batches)]
  first = jax.tree.map(lambda *x: np.concatenate(x), *first)
  return mesh_lib.put_replicated(first, mesh)


def load_or_init(
  init: Any,
  example: Any,
  config: Mapping[str, Any],
  data_identity: Mapping[str, Any],
  workdir: Path,
  mesh: Any,
) -> tuple[Any, int]:
  """Returns the state to go on from and its step."""
  directory = workdir / networks.CHECKPOINTS
  step = checkpoints.newest(directory)
  if step is None:
    if checkpoints.steps(directory):
      logging.warning('no checkpoint in %s is whole: starting again', directory)
    if workdirs.has_results(workdir):
      settings.check_same(config, workdir)
      identity.check_same(data_identity, workdir)
    checkpoints.discard_after(directory, 0)
    learnt = networks.load_initial(config)  # a wrong file is told before compilation
    state = jax.jit(init, out_shardings=mesh_lib.replicated(mesh))(example)
    put = lambda tree: mesh_lib.put_replicated(tree, mesh)
    state = networks.initialize(state, learnt, put)
    # Leaves that share a buffer (parameters and their average) cannot both be donated.
    state, step = jax.tree.map(jnp.copy, state), 0
  else:
    settings.check_same(config, workdir)
    identity.check_same(data_identity, workdir)
    state = checkpoints.load(directory, step, jax.eval_shape(init, example), mesh)
    checkpoints.discard_after(directory, step)
    logging.info('going on from step %d of %s', step, directory)
  check_step(state, step)
  return state, step


def check_step(state: Any, step: int) -> None:
  """Checks that a state counts its steps; a mistake in a task raises ValueError."""
  if int(state.step) != step:
    raise ValueError(
      'a task starts at state.step == 0 and adds one in every train_step: it is '
      f'{int(state.step)} after {step} steps'
    )


def log_model(state: Any) -> None:
  """Logs names, shapes and sizes of the parameters."""
  params = getattr(state, 'params', None)
  if params and jax.process_index() == 0:
    from clu import parameter_overview

    # clu knows dicts only; a family may have tuples in its parameters
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}
    overview = parameter_overview.get_parameter_overview(named, include_stats=False)
    logging.info('parameters:\n%s', overview)

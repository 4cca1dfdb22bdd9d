"""The one mesh of all training: every device along one axis, ``data``.

Parameters are replicated and batches are split along their batch axis; the sums over a
batch that a step computes (gradients, codebook statistics) become sums over devices by
the compiler. The same program runs on one device, on several, and, started once per
host after `initialize`, on several hosts.
"""

import os
from typing import Any

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from codax.devices import start
from codax.errors import CodaxError

AXIS = 'data'


def initialize() -> None:
  """Joins the other hosts of a multi-host run; to be called first of all.

  On TPU pods, Slurm and Open MPI the addresses are found by JAX; elsewhere it reads the
  environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    CodaxError: there is nobody to join.
  """

  def number(name: str) -> int | None:
    return int(os.environ[name]) if name in os.environ else None

  try:
    jax.distributed.initialize(
      coordinator_address=os.environ.get('JAX_COORDINATOR_ADDRESS'),
      num_processes=number('JAX_NUM_PROCESSES'),
      process_id=number('JAX_PROCESS_ID'),
    )
  except (ValueError, RuntimeError) as e:
    raise CodaxError(f'--distributed: {e}') from e


def make(count: int | None = None) -> Mesh:
  """Makes the mesh over all devices of all processes, or over the first `count`."""
  every = start()[:count]
  kinds = (AxisType.Auto,)
  return jax.make_mesh((len(every),), (AXIS,), axis_types=kinds, devices=every)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of parameters: everything on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Returns the sharding of batches: `axis` is split over the devices."""
  return NamedSharding(mesh, PartitionSpec(*([None] * axis), AXIS))


def check_batch(mesh: Mesh, batch_size: int) -> None:
  """Raises `CodaxError` if the devices cannot share a batch evenly."""
  if batch_size % mesh.size:
    raise CodaxError(
      f'data.batch_size {batch_size} is not a multiple of the {mesh.size} devices'
    )


def put_replicated(tree: Any, mesh: Mesh) -> Any:
  """Puts arrays that every process holds in full on every device."""
  sharding = replicated(mesh)

  def put(x: Any) -> jax.Array:
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put, tree)


def put_local(tree: Any, mesh: Mesh, axis: int) -> Any:
  """Puts each process's own part of a batch on its devices.

  Args:
    tree: NumPy arrays; along `axis`, the processes' parts make up the batch in order.
    mesh: result of `make`.
    axis: index of the batch axis.
  """
  sharding = split(mesh, axis)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
  )


def put_whole(batch: Any, mesh: Mesh) -> Any:
  """Puts a batch that every process holds in full: split if it divides evenly."""
  chex.assert_equal_shape_prefix(jax.tree.leaves(batch), 1)
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % mesh.size:
    return put_replicated(batch, mesh)
  sharding = split(mesh)

  def put(x: Any) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put, batch)


def constrain(batch: Any, mesh: Mesh) -> Any:
  """Declares that, inside `jit`, a batch is split over the devices."""
  return jax.lax.with_sharding_constraint(batch, split(mesh))


def barrier(name: str) -> None:
  """Waits for the other processes of a multi-host run."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'codax_{name}')

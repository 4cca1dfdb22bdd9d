"""One program for several images: each as if by itself, shared among devices."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from codax.training import mesh as mesh_lib


def map_images(
  function: Callable, each: Sequence[Sequence], shared: Sequence, devices: int
) -> list:
  """Applies a function to P images in one program.

  Args:
    function: called with an image's part of `each`, and with all that is `shared`.
    each: sequences of P pytrees, or None instead of a sequence.
    shared: arrays.
    devices: number of devices that share the images; P is a multiple of it.

  Returns:
    P results.
  """
  count = len(each[0])
  if count == 1:  # loops end where the lists do, which they do not under vmap
    return [function(*(x and x[0] for x in each), *shared)]
  stacked = [x and jax.tree.map(lambda *y: jnp.stack(y), *x) for x in each]
  many = jax.vmap(function, (0,) * len(each) + (None,) * len(shared))
  if devices > 1:  # each device works on its images by itself
    mesh = mesh_lib.make(devices)
    split, whole = PartitionSpec(mesh_lib.AXIS), PartitionSpec()
    many = jax.shard_map(
      many, mesh=mesh, in_specs=(split,) * len(each) + (whole,) * len(shared),
      out_specs=split, check_vma=False,
    )  # fmt: skip
  together = many(*stacked, *shared)
  return [jax.tree.map(lambda x, i=i: x[i], together) for i in range(count)]

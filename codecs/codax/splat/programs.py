"""Compiled programs of several shapes, of which only the latest are kept.

Without a bound a process that encodes images of many sizes would grow with every one:
a program takes several MiB.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from codax.training import mesh as mesh_lib

MAX_PROGRAMS = 4  # of one function


def bounded_jit(
  function: Callable | None = None,
  *,
  static_argnames: Sequence[str] = (),
  donate_argnames: Sequence[str] = (),
  maxsize: int = MAX_PROGRAMS,
) -> Callable:
  """Compiles a function as `jax.jit` does, but keeps the programs of few shapes.

  The function is wrapped anew for every set of shapes, since JAX drops the programs of
  a function that is gone. Use as a decorator. The result has `lower` too.

  Args:
    function: function of arrays and of static arguments.
    static_argnames, donate_argnames: see `jax.jit`.
    maxsize: number of sets of shapes and static arguments whose programs are kept.
  """
  if function is None:
    return functools.partial(
      bounded_jit, static_argnames=static_argnames, donate_argnames=donate_argnames,
      maxsize=maxsize,
    )  # fmt: skip

  @functools.lru_cache(maxsize)
  def make(key):
    del key

    @functools.wraps(function)
    def fresh(*args, **kwargs):
      return function(*args, **kwargs)

    return jax.jit(
      fresh, static_argnames=static_argnames, donate_argnames=donate_argnames
    )

  def find(args, kwargs):
    leaves, structure = jax.tree.flatten((args, kwargs))
    return make((structure, tuple(map(_describe, leaves))))

  @functools.wraps(function)
  def call(*args, **kwargs):
    return find(args, kwargs)(*args, **kwargs)

  call.lower = lambda *args, **kwargs: find(args, kwargs).lower(*args, **kwargs)
  call.cache_info, call.cache_clear = make.cache_info, make.cache_clear
  return call


def _describe(leaf: Any) -> Any:
  """Returns shape and type of an array, or a static argument itself."""
  if isinstance(leaf, np.ndarray | np.generic | jax.Array):
    return leaf.shape, str(leaf.dtype)
  return type(leaf), leaf


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

"""Compiled programs for the shapes of users' images, of which few are kept.

``jax.jit`` keeps a program for every shape that it has seen, tens of megabytes each,
for as long as the function lives: a process that encodes images of hundreds of sizes
would need gigabytes. `jit_by_shape` forgets those that were unused for longest.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

KEPT_SHAPES = 2  # shapes whose programs a function keeps: landscape and portrait
KEPT_SMALL = 32  # the same for programs of a megabyte


def jit_by_shape(
  *,
  static: Sequence[str] = (),
  donate: Sequence[str] = (),
  kept: int = KEPT_SHAPES,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Returns a decorator like ``jax.jit`` that keeps programs of few shapes.

  The decorated function has ``programs``, the ``functools.lru_cache`` of its compiled
  functions, for tests and for measurements.

  Args:
    static: names of arguments that are constants of a program; hashable.
    donate: names of arguments whose buffers are used up.
    kept: number of programs, 1 or more: one for each combination of constants, and of
      shapes and types of the arrays.
  """

  def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    names = tuple(function.__code__.co_varnames[: function.__code__.co_argcount])

    @functools.lru_cache(maxsize=kept)
    def compile_for(key: Hashable) -> Callable[..., Any]:
      del key
      # JAX forgets programs together with the function object that they belong to.
      own = functools.wraps(function)(lambda *args: function(*args))
      return jax.jit(own, static_argnames=static, donate_argnames=donate)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
      signature = [
        value if name in static else _describe_arrays(value)
        for name, value in zip(names, args, strict=True)
      ]
      return compile_for(tuple(signature))(*args)

    call.programs = compile_for
    return call

  return decorate


def _describe_arrays(tree: Any) -> Hashable:
  """Returns the structure of a tree, and the shapes and types of its arrays."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple((np.shape(x), getattr(x, 'dtype', type(x))) for x in leaves)

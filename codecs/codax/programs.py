"""Compiled programs for the shapes of users' images, of which few are kept.

``jax.jit`` keeps a program for every shape that it has seen, tens of megabytes each,
for as long as the function lives: a process that encodes images of hundreds of sizes
would need gigabytes. `jit_by_shape` forgets those that were unused for longest.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

KEPT_SHAPES = 2  # shapes whose programs a function keeps: landscape and portrait
KEPT_PADDED = 4  # the same where images are padded to few shapes
KEPT_SMALL = 32  # the same for programs of a megabyte


def jit_by_shape(
  *,
  static: Sequence[str] = (),
  donate: Sequence[str] = (),
  kept: int = KEPT_SHAPES,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Returns a decorator like ``jax.jit`` that keeps programs of few shapes.

  The decorated function has ``programs``, the ``functools.lru_cache`` of its compiled
  functions, and ``lower`` as those of ``jax.jit`` have.

  Args:
    static: names of arguments that are constants of a program; hashable.
    donate: names of arguments whose buffers are used up.
    kept: number of programs, 1 or more: one for each combination of constants, and of
      shapes and types of the arrays.
  """

  def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    names = tuple(inspect.signature(function).parameters)

    @functools.lru_cache(maxsize=kept)
    def compile_for(key: Hashable) -> Callable[..., Any]:
      del key
      # JAX forgets programs together with the function object that they belong to.
      own = functools.wraps(function)(lambda *args, **more: function(*args, **more))
      return jax.jit(own, static_argnames=static, donate_argnames=donate)

    def find(args: Sequence[Any], more: dict[str, Any]) -> Callable[..., Any]:
      named = [*zip(names, args), *sorted(more.items())]
      describe = lambda name, x: x if name in static else _describe_arrays(x)
      return compile_for(tuple((name, describe(name, x)) for name, x in named))

    @functools.wraps(function)
    def call(*args: Any, **more: Any) -> Any:
      return find(args, more)(*args, **more)

    call.programs = compile_for
    call.lower = lambda *args, **more: find(args, more).lower(*args, **more)
    return call

  return decorate


def _describe_arrays(tree: Any) -> Hashable:
  """Returns the structure of a tree, and the shapes and types of its arrays."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple((np.shape(x), getattr(x, 'dtype', type(x))) for x in leaves)

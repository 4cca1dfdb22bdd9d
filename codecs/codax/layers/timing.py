"""Times of layers, forward and with all gradients, for ``launch/bench.py``."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm


def make_programs(function: Callable[..., Any]) -> dict[str, Any]:
  """Makes jitted programs of a function, and of it with its gradients.

  Both take the function's arguments, and then the gradient of its output.

  Returns:
    'forward_ms' and 'step_ms' to the programs.
  """

  def step(*args: Any) -> Any:
    value, pull = jax.vjp(function, *args[:-1])
    return value, pull(args[-1])

  forward = lambda *args: function(*args[:-1])
  return {'forward_ms': jax.jit(forward), 'step_ms': jax.jit(step)}


def measure_in_turns(
  programs: Mapping[Any, tuple[Callable[..., Any], tuple]], times: int
) -> dict[Any, float]:
  """Measures programs that take turns; the least time of each counts.

  Other load can only add to a time.

  Args:
    programs: (function, arguments) by any key; JAX arrays are waited for.
    times: measurements of each, after one that is left out.

  Returns:
    Seconds by key.
  """
  least = dict.fromkeys(programs, float('inf'))
  for turn in tqdm(range(times + 1), unit='turn', disable=None):
    for key, (program, args) in programs.items():
      begin = time.perf_counter()
      jax.block_until_ready(program(*args))
      if turn:  # the first one compiles
        least[key] = min(least[key], time.perf_counter() - begin)
  return least

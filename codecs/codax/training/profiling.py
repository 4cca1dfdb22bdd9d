"""A trace of some training steps for TensorBoard's profile page, XProf or Perfetto.

`jax.profiler` is used directly: the profiling action of clu imports TensorFlow.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging

FOLDER = 'profile'


@contextlib.contextmanager
def profile(
  workdir: Path, first: int, count: int, active: bool = True
) -> Iterator[Callable[[int, int, Any], None]]:
  """Traces the dispatches that make steps `first` to `first + count`.

  Args:
    workdir: folder of the run; the trace goes to its folder ``profile``.
    first: steps made before the trace starts; 0 has the compilation in the trace.
    count: number of steps to trace, rounded up to whole dispatches; 0 traces nothing.
    active: False on processes that trace nothing.

  Yields:
    A function (start, end, results), to be called before every dispatch with the
    number of steps made before and after it, and the newest results, for which the
    trace waits before it begins or ends.
  """
  is_tracing = has_ended = False

  def stop() -> None:
    nonlocal is_tracing, has_ended
    is_tracing, has_ended = False, True
    jax.profiler.stop_trace()
    logging.info('profile of steps %d to %d in %s', first, first + count, folder)

  def advance(start: int, end: int, results: Any) -> None:
    nonlocal is_tracing
    if not active or has_ended:
      return
    if is_tracing and start >= first + count:
      jax.block_until_ready(results)
      stop()
    elif not is_tracing and start < first + count and end > first:
      jax.block_until_ready(results)
      jax.profiler.start_trace(str(folder))
      is_tracing = True

  folder = Path(workdir) / FOLDER
  try:
    yield advance
  finally:
    if is_tracing:
      stop()

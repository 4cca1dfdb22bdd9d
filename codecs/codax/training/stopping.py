"""When a run has to end before its last step: SIGTERM, or the time is up."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNAL = 'signal'
TIME = 'max_seconds'


@contextlib.contextmanager
def watch(max_seconds: float) -> Iterator[Callable[[], str | None]]:
  """Watches for SIGTERM and the clock while the body runs.

  A first SIGTERM is noted; a second one acts as it did before.

  Args:
    max_seconds: counted from here; 0 is no limit.

  Yields:
    A function that gives the reason to stop now, or None.
  """
  begin = time.monotonic()
  signalled = threading.Event()
  before = None

  def note(number: int, frame: object) -> None:
    del number, frame
    signalled.set()
    signal.signal(signal.SIGTERM, before)

  def reason() -> str | None:
    if signalled.is_set():
      return SIGNAL
    if max_seconds and time.monotonic() - begin >= max_seconds:
      return TIME
    return None

  # Python lets only the main thread set handlers.
  main = threading.current_thread() is threading.main_thread()
  if main:
    before = signal.signal(signal.SIGTERM, note) or signal.SIG_DFL
  try:
    yield reason
  finally:
    if main:
      signal.signal(signal.SIGTERM, before)


def agree(reason: str | None) -> str | None:
  """The reason that any process of a multi-host run has; all have to call this."""
  if jax.process_count() == 1:
    return reason
  codes = [None, TIME, SIGNAL]
  every = multihost_utils.process_allgather(np.int32(codes.index(reason)))
  return codes[int(np.max(every))]

"""Reasons for a run to end before its last step: SIGTERM, Ctrl-C, or its time is up."""

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
  """Watches for SIGTERM, SIGINT (Ctrl-C) and the clock while the body runs.

  A first signal is noted; a second one acts as it did before. SIGINT is left alone
  where it does not raise KeyboardInterrupt anyway (under nohup, for example).

  Args:
    max_seconds: seconds from here until it is time to stop; 0 is no limit.

  Yields:
    A function that gives the reason to stop now, or None.
  """
  begin = time.monotonic()
  signalled = threading.Event()
  before: dict[int, object] = {}

  def restore() -> None:
    for number, handler in before.items():
      signal.signal(number, handler)

  def note(number: int, frame: object) -> None:
    del number, frame
    signalled.set()
    restore()

  def reason() -> str | None:
    if signalled.is_set():
      return SIGNAL
    if max_seconds and time.monotonic() - begin >= max_seconds:
      return TIME
    return None

  # Python lets only the main thread set handlers.
  if threading.current_thread() is threading.main_thread():
    before[signal.SIGTERM] = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
      before[signal.SIGINT] = signal.default_int_handler
    for number in before:
      signal.signal(number, note)
  try:
    yield reason
  finally:
    restore()


def agree(reason: str | None) -> str | None:
  """Returns the reason of any process of a multi-host run; all have to call this."""
  if jax.process_count() == 1:
    return reason
  codes = [None, TIME, SIGNAL]
  every = multihost_utils.process_allgather(np.int32(codes.index(reason)))
  return codes[int(np.max(every))]

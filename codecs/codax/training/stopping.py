"""Reasons for a run to end before its last step: SIGTERM, Ctrl-C, or its time is up."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNAL = 'signal'
TIME = 'max_seconds'


@contextlib.contextmanager
def watch(
  max_seconds: float, on_signal: Callable[[int], None] | None = None
) -> Iterator[Callable[[], str | None]]:
  """Watches for SIGTERM, SIGINT (Ctrl-C) and the clock while the body runs.

  A first signal is noted; a second one acts as it did before. SIGINT is left alone
  where it does not raise KeyboardInterrupt anyway (under nohup, for example).

  Args:
    max_seconds: counted from here; 0 is no limit.
    on_signal: called with the number of the first signal, inside its handler: it must
      not use what the program may be in the middle of, such as buffered output.

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
    del frame
    signalled.set()
    restore()
    if on_signal is not None:
      on_signal(number)

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
  # JAX is imported this late as commands without it watch for signals too.
  import jax

  if jax.process_count() == 1:
    return reason
  import numpy as np
  from jax.experimental import multihost_utils

  codes = [None, TIME, SIGNAL]
  every = multihost_utils.process_allgather(np.int32(codes.index(reason)))
  return codes[int(np.max(every))]

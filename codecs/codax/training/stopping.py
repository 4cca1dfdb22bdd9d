"""Reasons for a run to end before its last step: a signal, or its time is up."""

import contextlib
import time
from collections.abc import Callable, Iterator

from codax import signals
from codax.signals import SIGNAL

TIME = 'max_seconds'
_ANSWER = 'the state is saved; again: at once, without saving'


@contextlib.contextmanager
def watch(max_seconds: float) -> Iterator[Callable[[], str | None]]:
  """Watches for signals and the clock while the body runs.

  Signals are noted where a command listens to them (`codax.signals`); elsewhere they
  act as in any Python program.

  Args:
    max_seconds: counted from here; 0 is no limit.

  Yields:
    A function that gives the reason to stop now, or None.
  """
  begin = time.monotonic()
  with signals.postpone(_ANSWER) as noted:

    def reason() -> str | None:
      if noted():
        return SIGNAL
      if max_seconds and time.monotonic() - begin >= max_seconds:
        return TIME
      return None

    yield reason


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

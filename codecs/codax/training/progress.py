"""Progress of long work: a bar on a terminal, and log lines where there is none.

After the first steps an estimate of the whole is logged once, everywhere. Without a
terminal a line of progress follows at least every 30 seconds, from a thread, so that
also a long compilation gives a sign of life.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import logging
from tqdm import tqdm

EVERY = 30.0  # seconds between two signs of life
_WARM_UP = 2.0  # seconds of steps before their speed is trusted


class Progress(NamedTuple):
  """Functions that work under way calls.

  Attributes:
    advance: function (count) to be called when `count` more steps are done.
    log: function (text) that logs a line without running into the bar.
  """

  advance: Callable[[int], None]
  log: Callable[[str], None]


def duration(seconds: float) -> str:
  """Returns a length of time for people, for example '40 s', '3 min' or '2.5 h'."""
  if seconds < 59.5:
    return f'{max(seconds, 0):.0f} s'
  if seconds < 59.5 * 60:
    return f'{seconds / 60:.0f} min'
  hours = f'{seconds / 3600:.1f}'.removesuffix('.0')
  return f'{hours} h'


def estimate(done: float, total: float, elapsed: float, unit: str = 'steps') -> str:
  """Returns the expected time of all steps, 'about 3 min for 2400 steps'.

  Args:
    done: steps made in `elapsed`, above 0.
    total: steps of the whole work.
    elapsed: seconds of these steps, compilation left out.
    unit: name of the steps in the plural.
  """
  return f'about {duration(elapsed * total / done)} for {total:g} {unit}'


@contextlib.contextmanager
def track(
  total: int,
  done: int = 0,
  unit: str = 'step',
  every: float = EVERY,
  is_shown: bool = True,
) -> Iterator[Progress]:
  """Shows the progress of the body.

  The first call of `advance` is taken to include compilation and is left out of the
  estimate.

  Args:
    total: number of steps of the whole work.
    done: number of them made by earlier runs.
    unit: name of a step in the singular.
    every: seconds between lines where there is no terminal, above 0.
    is_shown: False on processes that show nothing.

  Yields:
    A `Progress`.
  """
  # disable=None shows the bar on a terminal only
  disable = None if is_shown else True
  bar = tqdm(total=total, initial=done, unit=unit, disable=disable)
  meter = Meter(done, total, unit)

  def advance(count: int) -> None:
    bar.update(count)
    text = meter.advance(count)
    if text:
      log(text)

  def log(text: str) -> None:
    if is_shown:
      bar.clear()
      logging.info('%s', text)
      bar.refresh()
      meter.logged_at = time.monotonic()

  stop = threading.Event()

  def beat() -> None:
    while not stop.wait(min(every / 4, 1.0)):
      if time.monotonic() - meter.logged_at >= every:
        log(meter.describe())

  thread = None
  if is_shown and bar.disable:
    thread = threading.Thread(target=beat, name='codax-progress', daemon=True)
    thread.start()
  try:
    yield Progress(advance, log)
  finally:
    stop.set()
    if thread is not None:
      thread.join()
    bar.close()


class Meter:
  """Counts steps and measures their speed."""

  def __init__(self, done: int, total: int, unit: str):
    self.done, self.total, self.unit = done, total, unit
    self.begin = self.logged_at = time.monotonic()
    self.timed_from: tuple[int, float] | None = None  # after the first call
    self.has_estimate = False

  def advance(self, count: int) -> str | None:
    """Counts steps; returns the estimate when it is due, which is once."""
    self.done += count
    now = time.monotonic()
    if self.timed_from is None:
      self.timed_from = self.done, now
      return None
    first, begin = self.timed_from
    is_due = now - begin >= _WARM_UP and self.done < self.total
    if self.has_estimate or not is_due:
      return None
    self.has_estimate = True
    text = estimate(self.done - first, self.total - first, now - begin, f'{self.unit}s')
    return f'estimate: {text}'

  def is_silent(self) -> bool:
    """Tells whether the next sign of life is due; the caller then gives it."""
    now = time.monotonic()
    if now - self.logged_at < EVERY:
      return False
    self.logged_at = now
    return True

  def describe(self) -> str:
    """Returns a line of progress, with the time left once the speed is known."""
    text = f'{self.unit} {self.done}/{self.total}'
    now = time.monotonic()
    if self.timed_from is None:
      return f'{text}, the first one takes {duration(now - self.begin)} so far'
    first, begin = self.timed_from
    if self.done == first:
      return text
    left = (now - begin) / (self.done - first) * (self.total - self.done)
    return f'{text}, about {duration(left)} left'

"""Progress of long work: a bar on a terminal, and log lines where there is none.

After the first steps an estimate of the whole is logged once, everywhere. Without a
terminal a line of progress follows at least every 30 seconds, from a thread, so that
also a long compilation gives a sign of life.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from codax import console

EVERY = 30.0  # seconds between two signs of life
_WARM_UP = 2.0  # seconds of steps before their speed is trusted


class Progress(NamedTuple):
  """Functions that work under way calls.

  Attributes:
    advance: function (count) to be called when `count` more steps are done.
    log: function (text) that logs a line without running into the bar.
    update: function (done, total) in place of `advance`, for work whose length is not
      known before; fewer steps than before begin another piece of work.
    describe: function (text) that shows at the bar which step is under way.
  """

  advance: Callable[[int], None]
  log: Callable[[str], None]
  update: Callable[[int, int], None]
  describe: Callable[[str], None]


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


def print_line(text: str) -> None:
  """Prints a line on stderr, for commands that do not log."""
  console.say(text, sys.stderr)


def _log_line(text: str) -> None:
  """Logs a line in absl's log."""
  logging.info('%s', text)


@contextlib.contextmanager
def track(
  total: int | None,
  done: int = 0,
  unit: str = 'step',
  every: float = EVERY,
  is_shown: bool = True,
  *,
  write: Callable[[str], None] = _log_line,
  is_warm: bool = False,
  **bar_options: Any,
) -> Iterator[Progress]:
  """Shows the progress of the body.

  The first call of `advance` is taken to include compilation and is left out of the
  estimate, unless `is_warm`.

  Args:
    total: number of steps of the whole work; None if it is not known yet.
    done: number of them made by earlier runs.
    unit: name of a step in the singular.
    every: seconds between lines where there is no terminal, above 0; inf for none.
    is_shown: False on processes that show nothing.
    write: function that writes a line; absl's log if not given.
    is_warm: whether the first step is like all others.
    **bar_options: options of tqdm's bar.

  Yields:
    A `Progress`.
  """
  # disable=None shows the bar on a terminal only
  options = {'unit': unit, 'disable': None if is_shown else True, **bar_options}
  bar = tqdm(total=total, initial=done, **options)
  meter = Meter(done, total, unit, is_warm)

  def advance(count: int) -> None:
    update(meter.done + count, meter.total)

  def update(done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
    if done < meter.done:
      meter.restart()
    meter.total = total
    text = meter.advance(done - meter.done)
    if text:
      log(text)

  def log(text: str) -> None:
    if is_shown:
      bar.clear()
      write(text)
      bar.refresh()
      meter.logged_at = time.monotonic()

  def describe(text: str) -> None:
    meter.under_way = text
    bar.set_postfix_str(text, refresh=False)

  is_silent = not is_shown or not bar.disable
  try:
    with _giving_signs_of_life(meter, math.inf if is_silent else every, log):
      yield Progress(advance, log, update, describe)
  finally:
    bar.close()


@contextlib.contextmanager
def _giving_signs_of_life(
  meter: 'Meter', every: float, log: Callable[[str], None]
) -> Iterator[None]:
  """Logs a line, from a thread, whenever `every` seconds went by without one."""
  if every == math.inf:
    yield
    return
  stop = threading.Event()

  def beat() -> None:
    while not stop.wait(min(every / 4, 1.0)):
      if time.monotonic() - meter.logged_at >= every:
        log(meter.describe())

  thread = threading.Thread(target=beat, name='codax-progress', daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()


class Meter:
  """Counts steps and measures their speed."""

  def __init__(self, done: int, total: int | None, unit: str, is_warm: bool = False):
    self.done, self.total, self.unit = done, total, unit
    self.begin = self.logged_at = time.monotonic()
    # (steps done, time) from which speed is measured: after the first call if None
    self.timed_from = (done, self.begin) if is_warm else None
    self.has_estimate = False
    self.under_way = ''  # description of the step at hand

  def restart(self) -> None:
    """Begins another piece of work, with an estimate of its own."""
    self.done, self.timed_from, self.has_estimate = 0, None, False
    self.begin = time.monotonic()

  def advance(self, count: int) -> str | None:
    """Counts steps; returns the estimate when it is due, which is once."""
    self.done += count
    now = time.monotonic()
    if self.timed_from is None:
      self.timed_from = self.done, now
      return None
    first, begin = self.timed_from
    is_due = now - begin >= _WARM_UP and self.done < (self.total or 0)
    if self.has_estimate or not is_due:
      return None
    self.has_estimate = True
    text = estimate(self.done - first, self.total - first, now - begin, f'{self.unit}s')
    return f'estimate: {text}'

  def describe(self) -> str:
    """Returns a line of progress, with the time left once the speed is known."""
    text = f'{self.unit} {self.done}'
    text += '' if self.total is None else f'/{self.total}'
    text += f' ({self.under_way})' if self.under_way else ''
    now = time.monotonic()
    if self.timed_from is None:
      return f'{text}, the first one takes {duration(now - self.begin)} so far'
    first, begin = self.timed_from
    if self.done == first:  # time goes by, and no more is known
      return text if now - begin < 1 else f'{text}, {duration(now - begin)} so far'
    left = (now - begin) / (self.done - first) * (self.total - self.done)
    return f'{text}, about {duration(left)} left'

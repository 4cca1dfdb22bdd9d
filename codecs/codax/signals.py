"""Ctrl-C, SIGTERM and SIGHUP of a command: one place decides.

A library call has nothing to do with it: signals act there as in any Python program, so
that Ctrl-C raises KeyboardInterrupt out of `codax.encode`. Only commands `listen`
(`errors.exit_status` does so for all of them):

- A first signal raises `Interrupted`, which removes temporary files on its way out. A
  main thread that does not hear of it, deep in an encoder in C, is ended.
- Under `postpone` it is noted instead: the work at hand asks for it, saves and returns.
- A second signal ends the process at once.

A thread answers within moments and ends the process even while the main thread is in a
compiler, from which it returns to Python after seconds only.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNAL = 'signal'  # reason to stop, see `codec.ShouldStop`
# A terminal signals all processes, and programs such as `timeout` pass signals on: two
# so near to each other are one.
_SAME_PRESS = 0.3  # seconds
_PATIENCE = 0.4  # seconds in which a command can end without further words
_POLL = 0.05  # seconds between two looks at the main thread, after a signal
_STUCK = 4.0  # seconds after which a main thread in C that leaves nothing is ended
_NUMBERS = [
  getattr(signal, name)
  for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
  if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
  """The end of a command by a signal.

  Attributes:
    number: number of the signal.
  """

  def __init__(self, number: int):
    super().__init__()
    self.number = number


class _Listener:
  """The signals of a command, and who reacts to them."""

  def __init__(self):
    self.number: int | None = None  # of the first signal
    self.time = 0.0  # of the first signal, by the clock
    self.postponed: str | None = None  # message where signals do not raise
    self.is_heeded = False  # whether work at hand knows of the first signal
    self.is_deferred = self.is_reminder = False
    self.reminders = 0  # signals of our own that the thread has not read yet
    self.ended = threading.Event()
    self.stderr = _number_of_stderr()

  def handle(self, number: int, frame: Any) -> None:
    """Handles a signal, in the main thread, as soon as that is in Python again."""
    now = time.monotonic()
    if self.number is None:
      self.number, self.time = number, now
      if self.postponed is None:
        self.interrupt(frame)
    elif self.is_reminder:
      self.is_reminder = False
      if self.postponed is None:
        self.interrupt(frame)
    elif now - self.time > _SAME_PRESS:
      self.interrupt(frame)

  def interrupt(self, frame: Any) -> None:
    """Raises `Interrupted`, unless packages are being imported: then a little later.

    Exceptions in the middle of it abort the process, in jaxlib's C++ for example.
    """
    while frame is not None:
      if frame.f_code.co_filename.startswith('<frozen importlib'):
        self.is_deferred = True
        return
      frame = frame.f_back
    raise Interrupted(self.number)

  def remind(self) -> None:
    """Signals the main thread again, after an interruption that was deferred."""
    self.is_deferred, self.is_reminder = False, True
    self.reminders += 1
    if hasattr(signal, 'pthread_kill'):  # also wakes it from a system call
      signal.pthread_kill(threading.main_thread().ident, self.number)
    else:
      signal.raise_signal(self.number)

  def ask(self) -> str | None:
    """Returns `SIGNAL` once there was a signal, else None."""
    if self.number is None:
      return None
    self.is_heeded = True
    return SIGNAL

  def watch(self, numbers: socket.socket) -> None:
    """Answers signals, in a thread of its own, until a zero ends it.

    Args:
      numbers: numbers of signals arrive there, a byte each.
    """
    first = None
    while True:
      try:
        data = numbers.recv(64)
      except TimeoutError:
        is_late = time.monotonic() - first[1] > _STUCK
        if self.is_deferred:
          self.remind()
        # A thread that has not even heard of the signal is in no work of its own.
        elif is_late and self.number is None and self.postponed is None:
          self.leave(first[0])
        continue
      if not data or 0 in data:
        return
      found = [number for number in data if number in _NUMBERS]
      own = min(self.reminders, len(found))
      self.reminders -= own
      if len(found) == own:
        continue
      now = time.monotonic()
      if first is None:
        first = found[0], now
        self.answer()
        numbers.settimeout(_POLL)
      elif now - first[1] > _SAME_PRESS and not self.ended.wait(_PATIENCE):
        self.leave(first[0])

  def leave(self, number: int) -> None:
    """Ends the process from this thread."""
    self.say('interrupted')
    os._exit(128 + number)

  def answer(self) -> None:
    """Says that a first signal has arrived, unless the command ends by it anyway."""
    if self.postponed is None and self.ended.wait(_PATIENCE):
      return
    self.say(f'stopping: {self.postponed or "as soon as possible; again: at once"}')

  def say(self, text: str) -> None:
    """Writes a line without buffers, which the main thread may be in the middle of."""
    if self.stderr is not None:
      begin = '\n' if os.isatty(self.stderr) else ''  # behind '^C' or a bar
      with contextlib.suppress(OSError):
        os.write(self.stderr, f'{begin}{text}\n'.encode())


_listener: _Listener | None = None


def _number_of_stderr() -> int | None:
  """Returns the descriptor of stderr; None where there is none."""
  try:
    return sys.stderr.fileno()
  except (AttributeError, OSError, ValueError):
    return None


def _current() -> _Listener | None:
  """Returns the listener of the command that runs in this thread."""
  return _listener if threading.current_thread() is threading.main_thread() else None


@contextlib.contextmanager
def listen() -> Iterator[Callable[[], int | None]]:
  """Listens to the signals of a command while the body runs.

  Handlers that are not Python's own are left alone (nohup ignores SIGHUP, shells ignore
  Ctrl-C in background jobs), and so are all if this is not the main thread or a command
  listens already.

  Yields:
    A function that returns the number of the first signal, or None.
  """
  global _listener
  if threading.current_thread() is not threading.main_thread() or _listener:
    yield lambda: None
    return
  listener = _listener = _Listener()
  receiver, sender = socket.socketpair()
  sender.setblocking(False)  # it is written to inside the handler of the system
  thread = threading.Thread(
    target=listener.watch, args=(receiver,), name='codax-signals', daemon=True
  )
  thread.start()
  descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
  before = {n: signal.getsignal(n) for n in _NUMBERS if _is_default(n)}
  hook = sys.unraisablehook

  def find_lost(lost: Any) -> None:
    # Python drops exceptions in callbacks of its garbage collector, which JAX has.
    if isinstance(lost.exc_value, Interrupted):
      listener.is_deferred = True
    else:
      hook(lost)

  sys.unraisablehook = find_lost
  try:
    for number in before:
      signal.signal(number, listener.handle)
    yield lambda: listener.number
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(descriptor)
    sys.unraisablehook = hook
    listener.ended.set()
    _listener = None
    sender.send(b'\0')
    thread.join()
    sender.close()
    receiver.close()


def _is_default(number: int) -> bool:
  """Tells whether a signal acts as in any Python program."""
  return signal.getsignal(number) in (
    signal.SIG_DFL, signal.default_int_handler, _end_at_once
  )  # fmt: skip


@contextlib.contextmanager
def postpone(text: str) -> Iterator[Callable[[], str | None]]:
  """Notes a first signal instead of raising while the body runs.

  Args:
    text: answer to the signal: what is done now, and what a second one does.

  Yields:
    A function that returns `SIGNAL` once there was one, else None; always None where no
    command listens.

  Raises:
    Interrupted: the body ended, and did not ask after the signal had arrived.
  """
  listener = _current()
  if listener is None:
    yield lambda: None
    return
  before, listener.postponed = listener.postponed, text
  try:
    yield listener.ask
  finally:
    listener.postponed = before
  if before is None and listener.number is not None and not listener.is_heeded:
    raise Interrupted(listener.number)


@contextlib.contextmanager
def allow() -> Iterator[None]:
  """Lets signals raise again within `postpone`, for work that leaves nothing behind.

  Raises:
    Interrupted: there was a signal already.
  """
  listener = _current()
  if listener is None:
    yield
    return
  before, listener.postponed = listener.postponed, None
  try:
    if listener.number is not None:
      raise Interrupted(listener.number)
    yield
  finally:
    listener.postponed = before


@contextlib.contextmanager
def explain(text: str | Callable[[], str]) -> Iterator[None]:
  """Adds what an interruption of the body leaves behind to its exception.

  Args:
    text: words behind 'interrupted: ', or a function that returns them.
  """
  try:
    yield
  except KeyboardInterrupt as e:
    if not e.args:
      e.args = (text if isinstance(text, str) else text(),)
    raise


def status(error: KeyboardInterrupt) -> int:
  """Returns the exit status of an interruption, as shells report it."""
  return 128 + getattr(error, 'number', signal.SIGINT)


# --- Before and after a command -------------------------------------------------------


def guard_imports(name: str) -> None:
  """Makes signals end a script in one line while it imports its packages.

  Args:
    name: the script's ``__name__``; nothing happens if it is not '__main__'.
  """
  if name == '__main__':
    for number in filter(_is_default, _NUMBERS):
      signal.signal(number, _end_at_once)


def end_process(code: int) -> None:
  """Ends the process with an exit status.

  After a signal it ends without the farewells of packages, which wait for computations
  under way. At a terminal Ctrl-C ends it by the signal itself, which gives the same
  status: a shell goes on with its loop over images otherwise.
  """
  if code - 128 not in _NUMBERS:
    sys.exit(code)
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(AttributeError, OSError, ValueError):
      stream.flush()
  if code == 128 + signal.SIGINT and any(map(_is_terminal, range(3))):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
  os._exit(code)


def _is_terminal(descriptor: int) -> bool:
  """Tells whether a descriptor is open and a terminal."""
  try:
    return os.isatty(descriptor)
  except OSError:
    return False


def _end_at_once(number: int, frame: object) -> None:
  """Ends a process that has nothing to save."""
  del frame
  with contextlib.suppress(OSError):
    os.write(2, b'interrupted\n')
  os._exit(128 + number)


def _forget() -> None:
  """Leaves the signals of a forked child to Python."""
  global _listener
  if _listener is None:
    return
  signal.set_wakeup_fd(-1)
  for number in _NUMBERS:
    if signal.getsignal(number) == _listener.handle:
      default = signal.default_int_handler if number == signal.SIGINT else 0
      signal.signal(number, default)
  _listener = None


if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_forget)

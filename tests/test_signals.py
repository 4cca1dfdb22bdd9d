"""Ctrl-C, SIGTERM and SIGHUP of commands, and of library calls, which know none."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from codax import errors, signals

PYTHON = [sys.executable, '-u', '-c']
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# In C, without a look at signals, for minutes; other threads run on, as in a compiler.
# One of them tells so: it gets the lock of the interpreter when C gives that up.
IN_C = """
    import hashlib, sys, threading
    entered = threading.Lock()
    def tell():
      with entered:
        sys.setswitchinterval(0.005)
        print('in C')
    with entered:
      threading.Thread(target=tell, daemon=True).start()
      sys.setswitchinterval(1e6)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
COMMAND = """
  from codax import errors, signals
  def main():
    print('ready')
    {}
  signals.end_process(errors.exit_status(main))
"""


@pytest.fixture(autouse=True)
def handlers():
  """Handlers are the same after every test."""
  find = lambda: [signal.getsignal(n) for n in NUMBERS]
  before = find()
  yield
  assert find() == before
  assert signal.set_wakeup_fd(-1) == -1


def start(code, **options):
  """Starts Python code, waits for its first line, and returns the process."""
  text = textwrap.dedent(code)
  environment = {**os.environ, 'PYTHONPATH': str(Path(errors.__file__).parents[1])}
  options = {'stderr': subprocess.PIPE, 'text': True} | options
  child = subprocess.Popen(
    [*PYTHON, text], stdout=subprocess.PIPE, env=environment, **options
  )
  assert child.stdout.readline() == 'ready\n'
  return child


def start_in_c():
  """Starts a command that is deep in C when this returns."""
  child = start(COMMAND.format(IN_C.strip()))
  assert child.stdout.readline() == 'in C\n'
  return child


def finish(child, seconds=60):
  """Waits for a process; returns its status and what it wrote to stderr."""
  _, err = child.communicate(timeout=seconds)
  return child.returncode, err


@pytest.mark.parametrize('number', NUMBERS)
def test_command_with_a_signal_ends_with_its_status(number, capsys):
  status = errors.exit_status(lambda: signal.raise_signal(number))
  assert status == 128 + number
  assert capsys.readouterr().err == 'interrupted\n'


def test_interruption_that_code_swallows_is_the_status_all_the_same():
  def main():
    try:
      signal.raise_signal(signal.SIGTERM)
    except BaseException:
      return 0

  assert errors.exit_status(main) == 143


def test_handlers_of_others_are_left_alone():
  calls = []
  before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
  ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in background jobs
  try:
    with signals.listen() as received:
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGINT)
      assert calls == [1] and received() is None
  finally:
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, ignored)


def test_command_in_a_thread_listens_to_nothing():
  before, statuses = [signal.getsignal(n) for n in NUMBERS], []

  def main():
    assert [signal.getsignal(n) for n in NUMBERS] == before
    with signals.postpone('') as noted, signals.allow():
      return 0 if noted() is None else 1

  thread = threading.Thread(target=lambda: statuses.append(errors.exit_status(main)))
  thread.start()
  thread.join()
  assert statuses == [0]


def test_postponed_signal_of_a_library_call_raises():
  with pytest.raises(KeyboardInterrupt), signals.postpone('') as noted:
    signal.raise_signal(signal.SIGINT)
  assert noted() is None


def test_postponed_signal_is_noted_and_then_work_that_leaves_nothing_is_cut(capfd):
  with signals.listen(), signals.postpone('saving; again: at once') as noted:
    signal.raise_signal(signal.SIGTERM)
    assert noted() == signals.SIGNAL
    with pytest.raises(signals.Interrupted) as e, signals.allow():
      raise AssertionError('the body began')
    assert signals.status(e.value) == 143
    deadline = time.monotonic() + 60
    err = ''
    while 'saving' not in err and time.monotonic() < deadline:
      time.sleep(0.01)
      err += capfd.readouterr().err
  assert err == 'stopping: saving; again: at once\n'


def test_postponed_signal_that_nobody_asked_about_raises_at_the_end():
  with pytest.raises(signals.Interrupted), signals.listen():
    with signals.postpone(''):
      signal.raise_signal(signal.SIGINT)


def test_second_signal_raises_and_one_that_came_twice_does_not(monkeypatch):
  monkeypatch.setattr(signals, '_PATIENCE', 30.0)
  with signals.listen(), signals.postpone('') as noted:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # by the terminal and by a parent process
    assert noted()
    monkeypatch.setattr(signals, '_SAME_PRESS', 0.0)
    with pytest.raises(signals.Interrupted) as e:
      signal.raise_signal(signal.SIGTERM)
    assert e.value.number == signal.SIGINT


@pytest.mark.parametrize('number', NUMBERS)
def test_process_deep_in_c_answers_and_a_second_signal_ends_it_at_once(number):
  child = start_in_c()
  child.send_signal(number)
  assert child.stderr.readline() == ('stopping: as soon as possible; again: at once\n')
  child.send_signal(number)
  # both long before it is back from C
  assert finish(child) == (128 + number, 'interrupted\n')


def test_process_deep_in_c_ends_soon_where_it_leaves_nothing():
  child = start_in_c()
  begin = time.monotonic()
  child.send_signal(signal.SIGTERM)
  assert finish(child)[0] == 143  # long before it is back from C
  assert time.monotonic() - begin > 3


@pytest.mark.parametrize('is_twice', [False, True])
def test_signal_while_a_command_imports_a_package_waits_for_its_end(tmp_path, is_twice):
  """Exceptions in the middle of JAX's import abort the process."""
  (tmp_path / 'slow_package.py').write_text(
    f'import os, time\nprint("ready")\npath = {str(tmp_path / "go")!r}\n'
    'while not os.path.exists(path): time.sleep(0.01)\nprint("imported")\n'
  )
  code = f"""
    import sys
    from codax import errors, signals
    sys.path.append({str(tmp_path)!r})
    def main():
      import time
      import slow_package
      time.sleep(60)
      print('went on')
    signals.end_process(errors.exit_status(main))
  """
  child = start(code)
  child.send_signal(signal.SIGTERM)
  if is_twice:
    time.sleep(0.7)
    child.send_signal(signal.SIGTERM)
  else:
    (tmp_path / 'go').touch()
  out, err = child.communicate(timeout=60)
  assert child.returncode == 143 and err.endswith('interrupted\n')
  assert out == ('' if is_twice else 'imported\n')


def test_interruption_that_python_drops_comes_again():
  class Left:
    def __del__(self):
      signal.raise_signal(signal.SIGINT)

  hook = sys.unraisablehook
  with pytest.raises(signals.Interrupted), signals.listen():
    Left()
    time.sleep(20)
  assert sys.unraisablehook is hook


@pytest.mark.filterwarnings('ignore:os.fork')  # before the command takes over
def test_process_with_stderr_closed_ends_as_ever():
  child = start(
    COMMAND.format('import time; time.sleep(60)'), stderr=None,
    preexec_fn=lambda: os.close(2),
  )  # fmt: skip
  child.send_signal(signal.SIGINT)
  assert finish(child)[0] == 130


def test_signal_while_packages_are_imported_is_one_line():
  code = """
    from codax import signals
    signals.guard_imports(__name__)
    import time
    print('ready')
    time.sleep(60)
  """
  child = start(code)
  child.send_signal(signal.SIGTERM)
  assert finish(child) == (143, 'interrupted\n')


def test_ctrl_c_at_a_terminal_ends_the_loop_of_a_shell():
  terminal, end = os.openpty()
  child = start(COMMAND.format('import time; time.sleep(60)'), stdin=end)
  child.send_signal(signal.SIGINT)
  assert finish(child) == (-signal.SIGINT, 'interrupted\n')
  os.close(terminal)
  os.close(end)


@pytest.mark.filterwarnings('ignore:os.fork')  # before the command takes over
def test_terminal_that_is_closed_ends_the_command_as_sigterm_would():
  """The last words of the command have nowhere to go, which fails nothing."""
  import fcntl
  import termios

  terminal, end = os.openpty()
  take = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
  child = start(
    COMMAND.format('import time; time.sleep(60)'), stdin=end, stderr=end,
    start_new_session=True, preexec_fn=take,
  )  # fmt: skip
  os.close(end)
  os.close(terminal)
  assert child.wait(60) == 128 + signal.SIGHUP


def test_forked_child_keeps_its_signals_to_itself():
  code = """
    import os, signal, time
    child = os.fork()
    if not child:
      time.sleep(60)
      os._exit(1)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    time.sleep(0.5)
    print('alive')
  """
  body = textwrap.indent(textwrap.dedent(code), '    ').strip()
  child = start(COMMAND.format(body))
  assert child.stdout.readline() == 'alive\n'
  assert finish(child) == (0, '')

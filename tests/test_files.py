"""Files that appear whole, JSON that is damaged, and locks of folders."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from codax import files
from codax.errors import CodaxError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')


def leftovers(folder):
  return [p for p in folder.iterdir() if p.name.startswith(files.TEMPORARY)]


def mode_of(path):
  return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize('mode', [0o600, 0o640, 0o444, 0o2750])
def test_replaced_file_keeps_its_mode(tmp_path, mode):
  path = tmp_path / 'x'
  path.write_bytes(b'old')
  path.chmod(mode)
  files.write_bytes(path, b'new')
  assert path.read_bytes() == b'new' and mode_of(path) == mode


@ROOT_ONLY
def test_replaced_file_keeps_its_owner(tmp_path, monkeypatch):
  path = tmp_path / 'x'
  path.write_bytes(b'old')
  os.chown(path, 1234, 2345)
  path.chmod(0o4755)
  files.write_bytes(path, b'new')
  status = os.stat(path)
  assert (status.st_uid, status.st_gid, mode_of(path)) == (1234, 2345, 0o4755)

  def refuse(*_):
    raise PermissionError(errno.EPERM, 'Operation not permitted')

  monkeypatch.setattr(os, 'chown', refuse)
  files.write_bytes(path, b'newer')
  assert mode_of(path) == 0o755  # a set-user-ID bit is for the owner that it had


def test_new_file_is_as_the_umask_says(tmp_path):
  before = os.umask(0o027)
  try:
    files.write_bytes(tmp_path / 'x', b'')
  finally:
    os.umask(before)
  assert mode_of(tmp_path / 'x') == 0o640


def test_link_stays_a_link_and_its_file_is_replaced(tmp_path):
  (tmp_path / 'far').mkdir()
  target, link = tmp_path / 'far' / 'x', tmp_path / 'link'
  link.symlink_to(target)
  for text in (b'first', b'second'):  # of a file that is not there yet, too
    files.write_bytes(link, text)
    assert link.is_symlink() and target.read_bytes() == text
  assert not leftovers(tmp_path) and not leftovers(tmp_path / 'far')
  loop = tmp_path / 'loop'
  loop.symlink_to('loop')
  for write in (lambda: files.write_bytes(loop, b''), lambda: files.try_writing(loop)):
    with pytest.raises(OSError, match='loop') as caught:
      write()
    assert caught.value.errno == errno.ELOOP


def test_hard_link_to_a_replaced_file_keeps_the_old_content(tmp_path):
  (tmp_path / 'x').write_bytes(b'old')
  os.link(tmp_path / 'x', tmp_path / 'y')
  files.write_bytes(tmp_path / 'x', b'new')
  assert (tmp_path / 'y').read_bytes() == b'old'


def test_device_behind_a_link_is_written_to_and_not_replaced(tmp_path):
  (tmp_path / 'x').symlink_to(os.devnull)
  files.try_writing(tmp_path / 'x')
  files.write_bytes(tmp_path / 'x', b'x')
  assert not stat.S_ISREG(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize('number', [errno.EBUSY, errno.EPERM, errno.EACCES])
def test_file_that_cannot_be_replaced_is_written_in_place(
  tmp_path, monkeypatch, number
):
  """A file that is a mount point, as in containers, or another's in a sticky folder."""
  path = tmp_path / 'x'
  path.write_bytes(b'the old one is longer')

  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, 'replace', refuse)
  inode = path.stat().st_ino
  files.write_bytes(path, b'new')
  assert path.read_bytes() == b'new' and path.stat().st_ino == inode
  with pytest.raises(OSError, match='new_name') as caught:
    files.write_bytes(tmp_path / 'new_name', b'new')
  assert caught.value.errno == number
  assert sorted(p.name for p in tmp_path.iterdir()) == ['x']


@pytest.mark.parametrize('function', ['fsync', 'chmod', 'chown'])
def test_file_system_without_an_operation_is_written_to(
  tmp_path, monkeypatch, function
):
  def unable(*_):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  (tmp_path / 'x').write_bytes(b'old')
  (tmp_path / 'x').chmod(0o600)
  monkeypatch.setattr(os, function, unable)
  files.write_bytes(tmp_path / 'x', b'new')
  assert (tmp_path / 'x').read_bytes() == b'new' and mode_of(tmp_path / 'x') == 0o600


def test_full_disk_is_found_by_trying_and_leaves_nothing(tmp_path):
  """Files may have no byte: creating one succeeds, as on a full disk."""
  (tmp_path / 'x').write_bytes(b'old')
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
  errors = []
  try:
    for path in (tmp_path / 'x', tmp_path / 'new'):
      for write in (files.try_writing, lambda p: files.write_bytes(p, b'new')):
        with pytest.raises(OSError, match=path.name) as caught:
          write(path)
        errors.append(caught.value)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, before)
  assert {e.errno for e in errors} == {errno.EFBIG}
  assert {e.filename for e in errors} == {str(tmp_path / n) for n in ('x', 'new')}
  assert [p.name for p in tmp_path.iterdir()] == ['x']
  assert (tmp_path / 'x').read_bytes() == b'old'


@pytest.mark.parametrize('name', ['folder', 'protected', 300 * 'x', 'no/x'])
def test_file_that_cannot_be_written_is_found_by_trying(name):
  wanted = {'folder': errno.EISDIR, 'protected': errno.EACCES, 'no/x': errno.ENOENT}
  user = os.geteuid()
  # Not tmp_path: its parents are root's alone, and other tests are running in them.
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    (folder / 'folder').mkdir()
    (folder / 'protected').write_bytes(b'old')
    (folder / 'protected').chmod(0o444)
    folder.chmod(0o777)
    if user == 0:  # permissions do not bind root: nobody tries
      os.chown(folder / 'protected', 65534, 65534)
      os.seteuid(65534)
    try:
      with pytest.raises(OSError) as caught:
        files.try_writing(folder / name)
    finally:
      os.seteuid(user)
    assert (folder / 'protected').read_bytes() == b'old' and not leftovers(folder)
  assert caught.value.errno == wanted.get(name, errno.ENAMETOOLONG)
  assert caught.value.filename == str(folder / name)


KILLED = """
import os, signal, sys
from codax import files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_bytes(sys.argv[1], b'new')
"""


def test_killed_process_leaves_the_old_file_and_one_name_to_recognize(tmp_path):
  (tmp_path / 'x').write_bytes(b'old')
  done = subprocess.run([sys.executable, '-c', KILLED, str(tmp_path / 'x')])
  assert done.returncode == -signal.SIGKILL
  assert (tmp_path / 'x').read_bytes() == b'old'
  assert len(leftovers(tmp_path)) == 1 and len(list(tmp_path.iterdir())) == 2


def test_text_with_a_name_that_is_no_utf_8_is_written_as_its_bytes(tmp_path):
  files.write_text(tmp_path / 'x', os.fsdecode(b'a\xff\n'))
  assert (tmp_path / 'x').read_bytes() == b'a\xff\n'


@pytest.mark.parametrize(
  'data', [b'', b' \n', b'{"a": 1', b'\xff\xfe', b'[1]', b'3', b'[' * 10**5]
)
def test_damaged_json_is_one_line_with_its_name(tmp_path, data):
  (tmp_path / 'x.json').write_bytes(data)
  with pytest.raises(CodaxError, match=r'x\.json is damaged: ') as caught:
    files.read_json(tmp_path / 'x.json')
  assert '\n' not in str(caught.value)


def test_json_is_read_back(tmp_path):
  files.write_text(tmp_path / 'x', files.json_text({'a': [1, float('inf')]}))
  assert files.read_json(tmp_path / 'x') == {'a': [1, 'inf']}
  with pytest.raises(FileNotFoundError):
    files.read_json(tmp_path / 'y')


# --- Locks ----------------------------------------------------------------------------


def unlockable(monkeypatch, number=errno.ENOLCK):
  def unable(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(files.fcntl, 'lockf', unable)


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_folder_without_locks_is_used_with_a_note(
  tmp_path, monkeypatch, caplog, number
):
  unlockable(monkeypatch, number)
  with files.lock(tmp_path):
    assert f'process {os.getpid()} on ' in (tmp_path / files.LOCK).read_text()
  assert f'{tmp_path} cannot be locked' in caplog.text


def test_folder_without_locks_of_a_living_process_is_refused(tmp_path, monkeypatch):
  text = files._describe_process()
  child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
  alive = text.replace(str(os.getpid()), str(child.pid), 1)
  (tmp_path / files.LOCK).write_text(alive)
  unlockable(monkeypatch)
  try:
    with pytest.raises(CodaxError, match=f'in use by process {child.pid} on '):
      with files.lock(tmp_path):
        pass
  finally:
    child.communicate()
  with files.lock(tmp_path):  # dead now
    pass
  for own in (text, 'process x on ', '\x00\xff', ''):
    (tmp_path / files.LOCK).write_text(own)
    with files.lock(tmp_path):
      pass


def test_folder_left_by_a_process_of_another_machine_is_used_with_a_note(
  tmp_path, caplog
):
  (tmp_path / files.LOCK).write_text('process 7 on elsewhere since noon (train.py)')
  with files.lock(tmp_path):
    pass
  assert 'was last used by process 7 on elsewhere since noon' in caplog.text
  caplog.clear()
  with files.lock(tmp_path):
    pass
  assert not caplog.text


def test_owner_is_described_by_process_host_time_and_command(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['/a/launch/train.py', '--config=a b.py'])
  with files.lock(tmp_path):
    text = (tmp_path / files.LOCK).read_text()
  host = files.socket.gethostname()
  assert text.startswith(f'process {os.getpid()} on {host} since 20')
  assert text.endswith(" UTC (train.py '--config=a b.py')")
  assert len(text.encode()) <= 1000


def test_lock_on_a_full_disk_is_taken_all_the_same(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'pwrite', full)
  with files.lock(tmp_path):
    assert (tmp_path / files.LOCK).read_bytes() == b''


def test_folder_is_held_until_the_function_that_locked_it_ends(tmp_path):
  def work(is_bad):
    _owner = files.hold(tmp_path)
    text = (tmp_path / files.LOCK).read_text()
    with files.lock(tmp_path / 'below'):  # part of what is locked
      assert not (tmp_path / 'below' / files.LOCK).exists()
    if is_bad:
      raise CodaxError('bad')
    return text

  assert str(os.getpid()) in work(False)
  assert (tmp_path / files.LOCK).read_text() == '' and not files._locked
  with pytest.raises(CodaxError, match='bad'):
    work(True)


def test_folder_that_cannot_be_locked_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file') as caught:
    with files.lock(tmp_path / 'file'):
      pass
  assert caught.value.filename == str(tmp_path / 'file')


def test_names_of_json_keys_survive_a_round_trip(tmp_path):
  name = os.fsdecode(b'a\xff.png')
  files.write_text(tmp_path / 'x', json.dumps({name: 1}))
  assert files.read_json(tmp_path / 'x') == {name: 1}

"""Ctrl-C and SIGTERM in real commands, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image

import codax

ROOT = Path(__file__).parents[1]
CODAX = [sys.executable, '-m', 'codax']
BEGUN = 'estimate: about '  # the first steps are made
# Tells when the import of a package begins; Python runs it before any other code.
SITE = """
import sys
class Finder:
  @staticmethod
  def find_spec(name, *_):
    if name == {!r}:
      open('imports', 'w').close()
sys.meta_path.insert(0, Finder)
"""


def launch(script, *args):
  return [sys.executable, ROOT / 'launch' / f'{script}.py', *args]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  image = np.tile(smooth_image(), (6, 12, 1))
  Image.fromarray(image).save('in.png')
  (tmp_path / 'set').mkdir()
  for name in 'ab':
    Image.fromarray(image[:48, :64]).save(f'set/{name}.png')


def interrupt(command, moment, number=signal.SIGINT):
  """Starts a command, waits for words in its stderr or for a time, and signals it.

  Args:
    command: words of the command.
    moment: the words; or seconds; or (package, seconds from when that is imported).
    number: the signal.

  Returns:
    The status, the text on stderr, the seconds until the answer and until the end.
  """
  env = {**os.environ, 'PYTHONPATH': str(ROOT / 'codecs'), 'PYTHONUNBUFFERED': '1'}
  if isinstance(moment, tuple):
    package, moment = moment
    Path('site').mkdir(exist_ok=True)
    Path('site/sitecustomize.py').write_text(SITE.format(package))
    Path('imports').unlink(missing_ok=True)
    env['PYTHONPATH'] = os.pathsep.join([os.path.abspath('site'), env['PYTHONPATH']])
  else:
    Path('imports').touch()
  with open('err', 'w+b') as err:
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=err)
    read = lambda: Path('err').read_text(errors='replace')
    deadline = time.monotonic() + 120
    while not Path('imports').exists():
      assert child.poll() is None and time.monotonic() < deadline, read()
      time.sleep(0.01)
    while isinstance(moment, str) and moment not in read():
      assert child.poll() is None and time.monotonic() < deadline, read()
      time.sleep(0.01)
    if not isinstance(moment, str):
      time.sleep(moment)
    start, answered = time.monotonic(), None
    child.send_signal(number)
    while child.poll() is None and time.monotonic() < deadline:
      if answered is None and ('stopping: ' in read() or 'interrupted' in read()):
        answered = time.monotonic() - start
      time.sleep(0.01)
    end = time.monotonic() - start
    return child.returncode, read(), answered or end, end


@pytest.mark.slow
@pytest.mark.parametrize('name', ['overfit', 'splat'])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_encode_interrupted_in_its_steps_leaves_their_file(name, number):
  command = [*CODAX, 'encode', 'in.png', '-o', 'x.cdx', f'--codec={name}']
  status, err, answer, end = interrupt([*command, '--preset=full'], BEGUN, number)
  assert status == 128 + number and answer < 1 and end < 20
  assert 'a file of the steps so far is written; again: no file' in err
  assert 'the file is as good as they made it' in err and 'Traceback' not in err
  assert codax.decode(Path('x.cdx').read_bytes()).shape == (102, 396, 3)


@pytest.mark.parametrize(
  'moment', [('numpy', 0.05), ('jax', 0.2), ('codax.overfit.train', 1.0)]
)
def test_encode_interrupted_before_its_steps_leaves_nothing(moment, tmp_path):
  """While packages are imported, or while XLA compiles."""
  command = [*CODAX, 'encode', 'in.png', '-o', 'x.cdx', '--codec=overfit']
  before = sorted(path.name for path in tmp_path.iterdir())
  for _ in range(4):  # a busy machine may be late, but not each time
    status, err, answer, _ = interrupt([*command, '--preset=full'], moment)
    if answer < 1:
      break
  assert status == 130 and answer < 1
  assert 'interrupted' in err and 'Traceback' not in err
  after = {path.name for path in tmp_path.iterdir()} - {'err', 'site', 'imports'}
  assert sorted(after) == before


@pytest.mark.slow
def test_evaluate_interrupted_keeps_finished_rows_and_names_the_one_left_out():
  args = '--images=set', '--codecs=jpeg,overfit', '--preset=full', '--out=out'
  status, err, answer, _ = interrupt(launch('evaluate', *args), 12.0, signal.SIGTERM)
  assert status == 143 and answer < 1 and 'finished rows are in out' in err
  results = json.loads(Path('out/results.json').read_text())
  assert {row['codec'] for row in results['rows']} == {'jpeg'}
  assert not results['is_complete'] and results['interrupted']['codec'] == 'overfit'
  assert not Path('out/table.md').exists()


@pytest.mark.slow
@pytest.mark.parametrize('config', ['overfit_mlp', 'splat'])
def test_train_interrupted_says_that_the_same_command_goes_on(config):
  args = [f'--config={ROOT}/configs/{config}.py', '--workdir=run', '--config.seed=1']
  args += ['--config.data.name=folder', '--config.data.path=set']
  command = launch('train', *args, '--config.data.split=all')
  status, err, answer, end = interrupt(command, BEGUN)
  assert status == 130 and answer < 1 and end < 20
  assert 'stopping: the state is saved; again: at once, without saving' in err
  assert list(Path('run').rglob('codax_manifest.json')) and 'Traceback' not in err

"""Variables of the environment: 64-bit numbers, and platforms that are not there."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_task

from codax.errors import CodaxError
from codax.training import flags, settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

TRAIN_TINY = """
import sys
import jax
from tiny_vqvae import tiny_config
from codax.data import pipeline
from codax.training import loop
from codax.vqvae import task
assert jax.config.jax_enable_x64
config = tiny_config()
config.model.update({'encoder_blocks': 0, 'decoder_blocks': 0})
config.update({'total_steps': 2, 'log_every': 1, 'eval_every': 2})
config.data.update({'eval_crops': 8, 'permute_channels': 0.5, 'jitter': 0.3})
data = pipeline.make(config.data, 0)
batches = pipeline.eval_batches(config.data, 8)
result = loop.train(task.make(config), data, batches, config, sys.argv[1])
print(*sorted({x.dtype.name for x in jax.tree.leaves(result.state)}))
"""


def _run(code, *args, **variables):
  path = [HERE, HERE.parent / 'vqvae', ROOT / 'codecs']
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path)), **variables}
  run = [sys.executable, '-c', code, *map(str, args)]
  return subprocess.run(run, capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_vqvae_trains_in_32_bits_where_64_are_enabled(tmp_path):
  done = _run(TRAIN_TINY, tmp_path, JAX_ENABLE_X64='1')
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.split() == ['float32', 'int32']


@pytest.mark.parametrize('platform', ['cuda', 'nonsense'])
def test_missing_platform_is_one_line_and_status_2(platform):
  code = (
    'import sys\nfrom codax import errors\nfrom codax import devices\n'
    'sys.exit(errors.exit_status(lambda: devices.start() and 0))'
  )
  done = _run(code, JAX_PLATFORMS=platform)
  assert done.returncode == 2, done.stderr
  [line] = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
  assert f'JAX finds no device with JAX_PLATFORMS={platform}' in line
  assert 'Traceback' not in done.stderr


def test_syntax_error_of_a_configuration_is_one_line_with_its_place(tmp_path):
  path = tmp_path / 'broken.py'
  path.write_text('def get_config():\n  return (\n')
  with pytest.raises(CodaxError, match=r'broken\.py, line 2: ') as e:
    flags.parse(['train.py', f'--config={path}'])
  assert '\n' not in str(e.value)


BROKEN = {
  'raises.py': (
    'def get_config():\n  return 1 / 0\n',
    ', line 2: ZeroDivisionError: div',
  ),
  'package.py': (
    'import no_such_package\n',
    ', line 1: ModuleNotFoundError: No module',
  ),
  'nothing.py': ('x = 1\n', ' has no function get_config()'),
  'none.py': (
    'def get_config():\n  pass\n',
    'must return an ml_collections.ConfigDict',
  ),
  'dict.py': ('def get_config():\n  return {}\n', 'ConfigDict, not dict'),
  'exits.py': ('import sys\nsys.exit(3)\n', ', line 2: SystemExit: 3'),
  'lines.py': ('raise ValueError("two\\nlines")\n', ', line 1: ValueError: two lines'),
  'float.py': (
    'from codax.vqvae import defaults\n'
    'def get_config():\n  config = defaults.small()\n  config.total_steps = 1e1\n',
    ', line 4: TypeError: ',
  ),
  'misspelt.py': (
    'from codax.vqvae import defaults\ndef get_config():\n  return defaults.smal()\n',
    ', line 3: AttributeError: ',
  ),
  'argument.py': ('def get_config(a):\n  pass\n', 'missing 1 required positional'),
  'nul.py': ('\0', 'null bytes'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_mistake_in_a_configuration_is_one_line_with_its_place(
  tmp_path, name, monkeypatch
):
  # the parser executes files of one process in one module
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  path, (content, text) = tmp_path / name, BROKEN[name]
  path.write_text(content)
  with pytest.raises(CodaxError) as caught:
    flags.parse(['train.py', f'--config={path}', '--config.seed=1'])
  message = str(caught.value)
  assert message.startswith(str(path)) and text in message and '\n' not in message


def test_folder_and_dangling_link_are_no_configurations(tmp_path):
  (tmp_path / 'link.py').symlink_to('nowhere')
  for path, text in ((tmp_path, 'is a directory'), (tmp_path / 'link.py', 'no such')):
    with pytest.raises(CodaxError, match=text):
      flags.parse(['train.py', f'--config={path}'])


def test_misspelt_key_is_answered_with_few_names_and_the_place_of_all(capsys):
  config = f'--config={ROOT}/configs/vqvae_ba.py'
  with pytest.raises(CodaxError, match="did you mean 'model.hidden'") as caught:
    flags.parse(['train.py', config, '--config.model.hiden=3'])
  message = str(caught.value)
  assert len(message) < 200 and '--help after --config=FILE' in message
  assert flags.parse(['train.py', config, '--help']) is None
  shown = capsys.readouterr().out
  assert '--config.model.hidden=64\n' in shown and '--config.total_steps=2400' in shown


def test_number_in_another_form_is_told_what_is_valid():
  config = f'--config={ROOT}/configs/vqvae_ba.py'
  for change, kind in (
    ('total_steps=1e1', 'whole '),
    ('optimizer.learning_rate=x', ''),
  ):
    with pytest.raises(CodaxError, match=f'; valid: a {kind}number'):
      flags.parse(['train.py', config, f'--config.{change}'])


def test_tilde_of_the_configuration_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  shutil.copy(HERE / 'toy_config.py', tmp_path / 'mine.py')
  for argv in (['--config=~/mine.py'], ['--config=~/mine.py:more']):
    assert flags.parse(['train.py', *argv]).config.total_steps > 0


def test_work_directory_that_is_no_text_is_refused(monkeypatch):
  monkeypatch.setattr(flags.sys, 'getfilesystemencoding', lambda: 'ascii')
  config = f'--config={ROOT}/configs/vqvae_ba.py'
  with pytest.raises(CodaxError, match='set PYTHONUTF8=1') as caught:
    flags.parse(['train.py', config, '--workdir=\udcc3x'])
  assert str(caught.value).isascii()


def test_lines_of_jax_about_other_accelerators_are_left_out():
  record = lambda path, level: logging.LogRecord('absl', level, path, 1, '', (), None)
  jax_file = '/site-packages/jax/_src/xla_bridge.py'
  assert not flags._is_for_users(record(jax_file, logging.INFO))
  assert flags._is_for_users(record(jax_file, logging.WARNING))
  assert flags._is_for_users(record('/codax/training/loop.py', logging.INFO))


def test_float_for_a_number_of_steps_is_named():
  config = toy_task.config().to_dict() | {'total_steps': 10.0}
  with pytest.raises(
    CodaxError, match=r'total_steps is 10\.0; valid: 1 to .*, a whole number'
  ):
    settings.read(config)

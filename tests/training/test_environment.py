"""Variables of the environment: 64-bit numbers, and platforms that are not there."""

import os
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


def test_float_for_a_number_of_steps_is_named():
  config = toy_task.config().to_dict() | {'total_steps': 10.0}
  with pytest.raises(CodaxError, match=r'total_steps is 10\.0; valid: a whole number'):
    settings.read(config)

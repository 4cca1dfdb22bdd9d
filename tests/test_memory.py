"""Memory that runs out is one line that says what to lower, for codecs and runs."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import cli, codec, devices, errors, families
from codax.data import embedded
from codax.errors import CodaxError
from codax.reports import sweep_tables
from codax.training import flags, memory

ROOT = Path(__file__).parents[1]

IMAGE = np.zeros((6, 8, 3), np.uint8)
BATCHES = {'batch_size': 8, 'crop': 64}


def use_too_much(*args, **kwargs):
  """Asks XLA for 4 TiB, as a program that is too large does."""
  del args, kwargs
  huge = jax.random.normal(jax.random.key(0), (2**20, 2**20))
  return huge.sum().block_until_ready()


def fail_in_numpy(*args, **kwargs):
  raise MemoryError('Unable to allocate 4.00 TiB for an array')


ENCODERS = {
  'overfit': 'codax.overfit.encode.encode_image',
  'splat': 'codax.splat.encode.encode_image',
  'vqvae': 'codax.vqvae.codec._encode_latents',
}


@pytest.mark.parametrize('name', ENCODERS)
def test_encoding_that_does_not_fit_says_what_to_do(name, monkeypatch):
  monkeypatch.setattr(ENCODERS[name], use_too_much)
  with pytest.raises(CodaxError) as e:
    families.get(name, options=codec.Options(preset='fast')).encode(IMAGE)
  text = str(e.value)
  begin = f"encoding 8 x 6 pixels with '{name}' does not fit into memory: "
  assert text.startswith(begin)
  assert ('shrink the image, or cut it' in text) == (name != 'vqvae')
  assert '\n' not in text and len(text) < 400
  assert 'JAX_PLATFORMS' not in text  # it runs on the CPU already


def test_advice_on_an_accelerator_names_the_memory_of_the_computer(monkeypatch):
  assert not devices.is_accelerated()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(ENCODERS['splat'], use_too_much)
  with pytest.raises(CodaxError, match="JAX_PLATFORMS=cpu takes the computer's own"):
    families.get('splat').encode(IMAGE)


def test_decoding_that_does_not_fit_is_one_line(monkeypatch):
  made = families.get('vqvae', options=codec.Options(preset='fast'))
  data = made.encode(IMAGE).data
  monkeypatch.setattr('codax.vqvae.codec.synthesize', fail_in_numpy)
  with pytest.raises(CodaxError) as e:
    made.decode(data)
  assert str(e.value) == (
    f"decoding {len(data)} bytes with 'vqvae' does not fit into memory: close other "
    'programs that use the memory (Unable to allocate 4.00 TiB for an array)'
  )


def test_command_that_runs_out_of_memory_ends_with_one_line_and_status_2(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(ENCODERS['overfit'], use_too_much)
  photo = str(embedded.photo_files()['test']['astronaut'])
  out = tmp_path / 'photo.cdx'
  words = ['encode', photo, '-o', str(out), '--codec', 'overfit']
  assert errors.exit_status(lambda: cli.main(words)) == 2
  lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith('error: ')]
  assert len(lines) == 1 and 'encoding 512 x 512 pixels' in lines[0]
  assert 'shrink the image' in lines[0] and not out.exists()


def test_other_errors_are_left_alone():
  def fail(error):
    with devices.explain_memory(lambda: 'no'):
      raise error

  for error in (RuntimeError('Out of memory'), jax.errors.JaxRuntimeError('INTERNAL')):
    with pytest.raises(type(error)) as e:  # a RuntimeError that is none of JAX's
      fail(error)
    assert e.value is error
  with pytest.raises(CodaxError, match='^no$'):
    fail(MemoryError())


@pytest.mark.parametrize(
  ('config', 'advice'),
  [
    ({'data': BATCHES}, 'data.batch_size = 8 or data.crop = 64'),
    (
      {'data': BATCHES, 'accumulate': 2, 'model': {'remat': False}},
      'raise accumulate = 2, or set model.remat = True',
    ),
    (
      {'data': {'crop': 0}, 'max_batch': 0},
      'lower max_batch = 0 (0 is all of a size), or set data.crop, or shrink images',
    ),
    (
      {'data': {'crop': 256}, 'max_batch': 30},
      'lower max_batch = 30, or lower data.crop = 256',
    ),
    (
      {'data': {'crop': 256}, 'max_batch': 1},
      'the image does not fit into memory: lower data.crop = 256',
    ),
  ],
)
def test_advice_names_the_keys_of_the_configuration(config, advice):
  with pytest.raises(CodaxError) as e, memory.explain(config):
    use_too_much()
  text = str(e.value)
  assert advice in text and 'fit into memory' in text and '\n' not in text


# --- measurements ---------------------------------------------------------------------


def test_memory_of_a_program_is_that_of_its_arrays():
  def f(state, x):
    y = jnp.sort(x @ x.T, -1)  # [512, 512], sorted: one array at least
    return state + y.sum(), x[:4]

  state, x = np.zeros((256, 1024), np.float32), np.zeros((512, 256), np.float32)
  used = memory.measure_program(jax.jit(f, donate_argnums=0).lower(state, x).compile())
  assert used.arguments == pytest.approx(1 + 0.5, abs=1e-3)  # MiB
  # the state takes the place of its argument
  assert used.outputs == pytest.approx(4 * 256 * 4 / 2**20, abs=1e-3)
  assert 1 <= used.temporaries < 4
  assert used.total == sum(used)


@pytest.fixture(scope='module')
def study():
  path = ROOT / 'launch/studies/memory.py'
  spec = importlib.util.spec_from_file_location('launch_memory', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def read(name, *changes):
  words = [f'--config={ROOT / name}', *(f'--config.{x}' for x in changes)]
  return flags.parse(['train.py', *words]).config


def test_study_measures_the_step_of_a_configuration(study):
  changes = [
    'data.crop=16', 'model.hidden=8', 'model.latent_dim=4', 'model.encoder_blocks=0',
    'model.decoder_blocks=1', 'context.enabled=False', 'quantizer.num_codes=16',
  ]  # fmt: skip
  rows = [
    study.measure(read('configs/vqvae_ba.py', *changes, f'data.batch_size={n}'), 'x')
    for n in (4, 64)
  ]
  assert [row['batch'] for row in rows] == ['4 of 16 x 16', '64 of 16 x 16']
  assert rows[0]['parameters'] == rows[1]['parameters'] > 500
  # parameters and two moments of Adam in float32
  assert rows[0]['arguments_mib'] > 3 * 4 * rows[0]['parameters'] / 2**20
  more = rows[1]['arguments_mib'] - rows[0]['arguments_mib']
  assert more == pytest.approx(60 * 16 * 16 * 3 / 2**20, rel=0.01)
  assert rows[1]['temporaries_mib'] > 8 * rows[0]['temporaries_mib']


def test_study_keeps_its_rows_and_lays_them_out(study, tmp_path, monkeypatch, capsys):
  row = {
    'config': 'c', 'batch': '1 of 2 x 3', 'parameters': 1234, 'arguments_mib': 1.0,
    'outputs_mib': 0.0, 'temporaries_mib': 1999.6, 'total_mib': 2000.6,
  }  # fmt: skip
  monkeypatch.setattr(study, 'measure', lambda config, name: row | {'config': name})
  out, name = tmp_path / 'memory.json', 'configs/vae_bezier.py:codec'
  assert study.main([f'--out={out}', f'--only={name}']) == 0
  found = json.loads(out.read_text())
  assert found['kind'] == 'memory' and found['steps'] == [row | {'config': name}]
  table = sweep_tables.memory([{**found, 'name': 'memory'}])
  assert table in capsys.readouterr().out and 'for one CPU' in table
  assert table.endswith(f'| `{name}` | 1 of 2 x 3 | 1,234 | 1 | 2,000 | 2,001 |\n')


def test_study_of_an_unknown_configuration_is_refused(study, capsys):
  words = ['--only=configs/vae_bezier.py:codecs']
  assert errors.exit_status(lambda: study.main(words)) == 2
  assert "did you mean 'configs/vae_bezier.py:codec'" in capsys.readouterr().err


def test_study_knows_every_configuration_that_its_list_names(study):
  for name in study.CONFIGS:
    family = families.family(read(name).family)
    assert 'task' in family.entries and family.kind != 'baseline'

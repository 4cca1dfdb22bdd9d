"""Networks as safetensors: a run's own come back, others are refused in one line."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import toy_task

from codax import bundle, errors
from codax.errors import CodaxError
from codax.training import checkpoints, loop, networks, plots, writers
from codax.training.networks import Networks

SCRIPT = Path(__file__).parents[2] / 'launch' / 'export.py'


def _train(workdir, **changes):
  cfg = toy_task.config(total_steps=4, checkpoint_every=4, eval_every=4, **changes)
  batches = toy_task.eval_batches()
  return loop.train(toy_task.make(cfg), toy_task.resident(), batches, cfg, workdir)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of 4 steps: its directory, result and exported file."""
  workdir = tmp_path_factory.mktemp('run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(plots, 'curves', lambda *_, **__: None)
    result = _train(workdir)
  path = workdir / 'networks.safetensors'
  assert networks.save(workdir, path) == 4
  return workdir, result, path


def test_file_has_the_averaged_parameters_of_the_newest_checkpoint(run):
  _, result, path = run
  arrays = networks.load(path, 'toy').arrays
  average = jax.device_get(result.state.average)
  expected = bundle.flatten(jax.tree.map(lambda x: x / average.weight, average.total))
  assert set(arrays) == {'encoder', 'decoder/kernel', 'decoder/bias'}
  for name, array in arrays.items():
    np.testing.assert_allclose(array, expected[name], rtol=1e-6)


def test_training_begins_from_the_file_at_step_zero(run, tmp_path, monkeypatch):
  workdir, _, path = run
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)
  result = _train(tmp_path, init_from=str(path), log_every=1)
  rows = [writers.read(x / 'metrics.jsonl') for x in (workdir, tmp_path)]
  scratch, warm = (r[0]['train/loss'] for r in rows)
  assert rows[1][0]['step'] == 1 and warm < scratch
  assert result.step == 4 and checkpoints.steps(tmp_path / 'checkpoints') == [4]
  with pytest.raises(CodaxError, match='init_from'):  # another run than from scratch
    _train(tmp_path, log_every=1)


def test_average_is_taken_where_its_paths_are_ends_of_the_parameters():
  state = {
    'params/vae/analysis/w': np.full(2, 5.0, np.float32),
    'params/prior/mean': np.full(1, 7.0, np.float32),
    'average/total/analysis/w': np.full(2, 1.5, np.float32),
    'average/weight': np.float32(0.5),
    'opt_state/params/x': np.zeros(1),
  }
  arrays = networks.collect(state)
  assert {k: x.tolist() for k, x in arrays.items()} == {
    'analysis/w': [3.0, 3.0], 'prior/mean': [7.0],
  }  # fmt: skip
  assert (
    networks.collect(state | {'average/weight': np.float32(0)})['analysis/w'][0] == 5
  )
  params = {'vae': {'analysis': {'w': np.zeros(2)}}, 'prior': {'mean': np.zeros(1)}}
  back = networks.insert(params, Networks({'analysis/w': arrays['analysis/w']}, 'FILE'))
  assert back['vae']['analysis']['w'].tolist() == [3, 3]
  assert back['prior'] is params['prior'] or back['prior']['mean'][0] == 0


def test_bundle_serves_as_well_and_its_tables_are_passed_over(run, tmp_path):
  _, result, _ = run
  arrays = bundle.flatten(jax.device_get(result.state.params))
  tables = {'prior': np.ones((2, 3), np.int32), 'sigma2': np.float32(1)}
  path = tmp_path / 'b.safetensors'
  bundle.save(bundle.make('toy', {}, arrays | tables, {}), path)
  params = jax.tree.map(np.zeros_like, jax.device_get(result.state.params))
  loaded = networks.load(path, 'toy')
  assert 'prior' not in loaded.arrays
  back = networks.insert(params, loaded)
  np.testing.assert_array_equal(back['encoder'], arrays['encoder'])
  # a part in another form stays as it is
  del loaded.arrays['decoder/bias']
  back = networks.insert(params, loaded)
  assert back['encoder'].any() and not back['decoder']['kernel'].any()


def test_wrong_files_are_one_line(run, tmp_path):
  _, result, path = run
  params = jax.device_get(result.state.params)
  good = networks.load(path).arrays
  with pytest.raises(CodaxError, match='none.safetensors: No such file'):
    networks.load(tmp_path / 'none.safetensors')
  with pytest.raises(CodaxError, match="family 'toy', not 'vae'"):
    networks.load(path, 'vae')
  data = path.read_bytes()
  for name, content in (
    ('cut', data[:-5]), ('empty', b''), ('header', b'\xff' * 8 + data),
    ('text', b'{' * 90),
  ):  # fmt: skip
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CodaxError, match='not a readable safetensors file'):
      networks.load(tmp_path / name)
  foreign = safetensors.numpy.save({'w': np.zeros(2, np.float32)})
  (tmp_path / 'foreign').write_bytes(foreign)
  with pytest.raises(CodaxError, match='not of networks of codax'):
    networks.load(tmp_path / 'foreign')
  for array, text in (
    (np.full(3, np.nan, np.float32), 'encoder is not finite'),
    (np.ones(3, np.int32), 'holds no networks'),
  ):
    content = safetensors.numpy.save({'encoder': array}, {'format': 'codax-networks-1'})
    (tmp_path / 'other').write_bytes(content)
    with pytest.raises(CodaxError, match=text):
      networks.load(tmp_path / 'other')
  for arrays, text in (
    (
      {'encoder': good['encoder'][:, :2]},
      r'encoder is \[192, 2\] there',
    ),
    ({'decoder/bias': good['decoder/bias']}, 'decoder/kernel is not in it'),
    ({'other': np.zeros(2)}, 'none of the parameters of this model'),
  ):
    with pytest.raises(CodaxError, match=text) as error:
      networks.insert(params, Networks(arrays, 'FILE'))
    assert '\n' not in str(error.value)


def test_command_writes_the_file_and_refuses_other_folders(run, tmp_path, capsys):
  workdir, _, path = run
  spec = importlib.util.spec_from_file_location('launch_export', SCRIPT)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  call = lambda *args: errors.exit_status(lambda: script.main(['export.py', *args]))
  out = tmp_path / 'out.safetensors'
  assert call(str(workdir), str(out)) == 0
  expected, found = (networks.load(x).arrays for x in (path, out))
  assert expected.keys() == found.keys()
  assert all((found[k] == expected[k]).all() for k in expected)
  assert 'after 4 steps' in capsys.readouterr().out
  assert call(str(tmp_path), str(tmp_path / 'x')) == 2
  assert 'is not a run directory' in capsys.readouterr().err
  assert not (tmp_path / 'x').exists()

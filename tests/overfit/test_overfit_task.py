"""`launch/train.py` with pictures as the data set: files, sheets, resuming, errors."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import photo

from codax import codec as codecs
from codax import errors
from codax.errors import CodaxError
from codax.overfit import arch as archs
from codax.overfit import defaults, task, train

ROOT = Path(__file__).parents[2]
CONFIGS = ['overfit_mlp', 'overfit_kan', 'overfit_pwl']
QUICK = [
  '--config.total_steps=6', '--config.hard_steps=2', '--config.steps_per_call=2',
  '--config.log_every=2', '--config.eval_every=4', '--config.checkpoint_every=4',
  '--config.data.split=all', '--config.arch.grids=3', '--config.arch.context=6',
  '--config.arch.synthesis=(5,)', '--config.arch.entropy=(6,)',
  '--config.arch.convs=1',
]  # fmt: skip


def launch(*args):
  """`launch/train.py` in this process; returns its exit status."""
  path = ROOT / 'launch' / 'train.py'
  spec = importlib.util.spec_from_file_location('launch_train', path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return errors.exit_status(lambda: script.main(['train.py', *map(str, args)]))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two pictures of one size and one of another."""
  top = tmp_path_factory.mktemp('pictures')
  for i, size in enumerate([(20, 24), (20, 24), (16, 12)]):
    Image.fromarray(photo(*size, seed=i)).save(top / f'p{i}.png')
  return top


def run(folder, workdir, *more, config='overfit_mlp'):
  return launch(
    f'--config={ROOT}/configs/{config}.py', f'--workdir={workdir}',
    '--config.data.name=folder', f'--config.data.path={folder}', *QUICK, *more,
  )  # fmt: skip


@pytest.fixture(scope='module')
def finished(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  assert run(folder, workdir, '--config.lmbdas=(1e-3,1e-2)') == 0
  return workdir


def test_each_picture_and_lambda_has_file_sheet_and_row(finished, folder):
  labels = {f'p{i}.png_{lmbda}' for i in range(3) for lmbda in ('0.001', '0.01')}
  rows = json.loads((finished / 'results.json').read_text())['rows']
  ours = {row['picture']: row for row in rows if row['codec'] == 'overfit'}
  assert set(ours) == labels
  for label in labels:
    data = (finished / 'files' / f'{label}.cdx').read_bytes()
    sheet = json.loads((finished / 'sheets' / f'{label}.json').read_text())
    assert ours[label]['bytes'] == len(data) == sheet['file_bytes']
    assert sheet['lmbda'] == float(label.split('_')[1])
    original = np.asarray(Image.open(folder / label.split('_')[0]))
    assert codecs.decode(data).shape == original.shape
    assert (finished / 'sheets' / f'{label}.md').read_text().startswith(f'# {label}')
  assert {p.name for p in (finished / 'groups').iterdir()} == {'24x20', '12x16'}
  assert (finished / 'groups' / '24x20' / 'loss.png').stat().st_size > 0


def test_the_same_command_says_that_it_is_complete(finished, folder, capsys):
  before = {p: p.stat().st_mtime_ns for p in finished.rglob('*.cdx')}
  assert run(folder, finished, '--config.lmbdas=(1e-3,1e-2)') == 0
  assert 'the run is complete' in capsys.readouterr().out
  assert before == {p: p.stat().st_mtime_ns for p in finished.rglob('*.cdx')}


def test_a_run_out_of_time_goes_on_to_the_same_files(finished, folder, tmp_path):
  lmbdas = '--config.lmbdas=(1e-3,1e-2)'
  assert run(folder, tmp_path / 'r', lmbdas, '--config.max_seconds=0.01') == 0
  assert not (tmp_path / 'r' / 'results.json').exists()
  assert run(folder, tmp_path / 'r', lmbdas) == 0
  for path in finished.rglob('*.cdx'):
    assert path.read_bytes() == (tmp_path / 'r' / 'files' / path.name).read_bytes()


@pytest.mark.parametrize('config', CONFIGS[1:])
def test_other_networks_run_too(config, folder, tmp_path):
  assert run(folder, tmp_path / 'r', '--config.data.limit=1', config=config) == 0
  (path,) = (tmp_path / 'r' / 'files').iterdir()
  assert codecs.decode(path.read_bytes()).shape == (20, 24, 3)


SWITCHES = [
  '--config.refine=False', '--config.candidates=2', '--config.warm_steps=2',
  '--config.recipe.law=kumaraswamy', '--config.recipe.noise=(2.0,1.0)',
  '--config.recipe.clip=all', '--config.start=False', '--config.data.limit=1',
]  # fmt: skip


def test_switches_run_and_resume(folder, tmp_path):
  whole, cut = tmp_path / 'a', tmp_path / 'b'
  assert run(folder, whole, *SWITCHES) == 0
  assert run(folder, cut, *SWITCHES, '--config.max_seconds=0.01') == 0
  assert run(folder, cut, *SWITCHES) == 0
  (path,) = (whole / 'files').iterdir()
  assert path.read_bytes() == (cut / 'files' / path.name).read_bytes()


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ('--config.lmbdas=(0.0,)', 'config.lmbdas'),
    ('--config.hard_steps=99', 'config.hard_steps is 99'),
    ('--config.data.crop=-1', 'config.data.crop'),
    ('--config.arch.grids=9', 'grids is 9; valid: 1 to 8'),
    ('--config.recipe.clip_norm=-1.0', 'config.recipe.clip_norm'),
    ('--config.recipe.law=kumaraswami', "did you mean 'kumaraswamy'"),
    ('--config.recipe.law=kumaraswamy', 'must be 1 or more'),
    ('--config.recipe.clip=non', "did you mean 'none'"),
    ('--config.candidates=0', 'candidates is 0'),
    ('--config.data.name=phots', "did you mean 'photos'"),
  ],
)
def test_bad_settings_are_one_line(change, text, folder, tmp_path, capsys):
  assert run(folder, tmp_path / 'r', change) == 2
  error = capsys.readouterr().err.strip().splitlines()
  assert len([line for line in error if line.startswith('error: ')]) == 1
  assert text in error[-1]


@pytest.mark.parametrize('key', ['arch', 'recipe', 'data'])
def test_unknown_keys_are_named(key):
  config = defaults.get('', archs.Arch())
  config.unlock()
  config[key]['nonsense'] = 1
  read = {'arch': task.arch_of, 'recipe': task.recipe_of}.get(key)
  with pytest.raises(CodaxError, match=f'{key}.nonsense'):
    read(config) if read else task.pictures(config.data)


def test_defaults_are_the_recipe_and_the_presets_of_the_command():
  from codax.overfit import encode

  for preset, length in encode.LENGTHS.items():
    config = defaults.get(preset, archs.Arch())
    assert task.length_of(config) == length
    assert task.recipe_of(config) == train.Recipe()
    assert task.arch_of(config) == archs.PROFILES[1]


def test_the_middle_is_cut_out():
  source = task.pictures({**defaults.DATA, 'crop': 32, 'limit': 1})
  (name, image) = source[0]
  assert image.shape == (32, 32, 3)
  whole = dict(task.pictures({**defaults.DATA, 'limit': 1}))[name]
  top, left = ((n - 32) // 2 for n in whole.shape[:2])
  np.testing.assert_array_equal(image, whole[top : top + 32, left : left + 32])

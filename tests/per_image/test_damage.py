"""Every kept file of a run over images, damaged in turn: named, made again, refused."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from damages import DAMAGES, choose_files, damage, is_one_line

from codax.errors import CodaxError
from codax.per_image import result, run
from codax.training import checkpoints

# the toy family of the tests beside these
_spec = importlib.util.spec_from_file_location(
  'toy_of_test_run', Path(__file__).with_name('test_run.py')
)
_toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_toys)
CONFIG, Toy = _toys.CONFIG, _toys.Toy

# of each kind of file one, and whether an unfinished run looks at it
KEPT = {
  'config.json': True,
  'images.json': True,
  'metrics.csv': False,
  'files/b_1.json': True,
  'files/b_1.cdx': True,
  'files/a_1.missed.json': True,
  'buckets/5x4/fits.safetensors': True,
  'buckets/5x4/metrics.jsonl': False,
  'buckets/5x4/timing.jsonl': False,
}
# A digit in it can be told from another one by nothing.
UNSEALED = {'metrics.csv', 'buckets/5x4/metrics.jsonl', 'buckets/5x4/timing.jsonl'}


def make_toy():
  return Toy(missed=('a_1',))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A complete run, with a target that is out of reach."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  run.run(make_toy().task, CONFIG, workdir)
  timing = workdir / 'buckets/5x4/timing.jsonl'
  timing.write_text('{"step": 2, "images_per_s": 3.0}\n')
  return workdir


@pytest.fixture
def copy(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'run')


def go_on(workdir):
  """Runs the same command again; returns the error's text, None without one."""
  try:
    run.run(make_toy().task, CONFIG, workdir)
  except (CodaxError, OSError) as e:
    assert is_one_line(e)
    return f'{getattr(e, "filename", None) or ""} {e}'
  return None


@pytest.mark.parametrize('how', DAMAGES)
@pytest.mark.parametrize('name', KEPT)
def test_damaged_file_of_an_unfinished_run_is_named(copy, caplog, name, how):
  path = copy / name
  good = damage(path, how)
  if (name, how) == ('config.json', 'digit'):  # another digit is one that may change
    path.write_bytes(good.replace(b'"seed": 0', b'"seed": 1'))
  (copy / 'files/c_2.json').unlink()
  if name == 'buckets/5x4/fits.safetensors':  # read for the files of its bucket only
    (copy / 'files/b_2.json').unlink()
  error = go_on(copy)
  is_looked_at = KEPT[name] or how == 'folder' and name == 'metrics.csv'
  told = caplog.text + (error or '')
  if is_looked_at:
    assert str(copy) in told and (path.name in told or 'holds a run' in told)
  # made again, or refused with nothing changed, or in nobody's way
  if error is None and path.is_file() and name not in UNSEALED:
    assert path.read_bytes() == good or name.endswith(('.json', '.safetensors'))
  assert error is None or how == 'folder' or name in ('config.json', 'images.json')
  if error is None and name not in UNSEALED and how != 'folder':
    caplog.clear()
    assert go_on(copy) is None and 'damaged' not in caplog.text


@pytest.mark.parametrize('how', DAMAGES)
@pytest.mark.parametrize('name', [x for x in KEPT if x.startswith('files')])
def test_damaged_file_of_a_complete_run_is_found(copy, caplog, name, how):
  assert not result.has_damage(copy, 5) and not caplog.text
  damage(copy / name, how)
  assert result.has_damage(copy, 5)
  assert f'{copy}/files/' in caplog.text and (copy / name).name in caplog.text


def test_table_and_files_that_are_gone_are_found(copy, caplog):
  table = copy / 'metrics.csv'
  for how in ('empty', 'cut', 'other bytes', 'folder'):
    good = damage(table, how)
    assert result.has_damage(copy, 5)
    assert f'{table} is damaged' in caplog.text
    caplog.clear()
    table.rmdir() if how == 'folder' else table.unlink()
    table.write_bytes(good)
  for path in (copy / 'files').glob('b_1.*'):
    path.unlink()
  assert result.has_damage(copy, 5) and '1 of the 5 files' in caplog.text


@pytest.mark.parametrize('how', DAMAGES)
def test_damaged_checkpoint_of_a_fit_is_named_and_not_used(tmp_path, caplog, how):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  run.run(make_toy().task, CONFIG, whole)
  toy = Toy(stop_at=3, missed=('a_1',))
  run.run(toy.task, CONFIG, cut)
  folder = next(cut.glob('buckets/*/checkpoints/3'))
  chosen = choose_files(folder, checkpoints.MANIFEST)
  for name in (path.relative_to(folder) for path in chosen):
    again = shutil.copytree(cut, tmp_path / 'again' / name)
    path = next(again.glob('buckets/*/checkpoints/3')) / name
    damage(path, how)
    caplog.clear()
    assert go_on(again) is None
    assert 'checkpoints/3' in caplog.text
    for file in (whole / 'files').glob('*.cdx'):
      assert (again / 'files' / file.name).read_bytes() == file.read_bytes()

"""Every kept file of a trained model's run, damaged in turn: named and not used."""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
from damages import DAMAGES, choose_files, damage

from codax import bundle
from codax.training import checkpoints, plots

_spec = importlib.util.spec_from_file_location(
  'fixtures_of_test_train', Path(__file__).with_name('test_train.py')
)
_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tests)
TOY, train = _tests.TOY, _tests.train

FILES = (
  'config.json', 'data.json', 'results.json', 'metrics.jsonl', 'timing.jsonl',
  'bundle.safetensors', 'files/NAME.cdx',
)  # fmt: skip
LOGS = ('metrics.jsonl', 'timing.jsonl')
# A digit in a log can be told from another one by nothing; a short run has no times.
UNSEEN = {(LOGS[0], 'digit'), (LOGS[1], 'digit'), (LOGS[1], 'empty')}
# JSON cut or of other bytes is read by one function, which has tests of its own
HOW = [how for how in DAMAGES if how != 'other bytes']
COMPLETE = [
  (name, how)
  for name in FILES
  for how in HOW
  if (name, how) not in UNSEEN and (how != 'cut' or not name.endswith('.json'))
]


@pytest.fixture
def no_curves(monkeypatch):
  """Draws no curves, which take a third of a run."""
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


def warnings_and_error(caplog, capfd):
  """Returns all that a run has said, and its line of error."""
  found = capfd.readouterr().err
  lines = [line for line in found.splitlines() if line.startswith('error: ')]
  assert len(lines) <= 1 and 'Traceback' not in found
  return caplog.text + ''.join(lines), ''.join(lines)


def test_damaged_file_of_a_complete_run_is_named(
  train, tmp_path, no_curves, caplog, capfd
):
  """In one test: the run is made once."""
  assert train(TOY, '--workdir=whole') == 0
  whole, work = tmp_path / 'whole', tmp_path / 'work'
  made = next((whole / 'files').glob('*.cdx')).name
  refused = []
  for name, how in COMPLETE:
    name = name.replace('NAME.cdx', made)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work)
    good = damage(work / name, how)
    if (name, how) == ('config.json', 'digit'):  # not one that may change
      (work / name).write_bytes(re.sub(rb'"seed": \d+', b'"seed": 77', good))
    capfd.readouterr()
    caplog.clear()
    status = train(TOY, '--workdir=work')
    told, error = warnings_and_error(caplog, capfd)
    assert Path(name).name in told or 'holds a run' in error, (name, how, told)
    assert status == (2 if error else 0)
    if error:
      refused.append((name, how))
    elif name not in LOGS:
      again = (work / name).read_bytes()
      if name == bundle.FILE_NAME:  # its metadata may be in another order
        assert bundle.load(work).id == bundle.load(whole).id
      else:
        assert again == good or name == 'results.json', (name, how)
      caplog.clear()
      assert train(TOY, '--workdir=work') == 0
      assert 'damaged' not in caplog.text
  assert {name for name, how in refused if how != 'folder'} == {
    'config.json', 'data.json'
  }  # fmt: skip


def test_damaged_checkpoint_with_all_its_files_is_named(
  train, tmp_path, no_curves, caplog, capfd
):
  assert train(TOY, '--workdir=whole') == 0
  model = bundle.load(tmp_path / 'whole').id
  shutil.rmtree(tmp_path / 'whole' / 'images')
  for name in ('results.json', 'bundle.safetensors'):
    (tmp_path / 'whole' / name).unlink()
  folder = tmp_path / 'whole' / 'checkpoints' / '6'
  for path in choose_files(folder, checkpoints.MANIFEST, '_METADATA'):
    how = 'digit' if path.name == '_METADATA' else 'folder'
    shutil.rmtree(tmp_path / 'work', ignore_errors=True)
    work = shutil.copytree(tmp_path / 'whole', tmp_path / 'work')
    damage(work / path.relative_to(tmp_path / 'whole'), how)
    caplog.clear()
    assert train(TOY, '--workdir=work') == 0
    assert 'checkpoints/6' in caplog.text
    assert bundle.load(work).id == model


def test_work_directory_of_another_family_is_refused(train, tmp_path, capfd):
  """Its configuration, its results and its images stay."""
  assert train(TOY, '--workdir=work', '--config.max_seconds=1e-6') == 0
  before = (tmp_path / 'work/config.json').read_bytes()
  shutil.rmtree(tmp_path / 'work/checkpoints')
  (tmp_path / 'work/buckets/x').mkdir(parents=True)
  (tmp_path / 'work/buckets/x/fits.safetensors').write_bytes(b'')
  assert train(TOY, '--workdir=work', '--config.seed=5') == 2
  assert 'holds a run of another configuration: seed' in capfd.readouterr().err
  assert (tmp_path / 'work/config.json').read_bytes() == before
  shutil.rmtree(tmp_path / 'work/buckets')  # nothing is left that took work
  assert train(TOY, '--workdir=work', '--config.seed=5') == 0


@pytest.mark.parametrize(
  'workdir, text',
  [
    ('photographs', 'is in the folder of images'),
    ('photographs/run', 'is in the folder of images'),
    ('link/run', 'is in the folder of images'),
    ('.', 'is in a folder to which the run'),
  ],
)
def test_work_directory_that_would_mix_with_its_images_is_refused(
  train, tmp_path, capfd, workdir, text
):
  images = tmp_path / 'photographs'
  (tmp_path / 'link').symlink_to('photographs')
  path = images
  if workdir == '.':  # a run writes its own images to 'images'
    path = images.rename(tmp_path / 'images')
  before = {p.name: p.read_bytes() for p in path.iterdir()}
  assert train(TOY, f'--workdir={workdir}', f'--config.data.path={path}') == 2
  assert text in capfd.readouterr().err
  after = {p.name: p.read_bytes() for p in path.rglob('*') if p.is_file()}
  assert after == before


@pytest.mark.parametrize(
  'workdir, text',
  [
    ('gs://bucket/run', 'a work directory is a folder, not an address'),
    (os.fsdecode(b'w\xff/run'), 'is no UTF-8, which checkpoints need'),
  ],
)
def test_work_directory_that_cannot_be_one_is_refused_and_not_made(
  train, tmp_path, capfd, workdir, text
):
  assert train(TOY, f'--workdir={workdir}') == 2
  assert text in capfd.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['photographs']


@pytest.mark.parametrize('name', ['a b', 'x%41#?&', 'w\nx', '[1]*', 'a:b', 'ü'])
def test_work_directory_of_an_odd_name_is_one(train, no_curves, name):
  assert train(TOY, f'--workdir={name}') == 0
  assert train(TOY, f'--workdir={name}') == 0


def test_complete_run_tells_other_images_from_moved_ones(
  train, tmp_path, no_curves, capfd
):
  images = tmp_path / 'photographs'
  assert train(TOY, '--workdir=work') == 0
  moved = f'--config.data.path={shutil.copytree(images, tmp_path / "moved")}'
  assert train(TOY, '--workdir=work', moved) == 0
  assert 'the run is complete' in capfd.readouterr().out
  shutil.copy(images / 'p0.png', images / 'new.png')
  assert train(TOY, '--workdir=work') == 2
  assert 'holds a run on other data: the number' in capfd.readouterr().err
  shutil.rmtree(images)  # a run outlives its images
  assert train(TOY, '--workdir=work') == 0
  assert 'the run is complete' in capfd.readouterr().out


def test_unfinished_run_goes_on_with_moved_images_and_not_with_others(
  train, tmp_path, no_curves, capfd
):
  images = tmp_path / 'photographs'
  assert train(TOY, '--workdir=work', '--config.max_seconds=1e-6') == 0
  other = shutil.copytree(images, tmp_path / 'other')
  name = sorted(other.iterdir())[3].name
  (other / name).write_bytes((other / sorted(other.iterdir())[4].name).read_bytes())
  assert train(TOY, '--workdir=work', f'--config.data.path={other}') == 2
  assert 'holds a run on other data' in capfd.readouterr().err
  images.rename(tmp_path / 'moved')
  assert train(TOY, '--workdir=work', f'--config.data.path={tmp_path / "moved"}') == 0

"""`launch/train.py` from the command line to the table, with a toy family."""

import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codax import bundle, errors, families
from codax.data import sources
from codax.data.checks import BadImage
from codax.reports import figures
from codax.training import flags, passed_over, stopping

HERE = Path(__file__).parent
CONFIG = HERE / 'toy_config.py'
TOY = f'--config={CONFIG}'
SCRIPT = HERE.parents[1] / 'launch' / 'train.py'


@pytest.fixture
def train(tmp_path, monkeypatch):
  """Runs the command in this process; returns its exit status."""
  folder = tmp_path / 'photographs'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(8):
    smooth = np.clip(rng.normal(128, 30, (2, 3, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(smooth).resize((24, 17)).save(folder / f'p{i}.png')
  monkeypatch.setenv('TOY_IMAGES', str(folder))
  entry = families.Family('toy', 'toy_family', 'bundle', 199, ('codec', 'task'))
  monkeypatch.setitem(families.FAMILIES, 'toy', entry)
  monkeypatch.setattr(figures, 'write', lambda *_: [])  # they take longer than the run
  monkeypatch.chdir(tmp_path)
  spec = importlib.util.spec_from_file_location('launch_train', SCRIPT)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return lambda *args: errors.exit_status(lambda: script.main(['train.py', *args]))


def test_run_leaves_its_results_and_is_not_run_again(train, tmp_path, capsys):
  assert train(TOY) == 0
  table = capsys.readouterr().out
  workdir = tmp_path / 'runs' / 'toy_config'
  results = json.loads((workdir / 'results.json').read_text())
  rows = results['rows']
  assert [row['codec'] for row in rows] == ['toy', 'jpeg', 'webp'] * 2
  assert results['command'] == f'python launch/train.py --config={CONFIG}'
  assert results['seed'] == 3 and 'jax' in results['versions']
  model = bundle.load(workdir)
  assert model.family == 'toy' and model.metrics['loss'] == results['metrics']['loss']
  for row in rows[::3]:
    path = workdir / 'files' / f'{row["image"]}.cdx'
    assert row['bytes'] == path.stat().st_size
    assert row['bpp'] == 8 * row['bytes'] / (24 * 17)
    decoded = families.codec_for(path.read_bytes(), model=workdir).decode(
      path.read_bytes()
    )
    with Image.open(tmp_path / 'photographs' / row['image']) as original:
      error = np.asarray(original).astype(float) - decoded
    assert row['psnr'] == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)))
    with Image.open(workdir / 'images' / f'{row["image"]}.png') as strip:
      assert strip.size == (4 * 24, 17)
    assert f'| {row["image"]} ' in table and f' {row["psnr"]:.2f} |' in table

  before = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  assert train(TOY) == 0
  again = capsys.readouterr().out
  assert 'the run is complete' in again
  assert [line for line in again.splitlines() if line[:1] == '|'] == [
    line for line in table.splitlines() if line[:1] == '|'
  ]
  assert before == {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}

  damaged = bytearray((workdir / bundle.FILE_NAME).read_bytes())
  damaged[-1] ^= 1
  (workdir / bundle.FILE_NAME).write_bytes(damaged)
  assert train(TOY) == 0
  assert bundle.load(workdir).id == model.id


def test_run_out_of_budget_goes_on_to_its_end(train, tmp_path, capsys):
  out = tmp_path / 'out'
  run = (f'--config={CONFIG}:more', f'--workdir={out}')
  assert train(*run, '--config.max_seconds=1e-6') == 0
  assert 'stopped at step 1 of 10 (max_seconds)' in capsys.readouterr().out
  assert not (out / bundle.FILE_NAME).exists()
  assert train(*run) == 0
  assert (out / 'results.json').exists()
  assert train(*run, '--config.seed=4') == 2
  assert 'seed (3 there, 4 here)' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_stopped_by_a_signal_has_its_status(
  train, tmp_path, monkeypatch, capsys, number
):
  real = stopping.watch

  @contextlib.contextmanager
  def signalled(seconds):
    with real(seconds) as reason:
      signal.raise_signal(number)
      yield reason

  monkeypatch.setattr(stopping, 'watch', signalled)
  assert train(TOY) == 128 + number
  assert 'stopped at step 1 of 6 (signal)' in capsys.readouterr().out
  assert not (tmp_path / 'runs' / 'toy_config' / bundle.FILE_NAME).exists()


def test_classifier_without_a_codec_trains_and_reports_metrics(
  train, tmp_path, monkeypatch, capsys
):
  """A family of kind 'model': the same command, no bundle and no files."""
  entry = families.Family('toy_classifier', 'toy_classifier', 'model', None, ('task',))
  monkeypatch.setitem(families.FAMILIES, 'toy_classifier', entry)
  for i in range(8):
    level = np.full((17, 24, 3), 60 if i % 2 else 190, np.uint8)
    Image.fromarray(level).save(tmp_path / 'photographs' / f'p{i}.png')
  command = f'--config={HERE / "toy_classifier_config.py"}'
  assert train(command) == 0
  workdir = tmp_path / 'runs' / 'toy_classifier_config'
  results = json.loads((workdir / 'results.json').read_text())
  assert results['rows'] == [] and results['metrics']['accuracy'] == 1.0
  assert '| accuracy | 1 |' in capsys.readouterr().out
  assert not (workdir / bundle.FILE_NAME).exists() and not (workdir / 'files').exists()
  assert train(command) == 0
  assert '| accuracy | 1 |' in capsys.readouterr().out
  with pytest.raises(errors.CodaxError, match="unknown codec 'toy_classifier'"):
    families.get('toy_classifier')


SKIP = '--config.data.skip_bad=True'


def damage(path):
  """Destroys the content of an image; its header and size stay."""
  data = path.read_bytes()
  path.write_bytes(data[:60] + bytes(len(data) - 60))


def test_bad_images_refuse_the_run_or_are_named_in_its_results(
  train, tmp_path, capfd, caplog
):
  photographs = tmp_path / 'photographs'
  (photographs / 'text.png').write_text('no image')
  Image.new('RGBA', (24, 17), (1, 2, 3, 100)).save(photographs / 'clear.png')
  damage(photographs / 'p3.png')
  bad = {'text.png', 'clear.png', 'p3.png'}
  assert train(TOY) == 2
  error = capfd.readouterr().err.splitlines()[-1]
  assert error.startswith('error: ') and error.endswith(
    f'({SKIP} passes over bad images)'
  )
  workdir = tmp_path / 'runs' / 'toy_config'
  assert not (workdir / 'checkpoints').exists()
  assert train(TOY, SKIP) == 0
  out = capfd.readouterr().out
  results = json.loads((workdir / 'results.json').read_text())
  assert {one['image'] for one in results['passed_over']} == bad
  for name in bad:
    assert f'{name}: ' in next(x for x in out.splitlines() if name in x)
    assert 'passed over: ' in next(x for x in caplog.messages if name in x)
  assert not bad & {row['image'] for row in results['rows']}


def test_image_that_turns_out_bad_while_training_ends_it_or_is_passed_over(
  train, tmp_path, capfd
):
  """The same command, with the option, goes on; the result names the image."""
  photographs, host = tmp_path / 'photographs', '--config.data.max_resident_mb=0'
  workdir = tmp_path / 'runs' / 'toy_config'
  names = sources.folder('train', path=str(photographs), test_fraction=0.3).names
  damage(photographs / names[1])
  assert train(TOY, host) == 2
  error = capfd.readouterr().err.splitlines()[-1]
  assert names[1] in error and f'{SKIP} passes over' in error and 'goes on' in error
  assert not (workdir / 'results.json').exists()
  assert train(TOY, host, SKIP, '--config.max_seconds=1e-6') == 0
  assert 'stopped at step 1 of 6' in capfd.readouterr().out
  assert train(TOY, host, SKIP) == 0
  results = json.loads((workdir / 'results.json').read_text())
  assert [one['image'] for one in results['passed_over']] == [names[1]]
  steps = [x for x in (workdir / 'metrics.jsonl').read_text().splitlines() if x]
  assert json.loads(steps[-1])['step'] == 6


def test_register_of_images_passed_over_goes_on_with_its_run(tmp_path):
  first = passed_over.Register(tmp_path, is_resumed=False)
  for name in ('a', 'b', 'a'):
    first.add(BadImage(name, f'{name}: cut'))
  assert [one.image for one in first.images] == ['a', 'b']
  second = passed_over.Register(tmp_path, is_resumed=True)
  second.add(BadImage('c', 'c: cut'))
  assert second.images == [*first.images, BadImage('c', 'c: cut')]
  assert passed_over.Register(tmp_path, is_resumed=False).images == []
  (tmp_path / passed_over.FILE_NAME).write_text('{')
  assert passed_over.Register(tmp_path, is_resumed=True).images == []


def test_default_workdir_names_the_argument(monkeypatch):
  monkeypatch.setenv('TOY_IMAGES', '')
  assert flags.parse(['t', f'--config={CONFIG}:more']).workdir == Path(
    'runs/toy_config_more'
  )
  args = flags.parse(['t', TOY])
  assert args.config.total_steps == 6 and not args.distributed


@pytest.mark.parametrize(
  ('args', 'text'),
  [
    ((), '--config=FILE is missing'),
    (('--config=nowhere/x.py',), 'no such configuration file: nowhere/x.py'),
    ((f'--config={CONFIG}y',), f"did you mean '{CONFIG}'"),
    ((f'--config={CONFIG}:les',), "unknown argument of this configuration 'les'"),
    ((TOY, '--config.total_step=1'), "did you mean 'total_steps'"),
    ((TOY, '--config.optimizer.nme=x'), "did you mean 'optimizer.name'"),
    ((TOY, '--config.foo.bar=1'), "unknown config key 'foo.bar'"),
    ((TOY, '--config.seed.x=1'), "unknown config key 'seed.x'"),
    ((TOY, '--config.total_steps=many'), 'config.total_steps=many'),
    ((TOY, '--config.total_steps'), 'config.total_steps'),
    ((TOY, '--wrkdir=x'), 'Did you mean: workdir'),
    (('--config.seed=1', TOY), '--config.seed=1'),
    ((TOY, 'extra'), "unexpected argument 'extra'"),
    ((TOY, '--config.family=vqvea'), "did you mean 'vqvae'"),
    ((TOY, '--config.data.name=foldr'), "did you mean 'folder'"),
    ((TOY, '--config.optimizer.name=adan'), "unknown optimiser 'adan'"),
    ((TOY, '--config.total_steps=-1'), 'config.total_steps is -1; valid: 1 to'),
    ((TOY, '--config.data.path=nowhere'), 'nowhere: no such directory'),
    ((TOY, f'--workdir={CONFIG}/x'), 'toy_config.py/x: Not a directory'),
    ((TOY, '--config.nan_at=2'), 'non-finite loss in step 3'),
  ],
)
def test_bad_input_is_one_line_and_status_2(train, args, text, capfd):
  assert train(*args) == 2
  lines = [x for x in capfd.readouterr().err.splitlines() if not re.match('[IW]', x)]
  errors_ = [x for x in lines if x.startswith('error: ')]
  assert len(errors_) == 1 and text in errors_[0]
  assert 'Traceback' not in '\n'.join(lines)


def test_help_is_status_0(train, capsys):
  assert train('--help') == 0
  assert '--config=FILE[:ARG]' in capsys.readouterr().out


def test_program_with_bad_input_is_status_2():
  run = [sys.executable, str(SCRIPT), TOY, '--config.sed=1']
  path = [str(HERE), str(HERE.parents[1] / 'codecs')]
  done = subprocess.run(
    run, capture_output=True, text=True, check=False, env={'PYTHONPATH': ':'.join(path)}
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: unknown config key 'sed'; did you mean 'seed'?")
  assert done.stderr.count('\n') == 1


def test_tilde_of_the_work_directory_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert flags.parse(['train.py', TOY, '--workdir=~/x']).workdir == tmp_path / 'x'


def test_second_process_in_a_work_directory_is_told_who_owns_it(train, tmp_path, capfd):
  """A lock of a process that lives is respected, one of a dead process is not."""
  workdir = tmp_path / 'shared'
  code = (
    'import sys, time\nfrom codax import files\n'
    'with files.lock(sys.argv[1]):\n  print("locked", flush=True)\n  time.sleep(60)\n'
  )
  owner = subprocess.Popen(
    [sys.executable, '-c', code, str(workdir)], stdout=subprocess.PIPE, text=True
  )
  try:
    assert owner.stdout.readline() == 'locked\n'
    assert train(TOY, f'--workdir={workdir}') == 2
    assert f'is in use by process {owner.pid}' in capfd.readouterr().err
  finally:
    owner.kill()
    owner.wait()
  assert train(TOY, f'--workdir={workdir}') == 0

"""launch/sweep.py: what is run, what is not run again, and what the JSON says."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from codax import errors, provenance, sweeps
from codax.reports import store
from codax.training import flags

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'launch' / 'sweep.py'
GRIDS = sorted((ROOT / 'configs' / 'grids').glob('*.py'))

# Stand-ins for launch/train.py and launch/evaluate.py: they note that they were called
# and write what those write, with numbers that tell the arguments.
TRAIN = """
import json, os, sys, time
flags = dict(a[2:].split('=', 1) for a in sys.argv[1:])
work = flags['workdir']
with open(os.environ['CALLS'], 'a') as f:
  f.write(f"train {os.path.basename(work)} {flags.get('config.quantizer.balance')}\\n")
if flags.get('config.quantizer.balance') == '9':
  print('error: quantizer.balance = 9 is not in [0, 1]')
  sys.exit(2)
if os.environ.get('SLOW'):
  try:
    import signal
    end = lambda *_: os.environ['SLOW'] == 'deaf' or sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    print('training', flush=True)
    with open(os.environ['CALLS'] + '.part', 'w') as f:
      f.write(str(os.getpid()))
    os.rename(os.environ['CALLS'] + '.part', os.environ['CALLS'] + '.ready')
    time.sleep(600)
  finally:
    open(os.environ['CALLS'] + '.saved', 'w').close()
seed = int(flags['config.seed'])
rows = [{'codec': c, 'image': 'p', 'bytes': 9, 'bpp': .5, 'psnr': 30., 'ssim': .9}
        for c in ('vqvae', 'jpeg')]
source = {'commit': 'c' * 40, 'versions': {'jax': '1'}, 'hardware': {'cores': 1}}
with open(work + '/results.json', 'w') as f:
  json.dump({'kind': 'held_out', 'schema': 1, **source, 'rows': rows,
             'metrics': {'psnr': 20. + seed}}, f)
"""
EVALUATE = """
import json, os, sys
flags = dict(a[2:].split('=', 1) for a in sys.argv[1:] if '=' in a)
with open(os.environ['CALLS'], 'a') as f:
  f.write(f"evaluate {os.path.basename(flags['codecs'])} {flags['preset']}\\n")
rows = []
for text in flags['lmbdas'].split(','):
  rows.append({'image': 'p', 'point': f'lmbda {float(text):g}', 'bytes': 9,
    'bpp': 1 - float(text), 'psnr': 30 - float(text), 'ssim': .9,
    'decoded_as_encoded': True})
os.makedirs(flags['out'], exist_ok=True)
with open(flags['out'] + '/results.json', 'w') as f:
  json.dump({'kind': 'comparison', 'schema': 1, 'rows': rows, 'means': rows}, f)
"""
# launch/sweep.py as a program, but for the script that trains.
MAIN = """
import importlib.util, pathlib, sys
from codax import errors
spec = importlib.util.spec_from_file_location('sweep', sys.argv[1])
sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sweep)
sweep.TRAIN = pathlib.Path(sys.argv[2])
sys.exit(errors.exit_status(lambda: sweep.main(['--grid=g.py'])))
"""
GRID = """
from codax.sweeps import Grid, Setting
def get_grid():
  return Grid([Setting('a', 'configs/vqvae_ema.py'),
               Setting('b', 'configs/vqvae_ba.py', {'quantizer.balance': BALANCE})],
              seeds=(0, 1), lmbdas=(1e-6, 0.1), nominal=0.1, searched=('a',))
"""


def load(path, name='sweep'):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def bench(tmp_path, monkeypatch):
  """(run the sweep, list the calls of the stand-ins, write the grid)."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  (tmp_path / 'train.py').write_text(TRAIN)
  (tmp_path / 'evaluate.py').write_text(EVALUATE)
  sweep = load(SCRIPT)
  monkeypatch.setattr(sweep, 'TRAIN', tmp_path / 'train.py')
  monkeypatch.setattr(sweep, 'EVALUATE', tmp_path / 'evaluate.py')
  monkeypatch.setattr(sweep.progress, '_WARM_UP', 0.0)

  def grid(balance=0.5):
    (tmp_path / 'g.py').write_text(GRID.replace('BALANCE', str(balance)))

  def calls():
    path = tmp_path / 'calls'
    found = path.read_text().split('\n')[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return found

  grid()
  run = lambda *args: errors.exit_status(lambda: sweep.main(['--grid=g.py', *args]))
  return run, calls, grid


def test_bad_images_of_any_setting_are_found_before_the_first_run(
  bench, tmp_path, capsys
):
  run, calls, _ = bench
  folder = tmp_path / 'images'
  folder.mkdir()
  for i in range(4):
    Image.new('RGB', (9, 9), (i, 0, 0)).save(folder / f'{i}.png')
  for name in ('x', 'y'):
    (folder / f'{name}.png').write_text('no image')
  data = {'data.name': 'folder', 'data.path': str(folder)}

  def write(changes, config='configs/vqvae_ema.py'):
    (tmp_path / 'g.py').write_text(
      'from codax.sweeps import Grid, Setting\n'
      'def get_grid():\n'
      "  return Grid([Setting('a', 'configs/vqvae_ema.py'),"
      f' Setting("b", {config!r}, {changes!r})], seeds=(0, 1))'
    )

  splits = {**data, 'data.split': 'all'}
  for changes, config in (
    (data, 'configs/vqvae_ba.py'),
    (splits, 'configs/splat.py'),
    (splits, 'configs/overfit_mlp.py'),
  ):
    write(changes, config)
    assert run() == 2
    err = capsys.readouterr().err
    assert err.startswith('error: 2 images cannot be used: ') and err.count('\n') == 1
    assert err.count('x.png') == err.count('y.png') == 1 and calls() == []
  write({'data.pth': 'x'})
  assert run() == 2 and "did you mean 'data.path'" in capsys.readouterr().err
  assert calls() == []
  write({**data, 'data.skip_bad': True})
  assert run() == 0 and len(calls()) == 4


def test_sweep_runs_every_setting_with_every_seed_once(bench, tmp_path, capsys):
  run, calls, _ = bench
  assert run() == 0
  first = ['train a_0 None', 'evaluate a_0 fast', 'train b_0 0.5', 'evaluate b_0 fast']
  assert calls() == first + [x.replace('_0', '_1') for x in first]
  out = tmp_path / 'runs' / 'sweep_g'
  content = json.loads((out / 'sweep.json').read_text())
  assert content['command'] == 'python launch/sweep.py --grid=g.py'
  assert (content['kind'], content['schema']) == ('sweep', store.SCHEMA)
  assert content['commit'] == 'c' * 40 and content['seeds'] == [0, 1]
  assert content['hardware'] == {'cores': 1} and content['searched'] == ['a']
  found = [(r['setting'], r['seed'], r['metrics']['psnr']) for r in content['runs']]
  assert found == [('a', 0, 20.0), ('b', 0, 20.0), ('a', 1, 21.0), ('b', 1, 21.0)]
  row = content['runs'][1]
  assert row['overrides'] == {'quantizer.balance': 0.5} and 'commit' not in row
  assert [f['codec'] for f in row['files']] == ['vqvae']
  assert [(p['lmbda'], p['bpp']) for p in row['curve']] == [
    (1e-6, 1 - 1e-6),
    (0.1, 0.9),
  ]
  assert row['curve'][0]['images']['p']['bytes'] == 9
  printed = capsys.readouterr()
  assert 'b, seed 1: psnr 21' in printed.out
  assert 'estimate: about ' in printed.err and ' for 4 runs' in printed.err


def test_sweep_interrupted_goes_on_where_it_was(bench, tmp_path, capsys):
  run, calls, grid = bench
  grid(9)
  assert run() == 2
  error = capsys.readouterr().err.strip().split('\n')[-1]
  assert 'balance = 9 is not in' in error and 'log.txt' in error
  assert calls() == ['train a_0 None', 'evaluate a_0 fast', 'train b_0 9']
  grid(0.25)
  assert run() == 0
  assert calls()[:2] == ['train b_0 0.25', 'evaluate b_0 fast']
  before = (tmp_path / 'runs' / 'sweep_g' / 'sweep.json').read_bytes()
  assert run() == 0 and calls() == []  # nothing is left to do
  assert (tmp_path / 'runs' / 'sweep_g' / 'sweep.json').read_bytes() == before
  (tmp_path / 'runs' / 'sweep_g' / 'a_1' / 'row.json').write_text('{"torn')
  assert run() == 0 and calls() == ['train a_1 None', 'evaluate a_1 fast']


def test_folder_of_another_sweep_is_refused_before_any_work(bench, capsys):
  run, calls, grid = bench
  assert run() == 0 and calls()
  grid(0.75)
  assert run() == 2 and calls() == []
  error = capsys.readouterr().err.strip()
  assert 'b_0 holds a run with overrides' in error and '--out' in error
  assert run('--out=other') == 0 and len(calls()) == 8


def start_slow_sweep(tmp_path, slow):
  """Starts a sweep as a program, and waits for its first run."""
  (tmp_path / 'main.py').write_text(MAIN)
  main = [sys.executable, tmp_path / 'main.py', SCRIPT, tmp_path / 'train.py']
  env = {**os.environ, 'SLOW': slow}
  child = subprocess.Popen(main, env=env, stderr=subprocess.PIPE, text=True)
  ready = tmp_path / 'calls.ready'
  deadline = time.monotonic() + 120
  while not ready.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  return child, int(ready.read_text())


def is_alive(process):
  """Tells whether a process that is no child of ours runs."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  return True


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_sweep_passes_a_signal_to_the_run_which_saves(bench, tmp_path, number):
  child, run = start_slow_sweep(tmp_path, '1')
  child.send_signal(number)
  err = child.communicate(timeout=60)[1]
  assert child.returncode == 128 + number
  assert 'stopping: the run at hand saves its state; again: at once' in err
  assert err.endswith('interrupted: the same command goes on with a, seed 0\n')
  assert (tmp_path / 'calls.saved').exists() and not is_alive(run)
  assert bench[1]() == ['train a_0 None']  # and no other began
  assert not (tmp_path / 'runs/sweep_g/a_0/row.json').exists()


def test_sweep_with_a_second_signal_ends_with_its_run(bench, tmp_path):
  child, run = start_slow_sweep(tmp_path, 'deaf')
  child.send_signal(signal.SIGINT)
  while 'again' not in child.stderr.readline():
    pass
  time.sleep(0.5)
  child.send_signal(signal.SIGINT)
  assert child.wait(30) == 130  # long before the run would end
  assert not is_alive(run) and not (tmp_path / 'calls.saved').exists()


@pytest.mark.parametrize(
  'text, message',
  [
    ('get_grid = lambda: 3', 'must return'),
    ('import nothing_of_the_kind', 'nothing_of_the_kind'),
    ('x = 1', 'get_grid'),
    ('def get_grid(:', 'g.py, line 1: SyntaxError'),
    ('def get_grid():\n  return 1 / 0', 'g.py, line 2: ZeroDivisionError: division'),
  ],
)
def test_file_that_is_no_grid_is_one_line(bench, tmp_path, capsys, text, message):
  (tmp_path / 'g.py').write_text(text)
  assert bench[0]() == 2
  error = capsys.readouterr().err
  assert message in error and 'g.py' in error and error.count('\n') == 1


def test_missing_grid_is_refused_with_the_nearest_name(bench, capsys, tmp_path):
  (tmp_path / 'g.py').rename(tmp_path / 'gg.py')
  assert bench[0]() == 2
  assert "did you mean 'gg.py'" in capsys.readouterr().err


A = sweeps.Setting('a', 'configs/vqvae_ba.py')


@pytest.mark.parametrize(
  'grid, message',
  [
    (sweeps.Grid([]), 'needs a setting'),
    (sweeps.Grid([A], seeds=()), 'needs a setting and a seed'),
    (sweeps.Grid([A, A]), 'two settings'),
    (sweeps.Grid([A], seeds=(1, 1)), 'twice'),
    (sweeps.Grid([A], seeds=(2**32 + 5,)), 'a seed is 4294967301; valid: 0 to'),
    (sweeps.Grid([A], seeds=('1',)), "a seed is '1'; valid: .*a whole number"),
    (sweeps.Grid([A._replace(name='a/b')]), 'letters'),
    (sweeps.Grid([A], lmbdas=(0.2, 0.1)), 'rise'),
    (sweeps.Grid([A], lmbdas=(0.0, 0.1)), 'positive'),
    (sweeps.Grid([A], lmbdas=(0.1,), nominal=0.2), 'nominal'),
    (sweeps.Grid([A], lmbdas=(0.1,), nearest=('b',)), "unknown setting 'b'"),
    (sweeps.Grid([A], lmbdas=(0.1,), searched=('b',)), "unknown setting 'b'"),
    (sweeps.Grid([A], searched=('a',)), 'without lmbdas'),
  ],
)
def test_grid_without_sense_is_refused(grid, message):
  with pytest.raises(errors.CodaxError, match=message):
    sweeps.check(grid)


@pytest.mark.parametrize('path', GRIDS, ids=lambda p: p.stem)
def test_grids_of_the_repository_override_keys_that_exist(path):
  """Parsed as launch/train.py will, and every family accepts its knobs."""
  from codax.classify import task as classify
  from codax.overfit import parsing
  from codax.splat import task as splat
  from codax.vae import task as vae
  from codax.vqvae import components

  for setting in sweeps.load(path).settings:
    overrides = {'seed': 1, **setting.overrides}
    overrides = [f'--config.{key}={value}' for key, value in overrides.items()]
    args = flags.parse(['train.py', f'--config={ROOT / setting.config}', *overrides])
    if args.config.family == 'overfit':
      parsing.parse_arch(args.config), parsing.parse_recipe(args.config)
      parsing.parse_run(args.config)
    elif args.config.family == 'splat':
      splat.make_plans(args.config)
    elif args.config.family == 'vae':
      vae.make(args.config)
    elif args.config.family == 'classify':
      classify.make(args.config)
    else:
      components.make(args.config)
    for key, value in setting.overrides.items():
      assert _at(args.config, key) == value


def _at(config, key):
  for part in key.split('.'):
    config = config[part]
  return config


def test_line_of_a_finished_run_has_its_main_metrics():
  describe = load(SCRIPT).describe_run
  row = {'setting': 'mlp', 'seed': 2, 'metrics': {'accuracy': 0.87654, 'loss': 1.0}}
  assert describe(row, 90.0) == 'mlp, seed 2: accuracy 0.8765 (1.5 min)'
  row['metrics'] = {'psnr': 30.0, 'usage': 0.5}
  assert describe(row, None) == 'mlp, seed 2: usage 0.5, psnr 30 (already complete)'


def test_rows_made_elsewhere_carry_their_origin():
  rows = [{'commit': c, 'versions': {}, 'hardware': {}} for c in 'aab']
  source = provenance.factor_out_source(rows)
  assert source == {'commit': 'b', 'versions': {}, 'hardware': {}}
  assert rows == [{'commit': 'a'}, {'commit': 'a'}, {}]

"""Folders and files that launchers write: of one owner, tried first, and no inputs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codax import errors, sweeps
from codax.reports import store

LAUNCH = Path(__file__).parents[1] / 'launch'
HOLD = (
  'import sys, time\nfrom codax import files\nowner = files.hold(sys.argv[1])\n'
  'print("locked", flush=True)\ntime.sleep(60)\n'
)
GRID = """
from codax.sweeps import Grid, Setting
def get_grid():
  return Grid([Setting('a', 'configs/vqvae_ema.py')], seeds=(0,))
"""


def load(name):
  path = LAUNCH / f'{name}.py'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def images(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in').mkdir()
  pixels = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'in' / 'x.png')
  (tmp_path / 'g.py').write_text(GRID)
  return tmp_path / 'in'


COMMANDS = {
  'evaluate': ['--images=in', '--codecs=jpeg', '--qualities=50', '--out=out'],
  'sweep': ['--grid=g.py', '--out=out'],
  'studies/splat_claims': ['--images=in', '--out=out', '--steps=1', '--count=5'],
}


@pytest.fixture
def fails(capsys):
  """Runs a launcher; checks status 2 and one line; returns the line."""

  def run(name, argv):
    module = load(name)
    capsys.readouterr()
    assert errors.exit_status(lambda: module.main(argv)) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [x for x in lines if x.startswith('error: ')]
    return line

  return run


@pytest.mark.parametrize('name', COMMANDS)
def test_folder_of_another_process_is_refused_until_that_is_dead(
  images, monkeypatch, fails, name
):
  """A sweep, an evaluation and a study alike."""

  class Began(Exception):
    pass

  def begin(*_, **__):
    raise Began

  owner = subprocess.Popen(
    [sys.executable, '-c', HOLD, 'out'], stdout=subprocess.PIPE, text=True
  )
  try:
    assert owner.stdout.readline() == 'locked\n'
    line = fails(name, COMMANDS[name])
    assert f'out is in use by process {owner.pid} on ' in line
  finally:
    owner.kill()
    owner.wait()
  module = load(name)
  monkeypatch.setattr('codax.reports.comparisons.measure_all', begin)
  monkeypatch.setattr('codax.splat.variants.measure', begin)
  if name == 'sweep':
    monkeypatch.setattr(module, 'call', begin)
  with pytest.raises(Began):
    module.main(COMMANDS[name])


@pytest.mark.parametrize('name', COMMANDS)
def test_folder_in_whose_place_a_file_is_is_refused(images, fails, name):
  Path('out').write_text('mine')
  assert 'out: ' in fails(name, COMMANDS[name])
  assert Path('out').read_text() == 'mine'


@pytest.mark.parametrize('kind', ['rd.png', 'results.json', 'table.md'])
def test_evaluation_that_would_overwrite_something_else_is_refused(images, fails, kind):
  argv = COMMANDS['evaluate'][:-1]
  if kind == 'rd.png':
    (images / 'x.png').rename(images / kind)
    assert 'rd.png is one of the images' in fails('evaluate', [*argv, '--out=in'])
    Image.open(images / kind).load()
  elif kind == 'results.json':
    store.save('out/results.json', 'held_out', {'rows': [], 'metrics': {}})
    before = Path('out/results.json').read_bytes()
    line = fails('evaluate', COMMANDS['evaluate'])
    assert "results of kind 'held_out', not 'comparison': choose another --out" in line
    assert Path('out/results.json').read_bytes() == before
  else:
    (images.parent / 'out' / kind).mkdir(parents=True)
    assert f'out/{kind}: Is a directory' in fails('evaluate', COMMANDS['evaluate'])


@pytest.mark.parametrize('how', ['empty', 'cut', 'digit', 'folder'])
def test_damaged_row_of_a_sweep_is_named_and_made_again(
  images, monkeypatch, caplog, how
):
  from damages import damage

  sweep, made = load('sweep'), []
  row = {'metrics': {'psnr': 30.25}, 'files': [], 'curve': [], 'commit': None}
  row |= {'versions': {}, 'hardware': {}}

  def make_run(grid, setting, seed, workdir):
    made.append(workdir)
    content = {**sweep.make_request(grid, setting, seed), **row}
    store.write_sealed(workdir / sweep.ROW, content)
    return content

  monkeypatch.setattr(sweep, 'make_run', make_run)
  argv = COMMANDS['sweep']
  assert sweep.main(argv) == 0 and sweep.main(argv) == 0 and len(made) == 1
  before = json.loads(Path('out/sweep.json').read_text())['runs']
  damage(Path('out/a_0/row.json'), how)
  if how == 'folder':
    with pytest.raises(OSError, match=r'row\.json'):
      sweep.main(argv)
    return
  assert sweep.main(argv) == 0 and len(made) == 2
  assert 'out/a_0/row.json is damaged' in caplog.text
  assert json.loads(Path('out/sweep.json').read_text())['runs'] == before


def test_row_of_a_sweep_without_its_parts_is_refused(images, fails):
  sweep = load('sweep')
  grid = sweeps.load('g.py')
  wanted = sweep.make_request(grid, grid.settings[0], 0)
  store.write_sealed('out/a_0/row.json', wanted)
  assert 'row.json is damaged' in fails('sweep', COMMANDS['sweep'])


@pytest.mark.parametrize(
  'out, text',
  [
    ('in/x.png', 'is not the name of a .json file'),
    ('x.cdx', 'is not the name of a .json file'),
    ('x.json', 'is one of the inputs'),
    ('in/x.png/y.json', 'in/x.png: File exists'),
    ('folder.json', 'Is a directory'),
  ],
)
def test_output_of_a_bench_is_tried_before_the_work(images, fails, out, text):
  golden = next((Path(__file__).parent / 'golden').rglob('*.cdx')).read_bytes()
  for name in ('x.cdx', 'x.json'):
    Path(name).write_bytes(golden)
  Path('folder.json').mkdir()
  image = (images / 'x.png').read_bytes()
  file = 'x.json' if out == 'x.json' else 'x.cdx'
  assert text in fails('bench', ['decode', file, f'--out={out}'])
  assert (images / 'x.png').read_bytes() == image
  assert Path('x.cdx').read_bytes() == Path('x.json').read_bytes() == golden


@pytest.mark.parametrize('flag', ['--name=../x', '--name=/x', '--image=../x'])
def test_name_of_kept_results_stays_in_their_folder(images, fails, flag):
  argv = ['--add=out', '--name=x'] if 'image' in flag else ['--add=out']
  assert 'is not a name in results/' in fails('tables', [*argv, flag])

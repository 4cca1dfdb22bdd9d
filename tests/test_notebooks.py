"""The notebooks: they run in their short mode, and what they show is true."""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import codax
from codax import bitstream, bundle, errors
from codax.overfit.format import container

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
NAMES = ('ba_codebooks', 'kan_or_mlp', 'quickstart')

every_notebook = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
# those that run a notebook, of which most is compilation
slow = pytest.mark.slow


def cells_of(path, kind):
  """Lists the cells of a kind: (id, text)."""
  cells = json.loads(path.read_text())['cells']
  return [(c['id'], ''.join(c['source'])) for c in cells if c['cell_type'] == kind]


def install_cell(path=PATHS[0]):
  return dict(cells_of(path, 'code'))['install']


def load_script(name):
  """Imports a script of launch/ under a name of its own."""
  spec = importlib.util.spec_from_file_location(
    f'notebooks_{name[:-3]}', ROOT / 'launch' / name
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def surroundings(folder):
  """Runs the body in a folder and in the short mode; all is as before afterwards."""
  before, environment, search = os.getcwd(), dict(os.environ), list(sys.path)
  os.chdir(folder)
  os.environ['CODAX_SHORT'] = '1'
  try:
    yield
  finally:
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = search


def execute(name, folder):
  """Runs the code of a notebook; returns its names, and 'printed' and 'folder'."""
  space = {'__name__': '__main__', 'folder': folder}
  printed = io.StringIO()
  with surroundings(folder), contextlib.redirect_stdout(printed):
    for ident, source in cells_of(ROOT / f'notebooks/{name}.ipynb', 'code'):
      exec(compile(source, f'{name}: {ident}', 'exec'), space)
  return space | {'printed': printed.getvalue()}


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory):
  yield execute('quickstart', tmp_path_factory.mktemp('quickstart'))
  plt.close('all')


@pytest.fixture(scope='module')
def ba_codebooks(tmp_path_factory):
  yield execute('ba_codebooks', tmp_path_factory.mktemp('ba_codebooks'))
  plt.close('all')


@pytest.fixture(scope='module')
def kan_or_mlp(tmp_path_factory):
  yield execute('kan_or_mlp', tmp_path_factory.mktemp('kan_or_mlp'))
  plt.close('all')


def psnr(image, decoded):
  """Computes PSNR in dB of 8-bit images, by definition."""
  mse = np.mean((image.astype(np.float64) - decoded.astype(np.float64)) ** 2)
  return 10 * math.log10(255**2 / mse)


# --- form -----------------------------------------------------------------------------


def test_all_notebooks_are_here():
  assert tuple(path.stem for path in PATHS) == NAMES


@every_notebook
def test_notebook_is_of_the_format_and_without_outputs(path):
  """Outputs of the short mode would mislead, and images make each commit large."""
  content = json.loads(path.read_text())
  assert (content['nbformat'], content['nbformat_minor']) == (4, 5)
  ids = [cell['id'] for cell in content['cells']]
  assert len(set(ids)) == len(ids)
  for cell in content['cells']:
    assert cell['cell_type'] in ('code', 'markdown')
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None
      compile(''.join(cell['source']), cell['id'], 'exec')
  assert path.stat().st_size < 30_000


@every_notebook
def test_first_cells_are_the_badge_and_the_guarded_installation(path):
  first, second = json.loads(path.read_text())['cells'][:2]
  assert first['cell_type'] == 'markdown' and second['id'] == 'install'
  place = rf'github/[\w.-]+/[\w.-]+/blob/[\w.-]+/notebooks/{path.name}\)'
  assert re.search(rf'^\[!\[.*\]\(.*badge.svg\)\]\(.*{place}', first['source'][0])
  assert install_cell(path) == install_cell()


@every_notebook
def test_files_that_a_notebook_names_exist(path):
  text = path.read_text()
  named = re.findall(r'\b((?:configs|docs|launch)/[\w/]+\.(?:py|md))\b', text)
  assert named
  for name in named:
    assert (ROOT / name).is_file(), name
  for name in re.findall(r'`(\w+\.ipynb)`', text):
    assert (path.parent / name).is_file(), name


@every_notebook
def test_names_that_a_notebook_uses_exist(path):
  """Modules that it imports, and what it takes from them."""
  cells = [ast.parse(text) for _, text in cells_of(path, 'code')[1:]]
  nodes = [node for cell in cells for node in ast.walk(cell)]
  modules = {}
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        found = importlib.import_module(alias.name)
        modules[alias.asname or alias.name] = found
    if isinstance(node, ast.ImportFrom) and node.module == 'launch':
      for alias in node.names:
        modules[alias.name] = load_script(f'{alias.name}.py')
    elif isinstance(node, ast.ImportFrom):
      parent = importlib.import_module(node.module)
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        found = getattr(parent, alias.name, None) or importlib.import_module(name)
        modules[alias.asname or alias.name] = found
  used = [node for node in nodes if isinstance(node, ast.Attribute)]
  used = [node for node in used if getattr(node.value, 'id', None) in modules]
  assert len(used) > 10
  for node in used:
    assert hasattr(modules[node.value.id], node.attr), f'{node.value.id}.{node.attr}'


# --- address --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def script():
  return load_script('notebooks.py')


def test_all_notebooks_have_one_address(script):
  found = [script.find_addresses(path.read_text()) for path in PATHS]
  assert len(set.union(*found)) == 1


def test_address_is_written_into_badges_and_install_cells(
  script, tmp_path, monkeypatch, capsys
):
  for path in PATHS:
    shutil.copy(path, tmp_path)
  monkeypatch.setattr(script, 'FOLDER', tmp_path)
  assert script.main(['--repository=some-one/codax.jl', '--branch=next']) == 0
  for path in PATHS:
    text = (tmp_path / path.name).read_text()
    assert 'OWNER/codax' not in text
    assert f'/github/some-one/codax.jl/blob/next/notebooks/{path.name})' in text
    assert "REPOSITORY = 'some-one/codax.jl'" in install_cell(tmp_path / path.name)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'ba_codebooks.ipynb: some-one/codax.jl, branch next'
  before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
  for words in (['--repository=x'], ['--repository=a/b/c'], ['--repository=a/b c']):
    assert errors.exit_status(lambda words=words: script.main(words)) == 2
    assert 'is not OWNER/NAME' in capsys.readouterr().err
  assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


# --- installation ---------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch, tmp_path):
  """Commands that the install cell would run, in an empty folder."""
  commands = []
  monkeypatch.setattr(subprocess, 'run', lambda words, **_: commands.append(words))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  for key in [key for key in os.environ if key.startswith(('TPU_', 'COLAB_TPU'))]:
    monkeypatch.delenv(key)
  return commands


def run_install_cell(repository='some-one/codax'):
  source = re.sub("REPOSITORY = '.*?'", f"REPOSITORY = '{repository}'", install_cell())
  space = {}
  exec(compile(source, 'install', 'exec'), space)
  return space


def test_nothing_is_installed_where_codax_is(ran):
  assert run_install_cell()['ROOT'] == ROOT and ran == []


@pytest.fixture
def absent(monkeypatch):
  """Nothing finds codax until something is installed."""
  find, asked = importlib.util.find_spec, []

  def find_spec(name, *args):
    if name == 'codax' and not asked:
      asked.append(name)
      return None
    return find(name, *args)

  monkeypatch.setattr(importlib.util, 'find_spec', find_spec)


@pytest.mark.parametrize(
  ('program', 'variable', 'package'),
  [
    (None, None, 'jax'),
    ('/usr/bin/nvidia-smi', None, 'jax[cuda12]'),
    ('/usr/bin/nvidia-smi', 'TPU_WORKER_ID', 'jax[tpu]'),
    (None, 'COLAB_TPU_ADDR', 'jax[tpu]'),
  ],
)
def test_installation_brings_the_jax_of_the_device(
  ran, absent, monkeypatch, program, variable, package
):
  monkeypatch.setattr(shutil, 'which', lambda name: program)
  if variable:
    monkeypatch.setenv(variable, '0')
  run_install_cell()
  clone, install = ran
  address = 'https://github.com/some-one/codax'
  assert clone == ['git', 'clone', '--depth=1', address, 'codax_source']
  assert install[1:] == ['-m', 'pip', 'install', '-e', 'codax_source', package]


def test_installation_takes_the_checkout_around_the_notebook(ran, absent, monkeypatch):
  monkeypatch.chdir(ROOT / 'notebooks')
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  run_install_cell('OWNER/codax')
  assert [words[1:] for words in ran] == [['-m', 'pip', 'install', '-e', '..', 'jax']]


def test_unknown_repository_is_said_before_anything_is_run(ran, absent):
  with pytest.raises(RuntimeError, match='set REPOSITORY above, or start Jupyter in a'):
    run_install_cell('OWNER/codax')
  assert ran == []


# --- quickstart -----------------------------------------------------------------------

CODECS = ['vqvae', 'vae', 'overfit', 'splat', 'jpeg', 'webp']


@slow
def test_quickstart_files_decode_to_what_was_said(quickstart):
  image, folder = quickstart['image'], quickstart['folder']
  assert [row.codec for row in quickstart['rows']] == CODECS
  for row in quickstart['rows']:
    file = folder / quickstart['written'][row.codec]
    decoded = quickstart['decoded'][row.codec]
    assert row.decoded_as_encoded and row.bytes == file.stat().st_size
    assert row.bpp == 8 * row.bytes / (image.shape[0] * image.shape[1])
    assert row.psnr == pytest.approx(psnr(image, decoded)) and 8 < row.psnr < 50
    if file.suffix == '.cdx' and row.codec != 'vae':  # that model lies in the folder
      assert (codax.decode(file.read_bytes()) == decoded).all()
    begin = f'| image | {row.codec} '
    lines = quickstart['printed'].splitlines()
    line = next(line for line in lines if line.startswith(begin))
    assert f' {row.bytes} ' in line and f'{row.psnr:.2f}' in line


@slow
def test_quickstart_sizes_meet_the_target_or_say_so(quickstart):
  for row in quickstart['rows']:
    is_near = abs(row.bpp / quickstart['BPP'] - 1) < 0.03
    is_said = f'\n{row.codec}: ' in '\n' + quickstart['printed']
    is_coarse = row.target_missed is not None
    assert is_near or is_said or is_coarse, row


@slow
def test_quickstart_trains_the_model_that_its_vae_file_names(quickstart):
  folder = quickstart['folder']
  model = bundle.load(folder / 'runs/quickstart_vae')
  header = bitstream.peek((folder / quickstart['written']['vae']).read_bytes())
  assert model.family == 'vae' and model.id.startswith(header.bundle_id)


@slow
def test_quickstart_figures_show_the_decoded_images(quickstart):
  shown = [quickstart['image'], *quickstart['decoded'].values()]
  panels = quickstart['figure'].axes[: len(shown)]
  for axes, pixels in zip(panels, shown, strict=True):
    assert (axes.images[0].get_array() == pixels.squeeze()).all()
  titles = [axes.get_title() for axes in panels[1:]]
  wanted = [f'{r.codec}: {r.bytes} bytes, {r.psnr:.2f} dB' for r in quickstart['rows']]
  assert titles == wanted
  detail = quickstart['details'].axes[1].images[0].get_array()
  assert detail.shape == (16, 16, 3)
  assert (detail == quickstart['decoded']['vqvae'][24:40, 24:40]).all()
  assert 'Gaussians' in quickstart['printed'] or 'gaussians' in quickstart['printed']


# --- codebooks ------------------------------------------------------------------------


@slow
def test_codebooks_perplexity_is_drawn_over_k(ba_codebooks):
  space = ba_codebooks
  sizes, settings = space['SIZES'], space['SETTINGS']
  assert set(space['metrics']) == {(name, k) for name in settings for k in sizes}
  panels = space['figure'].axes
  for axes, key in zip(panels, ('perplexity', 'usage', 'psnr'), strict=True):
    for name, line in zip(settings, axes.lines):
      values = [space['metrics'][name, size][key] for size in sizes]
      assert line.get_label() == name and list(line.get_xdata()) == list(sizes)
      assert list(line.get_ydata()) == values
  for (_, size), found in space['metrics'].items():
    assert 1 <= found['perplexity'] <= size * found['usage'] * (1 + 1e-6)
    assert 0 < found['usage'] <= 1 and 5 < found['psnr'] < 40
    assert found['gap_bits'] > -0.01


@slow
def test_codebooks_codes_are_the_nearest_and_are_counted(ba_codebooks):
  space = ba_codebooks
  for name, model in space['models'].items():
    book = np.float64(model.codebooks.stages[0][0])
    z = np.float64(space['latents'][name])
    assert z.shape == (16, 16, book.shape[1])
    distances = ((z[..., None, :] - book[None, None]) ** 2).sum(-1)
    codes = space['codes'][name][..., 0]
    picked = np.take_along_axis(distances, codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(picked, distances.min(-1), rtol=1e-4, atol=1e-6)
    counts = space['counts'][name]
    assert (counts == np.bincount(codes.ravel(), minlength=space['LARGEST'])).all()
  for line, (name, counts) in zip(
    space['histogram'].axes[0].lines, space['counts'].items(), strict=True
  ):
    shares = line.get_ydata()
    assert (np.diff(shares) <= 0).all() and shares.sum() == pytest.approx(1)
    assert len(shares) == np.count_nonzero(counts)
    p = counts[counts > 0] / counts.sum()
    perplexity = 2 ** -(p * np.log2(p)).sum()
    assert line.get_label().startswith(f'{name}: perplexity {perplexity:.1f}, ')


@slow
def test_codebooks_bracket_is_below_the_quantizer(ba_codebooks):
  """R + beta D of the nearest codes is never below the tangent of R(D)."""
  space = ba_codebooks
  for name, points in space['brackets'].items():
    distortion, upper, lower = points.T
    assert np.isfinite(points).all() and (lower <= upper + 1e-3).all()
    assert (np.diff(distortion) <= 1e-6).all() and (np.diff(upper) >= -1e-3).all()
    bits, error = space['nearest'][name]
    dim = space['latents'][name].shape[-1]
    slopes = space['BETAS'] * dim / (2 * error) / math.log(2)
    assert (bits + slopes * error >= lower + slopes * distortion - 1e-2).all()
    assert bits <= math.log2(space['LARGEST'])


@slow
def test_codebooks_maps_show_codes_where_they_stand(ba_codebooks):
  space = ba_codebooks
  axes = np.reshape(space['maps'].axes, (2, -1))
  assert (axes[0, 0].images[0].get_array() == space['image']).all()
  for column, name in enumerate(space['SETTINGS'], 1):
    decoded = axes[0, column].images[0].get_array()
    assert (decoded == space['decoded'][name]).all()
    colors = axes[1, column].images[0].get_array()
    codes = space['codes'][name][..., 0]
    assert colors.shape == (*codes.shape, 3) and 0 <= colors.min() <= colors.max() <= 1
    for code in np.unique(codes):  # one color a code
      assert (colors[codes == code] == colors[codes == code][0]).all()


# --- networks -------------------------------------------------------------------------


@slow
def test_networks_files_have_the_networks_that_the_table_says(kan_or_mlp):
  space, kinds = kan_or_mlp, {'MLP': False, 'KAN, both': True}
  assert set(space['files']) == set(kinds)
  for name, has_splines in kinds.items():
    ours = [row for row in space['rows'] if row.codec == name]
    sizes = sorted(row.bytes for row in ours)
    assert sizes == sorted(map(len, space['files'][name])) and len(sizes) == 4
    for data in space['files'][name]:
      payload = container.unpack(data)
      assert (payload.arch.entropy_kan is not None) == has_splines
      assert (payload.arch.synthesis_kan is not None) == has_splines
      count = sum(w.size for m in payload.modules.values() for w in m.weights.values())
    line = next(x for x in space['lines'] if x['networks'] == name)
    assert line['weights'] == count and 0 < line['bytes'] < max(sizes)
    assert line['macs'] > 100
    assert f'{name}: 4 files decode to [(24, 24, 3)]' in space['printed']


@slow
def test_networks_answer_is_a_number_for_every_rival(kan_or_mlp):
  space = kan_or_mlp
  assert set(space['changes']) == {'KAN, both'}
  for name, change in space['changes'].items():
    assert math.isfinite(change['percent']) if 'percent' in change else change['reason']
    assert f'{name}: bits at equal PSNR against MLP: ' in space['printed']
  lines = space['figure'].axes[0].lines
  assert [line.get_label() for line in lines] == ['MLP', 'KAN, both']
  for line in lines:
    ours = [row for row in space['rows'] if row.codec == line.get_label()]
    assert sorted(line.get_xdata()) == pytest.approx(sorted(row.bpp for row in ours))
    assert sorted(line.get_ydata()) == pytest.approx(sorted(row.psnr for row in ours))


@slow
def test_networks_edges_are_drawn_over_their_grids(kan_or_mlp):
  for key, count in (('edges', 18), ('synthesis', 18)):
    figure = kan_or_mlp[key]
    assert len(figure.axes) == count
    for axes in figure.axes:
      curve, low, high = axes.lines
      x, y = curve.get_data()
      assert (low.get_xdata()[0], high.get_xdata()[0]) == (-4, 4)
      assert (x[0], x[-1]) == (-6, 6) and np.isfinite(y).all()

"""README's tables are what results/ says."""

import importlib.util
import json
from pathlib import Path

import pytest

from codax.errors import CodaxError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tables():
  spec = importlib.util.spec_from_file_location('tables', ROOT / 'launch/tables.py')
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return script


def test_readme_is_up_to_date(tables):
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  found = tables.load_all(ROOT / 'results')
  assert tables.fill(text, found) == text
  assert not tables.stale(ROOT / 'results' / 'kodak.png', found)


def test_results_say_where_they_come_from(tables):
  found = tables.load_all(ROOT / 'results')
  assert found
  for result in found:
    if 'published' in result:  # by others
      assert all(one['source'] and one['kind'] for one in result['published'])
      continue
    assert result['command'].startswith('python launch/')
    assert len(result['commit']) == 40 and result['versions']['jax']
    assert 'cores' in result['hardware']
    assert 'platform' in result['hardware'] or 'decoded' in result  # without JAX
    # a baseline's switches are compared over pictures and lambdas or sizes
    compared = {'switches', 'gains', 'steps_timed', 'decoded'} & set(result)
    assert 'seed' in result or compared or len(result['seeds']) >= 3


def test_a_table_holds_the_numbers_of_the_files(tables):
  row = {'picture': 'p', 'bytes': 1000, 'bpp': 0.5, 'psnr': 30.126, 'ssim': 0.9}
  result = {
    'name': 'x', 'command': 'python launch/train.py --config=configs/a.py',
    'hardware': {'platform': 'cpu', 'cores': 2},
    'rows': [
      {**row, 'codec': 'vqvae'},
      {**row, 'codec': 'jpeg', 'psnr': 28.0},
      {**row, 'codec': 'webp', 'psnr': 31.0},
    ],
  }  # fmt: skip
  text = tables.fill('a\n<!-- table: runs -->\nold\n<!-- end -->\nb', [result])
  assert 'old' not in text and text.startswith('a\n') and text.endswith('\nb')
  for part in ('| 1000 |', '| 30.13 |', '28.00 dB', '31.00 dB', '2 CPU cores'):
    assert part in text
  with pytest.raises(CodaxError, match='unknown table'):
    tables.fill('<!-- table: nothing -->\n<!-- end -->', [])
  assert json.dumps(result)


def test_a_sweep_is_a_line_for_each_setting(tables, tmp_path):
  """Kept with its summary: means ± standard errors; a dash where nothing is known."""
  curve = [(1e-6, 0.4, 32.0), (0.1, 0.3, 31.0), (0.2, 0.2, 30.0), (0.4, 0.1, 29.0)]
  rows = lambda f, up: [{'lmbda': l, 'bpp': f * b, 'psnr': p + up} for l, b, p in curve]
  settings = {'x': rows(1, 0), 'y': rows(0.9, 0), 'low': rows(1, -1)}
  metrics = lambda seed: {'perplexity': 40 + seed, 'usage': 0.5, 'psnr': 30}
  runs = [
    {'setting': name, 'seed': seed, 'metrics': metrics(seed), 'curve': curve}
    for name, curve in settings.items()
    for seed in (0, 2)
  ]
  content = {'runs': runs, 'nominal': 0.1, 'searched': ['x'], 'nearest': ['x']}
  (tmp_path / 'sweep.json').write_text(json.dumps(content))
  tables.add_sweep(tmp_path, 'kept', tmp_path)
  (kept,) = [r for r in tables.load_all(tmp_path) if r['name'] == 'kept']
  assert kept['runs'] == runs
  text = tables.fill('<!-- table: sweep -->\n<!-- end -->', [kept])
  lines = text.split('\n')[1:-1]
  assert lines[0].count('|') == lines[2].count('|') and '`x`, nearest' in lines[0]
  x, y, low = lines[2:]
  assert '| `x` | 41.0 ± 1.0 | 50 ± 0 | 30.00 ± 0.00 | 0.300' in x
  assert '+10.0 ± 0.0 | +10.0 ± 0.0 |' in y and '±' not in x.split('31.00 ± 0.00')[1]
  assert '| – |' in low
  with pytest.raises(CodaxError, match='complete'):
    tables.add_sweep(tmp_path / 'nowhere', 'kept', tmp_path)


def lambda_result(name, factor, config='overfit_mlp'):
  """Two pictures at four lambdas, `factor` times some bpp at fixed PSNR."""
  rows = []
  for i, image in enumerate(('a', 'b')):
    for k, lmbda in enumerate((1e-3, 2e-3, 4e-3, 8e-3)):
      bpp = factor * (0.8 - 0.2 * k) * (1 + i)
      base = {'image': image, 'lmbda': lmbda, 'picture': f'{image}_{lmbda:g}'}
      base |= {'bytes': 1, 'bpp': bpp, 'ssim': 0.9}
      rows.append(
        {**base, 'codec': 'overfit', 'psnr': 35.0 - k, 'network_bpp': 0.1 * factor}
      )
      rows += [{**base, 'codec': c, 'psnr': 30.0 - k} for c in ('jpeg', 'webp')]
  return {
    'name': name, 'rows': rows, 'metrics': {'step_ms_a_picture': 41.7},
    'command': f'python launch/train.py --config=configs/{config}.py',
    'hardware': {'platform': 'cpu', 'cores': 2},
  }  # fmt: skip


def test_pictures_at_several_lambdas_are_a_line_a_lambda(tables):
  text = tables.overfit([lambda_result('kodak_x', 1.0), lambda_result('networks_x', 9)])
  lines = text.splitlines()[4:]
  assert len(lines) == 4 and 'on 2 CPU cores' in text
  # the largest lambda first: bpp 0.2 and 0.4, PSNR 32
  assert '| 0.008 | 0.300 | 0.100 | 32.00 | 27.00 dB, 0.300 bpp |' in lines[0]
  assert tables.runs([lambda_result('kodak_x', 1.0)]).count('\n') == 2


def test_networks_are_compared_at_equal_psnr(tables):
  kan = lambda_result('networks_kan', 1.2, 'overfit_kan')
  found = [kan, lambda_result('networks_mlp', 1.0)]
  for result, macs in zip(found, (1285.6, 1191.0), strict=True):
    for row in result['rows']:
      row['macs_per_pixel'] = macs
  lines = tables.networks(found).splitlines()[2:]
  assert '`configs/overfit_kan.py` | 1286 |' in lines[0] and '| +20.0 % |' in lines[0]
  assert '`configs/overfit_mlp.py` | 1191 |' in lines[1] and '| 0 |' in lines[1]


def test_switches_are_lines_against_their_baseline(tables, tmp_path):
  files = lambda f, macs: [
    {
      'codec': 'overfit', 'image': i, 'lmbda': 1e-3, 'bytes': f * 100, 'bpp': f * 1.0,
      'psnr': 30.0, 'macs_per_pixel': macs,
    }
    for i in 'ab'
  ]  # fmt: skip
  run = lambda name, f, macs: {
    'setting': name, 'seed': 0, 'metrics': {}, 'files': files(f, macs),
  }  # fmt: skip
  runs = [run('base', 1, 10), run('twice', 2, 20)]
  content = {'runs': runs, 'baseline': 'base', 'nominal': None}
  (tmp_path / 'sweep.json').write_text(json.dumps(content))
  tables.add_sweep(tmp_path, 'kept', tmp_path)
  lines = tables.switches(tables.load_all(tmp_path)).splitlines()
  assert 'of 2 files' in lines[0] and '| `base` |  |  | 10 |' in lines[2]
  # J goes from 0.001 + 0.001 to 0.001 + 0.002, file sizes are doubled
  assert lines[3] == '| `twice` | +40.55 ± 0.00 | +69.31 ± 0.00 | 20 |'


def test_gains_are_lines_against_their_baseline(tables, tmp_path):
  row = {'psnr_float': 31.0, 'gaussians': 10, 'seconds': 5.0, 'positions_bits': 110.0}
  row |= {'positions_raw': 180.0, 'image': 'i'}
  files = lambda psnr, more: [
    {**row, 'picture': f'i_{n}', 'bytes': n * more, 'psnr': psnr} for n in (1000, 2000)
  ]
  run = lambda name, *made: {
    'setting': name, 'seed': 0, 'metrics': {}, 'files': files(*made),
  }  # fmt: skip
  content = {'runs': [run('base', 30.0, 1), run('x', 29.5, 1.1)], 'baseline': 'base'}
  (tmp_path / 'sweep.json').write_text(json.dumps(content))
  tables.add_sweep(tmp_path, 'kept', tmp_path)
  block = '<!-- table: splat_switches -->\n<!-- end -->'
  lines = tables.fill(block, tables.load_all(tmp_path)).splitlines()[1:]
  assert '`base`, 2 files' in lines[0]
  assert lines[2] == '| `base` |  |  | 30.00 | 31.00 | 5 |'
  assert lines[3] == '| `x` | -0.50 ± 0.00 | +9.5 ± 0.0 | 29.50 | 31.00 | 5 |'
  assert '11.0 bits a Gaussian' in lines[5] and '18.0 one by one' in lines[5]
  assert tables.fill(block, []) == block  # nobody has measured it yet


def test_published_codecs_are_compared_with_ours(tables):
  """Twice the bits of VTM at every PSNR is +100 %; only whole Kodak counts."""
  points = [[0.1, 28.0], [0.2, 30.0], [0.4, 32.0], [0.8, 34.0]]
  anchor = {'codec': 'VTM', 'kind': 'file', 'source': 's', 'points': points}
  rows = [
    {
      'image': f'{i}',
      'codec': 'overfit',
      'lmbda': 1 / psnr,
      'bpp': 2 * bpp,
      'psnr': psnr,
    }
    for i in range(24)
    for bpp, psnr in points
  ]
  ours = {
    'name': 'kodak_x', 'rows': rows,
    'command': 'python launch/train.py --config=configs/a.py:medium',
  }  # fmt: skip
  text = tables.published([{'name': 'k', 'published': [anchor]}, ours])
  assert '| VTM | file | +0.0 % |' in text
  assert '| **codax, `configs/a.py:medium`** | file | **+100.0 %** |' in text
  few = {**ours, 'rows': rows[:80]}
  assert 'codax' not in tables.published([{'name': 'k', 'published': [anchor]}, few])


def splats(points):
  """A run of the Gaussian codec over 24 pictures, whose means are these points."""
  rows = []
  for n, (bpp, psnr) in enumerate(points):
    for i in range(24):
      off = 0.5 if i % 2 else -0.5
      row = {'image': f'{i}', 'picture': f'{i}_{n}', 'bpp': bpp, 'bytes': 1000}
      rows.append({**row, 'codec': 'splat', 'gaussians': 10 + n, 'psnr': psnr + off})
      rows += [{**row, 'codec': name, 'psnr': psnr} for name in ('jpeg', 'webp')]
  command = 'python launch/train.py --config=configs/s.py'
  return {'name': 'kodak_s', 'rows': rows, 'command': command}


def test_sizes_that_others_have_published_are_compared_at(tables):
  """Linear in log size: halfway between 0.1 and 0.4 bits is 0.2."""
  points = [[0.05, 20.0], [0.2, 25.0]]
  one = {'codec': 'GaussianImage', 'kind': 'formula', 'source': 's', 'points': points}
  webp = {'codec': 'WebP', 'kind': 'file', 'source': 's', 'points': [[0.2, 29.0]]}
  found = [{'name': 'k', 'published': [one, webp]}, splats([(0.1, 30.0), (0.4, 34.0)])]
  block = '<!-- table: gaussians -->\n<!-- end -->'
  lines = tables.fill(block, found).splitlines()[1:-1]
  assert lines[2:] == ['| 0.2 | 25.00 | 32.00 | +7.00 | 29.00 |']
  assert tables.fill(block, found[:1]) == block
  # of whole Kodak means, and how many pictures are above; of less every picture
  table = tables.splat(found[1:]).splitlines()
  assert table[4].startswith('| 10 | 0.100 | 30.00 | 30.00 dB, 0.100 bpp |')
  assert table[4].endswith('| 800.0 | 12 | 12 |') and len(table) == 6


def test_steps_of_every_fit_have_a_line(tables):
  cpu = {'hardware': {'platform': 'cpu', 'cores': 2}, 'steps_timed': 9}
  command = 'python launch/bench.py pictures --config=configs/x.py'
  fits = [
    {'gaussians': n, 'step_ms': n / 10, 'step_ms_a_picture': n / 10,
     'quantised_step_ms': n / 5, 'program_mib': n / 4}
    for n in (100, 200)
  ]  # fmt: skip
  found = [
    {**cpu, 'command': command, 'pictures': '1 of 8 x 8', 'fits': fits},
    {**cpu, 'command': command, 'pictures': '8 of 8 x 8', 'step_ms': 16.0,
     'step_ms_a_picture': 2.0},
  ]  # fmt: skip
  lines = tables.fill('<!-- table: steps -->\n<!-- end -->', found).splitlines()[3:-1]
  assert lines == [
    '| `configs/x.py` | 1 of 8 x 8 | 100 | 10.0 | 20.0 | 10.00 | 25 | 2 CPU cores |',
    '| `configs/x.py` | 1 of 8 x 8 | 200 | 20.0 | 40.0 | 20.00 | 50 | 2 CPU cores |',
    '| `configs/x.py` | 8 of 8 x 8 |  | 16.0 | – | 2.00 | – | 2 CPU cores |',
  ]


def test_the_plot_knows_its_numbers(tables, tmp_path):
  found = [splats([(0.1, 30.0), (0.4, 34.0)])]
  path = tmp_path / 'kodak.png'
  assert tables.stale(path, found) and not tables.stale(path, [])
  path.write_bytes(tables.draw(found))
  assert not tables.stale(path, found)
  assert tables.stale(path, [splats([(0.1, 30.0), (0.4, 34.1)])])


def test_decoding_is_a_line_a_file(tables):
  row = {'file': 'a.cdx', 'size': '4 x 2', 'bytes': 77, 'decode_ms': 8.4}
  row['decode_us_a_pixel'] = 1050.0
  found = {'decoded': [row], 'hardware': {'cores': 2}}
  (line,) = tables.decoding([{'rows': []}, found]).splitlines()[2:]
  assert line == '| `a.cdx` | 4 x 2 | 77 | 8 | 1050.00 | 2 CPU cores |'
  assert tables.decoding([{'rows': []}]) == ''

"""Tables of kept results: their numbers are those of the files."""

import pytest
from kept import CPU, comparison, held_out, kodak, script, sweep

from codax.errors import CodaxError
from codax.reports import store, sweep_tables, tables


@pytest.fixture(scope='module')
def launch():
  return script('tables')


def block(name):
  return f'<!-- table: {name} -->\n<!-- end -->'


def test_runs_hold_the_numbers_of_the_files(launch):
  row = {'image': 'p', 'point': 'default', 'bytes': 1000, 'bpp': 0.5, 'ssim': 0.9}
  rows = [
    {**row, 'codec': codec, 'psnr': psnr}
    for codec, psnr in (('vqvae', 30.126), ('jpeg', 28.0), ('webp', 31.0))
  ]
  text = launch.fill(block('runs *'), [held_out('x', rows)])
  for part in ('| 1000 |', '| 30.13 |', '28.00 dB', '31.00 dB', '2 CPU cores'):
    assert part in text
  assert launch.fill(block('runs y*'), [held_out('x', rows)]) == block('runs y*')


def test_curves_are_a_line_for_each_setting(launch, tmp_path):
  """Kept with its statistics: means ± standard errors; a dash for the unknown."""
  curve = [(1e-6, 0.4, 32.0), (0.1, 0.3, 31.0), (0.2, 0.2, 30.0), (0.4, 0.1, 29.0)]
  rows = lambda f, up: [{'lmbda': l, 'bpp': f * b, 'psnr': p + up} for l, b, p in curve]
  settings = {'x': rows(1, 0), 'y': rows(0.9, 0), 'low': rows(1, -1)}
  metrics = lambda seed: {'perplexity': 40 + seed, 'usage': 0.5, 'psnr': 30}
  runs = [
    {'setting': name, 'seed': seed, 'metrics': metrics(seed), 'curve': curve}
    for name, curve in settings.items()
    for seed in (0, 2)
  ]
  runs = [{**run, 'files': []} for run in runs]
  content = sweep(runs, nominal=0.1, searched=['x'], nearest=['x'])
  store.save(tmp_path / 'd' / 'sweep.json', 'sweep', content)
  launch.add(tmp_path / 'd', 'kept', tmp_path)
  (kept,) = store.load_all(tmp_path)
  assert kept['runs'] == runs and kept['comparison'] == 'curves'
  lines = launch.fill(block('sweep'), [kept]).split('\n')[1:-1]
  assert lines[0].count('|') == lines[2].count('|') and '`x`, nearest' in lines[0]
  x, y, low = lines[2:]
  assert '| `x` | 41.0 ± 1.0 | 50 ± 0 | 30.00 ± 0.00 | 0.300' in x
  assert '+10.0 ± 0.0 | +10.0 ± 0.0 |' in y and '±' not in x.split('31.00 ± 0.00')[1]
  assert '| – |' in low
  with pytest.raises(CodaxError, match='complete'):
    launch.add(tmp_path / 'nowhere', 'kept', tmp_path)
  content = {'rows': [], 'is_complete': False}
  store.save(tmp_path / 'part' / 'results.json', 'comparison', content)
  with pytest.raises(CodaxError, match='results.json is not complete'):
    launch.add(tmp_path / 'part', 'kept', tmp_path)


def lambda_result(name, factor, config='overfit_mlp', macs=None):
  """Two images at four lambdas, `factor` times some bpp at fixed PSNR."""
  rows = []
  for i, image in enumerate(('a', 'b')):
    for k, lmbda in enumerate((1e-3, 2e-3, 4e-3, 8e-3)):
      bpp = factor * (0.8 - 0.2 * k) * (1 + i)
      base = {'image': image, 'point': f'lmbda {lmbda:g}', 'bytes': 1000, 'bpp': bpp}
      ours = {'psnr': 35.0 - k, 'network_bpp': 0.1 * factor, 'macs_per_pixel': macs}
      rows.append({**base, 'codec': 'overfit', **ours})
      rows += [{**base, 'codec': c, 'psnr': 30.0 - k} for c in ('jpeg', 'webp')]
  return held_out(name, rows, config)


def test_points_of_few_images_are_a_line_each():
  text = tables.points([lambda_result('x', 1.0), lambda_result('y', 9)], 'x')
  lines = text.splitlines()
  assert 'on 2 CPU cores' in lines[0] and len(lines) == 4 + 8
  assert lines[4].startswith(
    '| a | lmbda 0.001 | 0.800 | 35.00 | 30.00 dB, 0.800 bpp |'
  )
  # a figure that no file has is no column
  assert '| networks, bpp |' in lines[2] and 'MAC' not in lines[2]


def test_points_of_many_images_are_means_with_both_conventions_of_psnr():
  result = kodak([(0.4, 34.0), (0.1, 30.0)], gaussians=[11, 10])
  lines = tables.points([{**result, 'note': 'A word.'}]).splitlines()
  # the PSNR of the pooled MSE of 29.5 and 30.5 dB
  assert lines[4].startswith(
    '| count 1 | 0.100 | 30.00 | 29.97 | 30.00 dB, 0.100 bpp |'
  )
  assert lines[4].endswith('| 12 | 12 | 10 | 800.0 |')
  assert lines[5].startswith('| count 0 | 0.400 | 34.00 |')
  assert lines[6:] == ['', 'A word.']


def test_runs_over_the_same_images_are_compared_at_equal_psnr():
  kan = lambda_result('networks_kan', 1.2, 'overfit_kan', 1285.6)
  found = [kan, lambda_result('networks_mlp', 1.0, macs=1191.0)]
  lines = tables.against(found, 'networks_mlp', 'networks_*').splitlines()[2:]
  assert (
    lines[0] == '| `configs/overfit_kan.py` | 0.900 | 33.50 | +20.0 | 0.120 | 1286 |'
  )
  assert (
    lines[1] == '| `configs/overfit_mlp.py` | 0.750 | 33.50 | +0.0 | 0.100 | 1191 |'
  )
  assert tables.against(found, 'absent', 'networks_*') == ''


def run(name, files):
  return {'setting': name, 'seed': 0, 'metrics': {}, 'files': files, 'curve': []}


def test_ablation_is_a_line_against_the_baseline(launch, tmp_path):
  files = lambda f, macs: [
    {
      'codec': 'overfit', 'image': i, 'point': 'lmbda 0.001', 'lmbda': 1e-3,
      'bytes': f * 100, 'bpp': f * 1.0, 'psnr': 30.0, 'macs_per_pixel': macs,
    }
    for i in 'ab'
  ]  # fmt: skip
  runs = [run('base', files(1, 10)), run('twice', files(2, 20))]
  store.save(tmp_path / 'd' / 'sweep.json', 'sweep', sweep(runs, baseline='base'))
  launch.add(tmp_path / 'd', 'kept', tmp_path)
  lines = launch.fill(block('switches'), store.load_all(tmp_path)).splitlines()[1:]
  assert (
    lines[0].startswith('Change in the cost J = MSE + λ·bpp') and 'base' in lines[0]
  )
  assert 'over 2 files' in lines[0] and lines[4] == '| `base` |  |  | 10 |'
  # J goes from 0.001 + 0.001 to 0.001 + 0.002, file sizes are doubled
  assert lines[5] == '| `twice` | +40.55 ± 0.00 | +69.31 ± 0.00 | 20 |'


def test_gains_are_a_line_against_the_baseline(launch, tmp_path):
  row = {'psnr_float': 31.0, 'gaussians': 10, 'seconds': 5.0, 'positions_bits': 110.0}
  row |= {'positions_raw': 180.0, 'image': 'i', 'codec': 'splat'}
  files = lambda psnr, more: [
    {**row, 'point': f'count {n}', 'bytes': n * more, 'psnr': psnr}
    for n in (1000, 2000)
  ]
  runs = [run('base', files(30.0, 1)), run('x', files(29.5, 1.1))]
  store.save(tmp_path / 'd' / 'sweep.json', 'sweep', sweep(runs, baseline='base'))
  launch.add(tmp_path / 'd', 'kept', tmp_path)
  text = launch.fill(block('splat_switches'), store.load_all(tmp_path))
  lines = text.splitlines()[1:-1]
  assert '`base`, 2 files' in lines[0]
  # Gaussians, bits of each, of them positions, positions one by one, before rounding, s
  assert lines[2] == (
    '| `base` |  |  | 30.00 | 10 | 1200.0 | 11.0 | 18.0 | 31.00 | 5 |'
  )
  assert lines[3] == (
    '| `x` | -0.50 ± 0.00 | +9.5 ± 0.0 | 29.50 | 10 | 1320.0 | 11.0 | 18.0 | 31.00 '
    '| 5 |'
  )
  assert launch.fill(block('splat_switches'), []) == block('splat_switches')


def test_steps_of_every_fit_have_a_line(launch):
  command = 'python launch/bench.py pictures --config=configs/x.py'
  content = {'kind': 'step_times', 'command': command, 'hardware': CPU}
  fits = [
    {'gaussians': n, 'step_ms': n / 10, 'step_ms_a_picture': n / 10,
     'quantised_step_ms': n / 5, 'program_mib': n / 4}
    for n in (100, 200)
  ]  # fmt: skip
  found = [
    {**content, 'name': 'a', 'pictures': '1 of 8 x 8', 'fits': fits},
    {**content, 'name': 'b', 'pictures': '8 of 8 x 8', 'step_ms': 16.0,
     'step_ms_a_picture': 2.0},
  ]  # fmt: skip
  lines = launch.fill(block('steps'), found).splitlines()[3:-1]
  cpu = '2 CPU cores |'
  assert lines == [
    f'| `configs/x.py` | 1 of 8 x 8 | 100 gaussians | 10.0 | 20.0 | 10.00 | 25 | {cpu}',
    f'| `configs/x.py` | 1 of 8 x 8 | 200 gaussians | 20.0 | 40.0 | 20.00 | 50 | {cpu}',
    f'| `configs/x.py` | 8 of 8 x 8 |  | 16.0 | – | 2.00 | – | {cpu}',
  ]


def test_decoding_is_a_line_a_file(launch):
  row = {'file': 'a.cdx', 'size': '4 x 2', 'bytes': 77, 'decode_ms': 8.4}
  row['decode_us_a_pixel'] = 1050.0
  found = {'kind': 'decode_times', 'name': 'd', 'decoded': [row], 'hardware': CPU}
  (line,) = sweep_tables.decode_times([held_out('x', []), found]).splitlines()[2:]
  assert line == '| `a.cdx` | 4 x 2 | 77 | 8 | 1050.00 | 2 CPU cores |'
  assert launch.fill(block('decoding'), []) == block('decoding')


def test_study_is_a_column_for_each_image():
  images = [
    {'image': name, 'numbers': {'count': n, 'x': n / 7, 'x_seconds': n * 1.0}}
    for name, n in (('a', 20), ('b', 21))
  ]
  means = {'x': {'mean': 2.5, 'error': 0.25}, 'x_seconds': {'mean': 1.0, 'error': None}}
  columns = {'count': 'Gaussians', 'x': 'dB', 'x_seconds': 's', 'y': 'absent'}
  means['y'] = {'mean': None, 'error': None}
  result = {'kind': 'study', 'name': 's', 'columns': columns, 'means': means}
  lines = sweep_tables.study([{**result, 'images': images}]).splitlines()
  assert lines[0] == '|  | a | b | mean |'
  assert lines[2:] == [
    '| Gaussians | 20 | 21 |  |', '| dB | 2.86 | 3.00 | 2.50 ± 0.25 |',
    '| s | 20 | 21 | 1 |', '| absent | – | – | – |',
  ]  # fmt: skip
  one = sweep_tables.study([{**result, 'images': images[:1]}])
  assert 'mean' not in one and '| dB | 2.86 |\n' in one


def test_every_family_that_describes_itself_declares_columns_that_work():
  """A column is a heading, a figure and a format; an unknown figure is a dash."""
  from codax import families

  for name in families.FAMILIES:
    declared = getattr(tables.family_of(name), 'COLUMNS', ())
    assert all(isinstance(head, str) for head, _, _ in declared)
    assert tables.columns_of(name, [{'bytes': 1}]) == []
  assert tables.columns_of('jpeg', [{'bytes': 1}]) == []


def test_comparison_lays_out_learned_codecs_beside_baselines():
  """At half of JPEG's size for the same PSNR, JPEG is 2 dB worse where 2 dB double."""
  points = [(0.1, 28.0), (0.2, 30.0), (0.4, 32.0)]
  lines = tables.comparison([comparison(points), comparison(points, 'x')], 'k*')
  lines = lines.splitlines()
  assert lines[0].startswith('`python launch/evaluate.py --codecs=vae:runs/v')
  assert 'JPEG at that size' in lines[2] and 'SSIM' not in lines[2]
  assert lines[4:7] == [
    '| vae:runs/v | p0 | 0.050 | 28.00 | 27.75 | – | 20 |',
    '| vae:runs/v | p1 | 0.100 | 30.00 | 29.75 | 28.00 | 20 |',
    '| vae:runs/v | p2 | 0.200 | 32.00 | 31.75 | 30.00 | 20 |',
  ]
  assert lines[8] == (
    '`vae:runs/v`: `python launch/train.py --config=configs/v.py:codec`, 1.5 hours on '
    '2 CPU cores.'
  )

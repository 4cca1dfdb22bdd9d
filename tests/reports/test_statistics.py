"""Statistics of sweeps: against a baseline, and at equal quality over seeds."""

import math
from pathlib import Path

import pytest

from codax import sweeps
from codax.errors import CodaxError
from codax.reports import statistics, sweep_tables
from codax.training import flags

ROOT = Path(__file__).parents[2]


def run(name, seed, factor, ms=None):
  """Two images at two lambdas, MSE 1e-3; bpp factor or twice it."""
  rows = [
    {
      'image': image,
      'lmbda': lmbda,
      'point': f'lmbda {lmbda:g}',
      'bytes': int(1000 * factor * (1 + k)),
      'bpp': factor * (1 + k),
      'psnr': 30.0,
      'macs_per_pixel': 100 * factor,
    }
    for k, image in enumerate('ab')
    for lmbda in (1e-3, 4e-3)
  ]
  metrics = {} if ms is None else {'step_ms_a_picture': ms}
  return {'setting': name, 'seed': seed, 'files': rows, 'metrics': metrics}


def test_log_ratios_over_problems():
  runs = [run('base', 0, 1.0, 5.0), run('more', 0, 1.5, 7.0)]
  base, more = statistics.ablation({'runs': runs, 'baseline': 'base'})
  assert base['log_j'] == {'mean': 0.0, 'error': 0.0} and base['problems'] == 4
  logs = [
    math.log((1e-3 + l * 1.5 * b) / (1e-3 + l * b))
    for b in (1, 2)
    for l in (1e-3, 4e-3)
  ]
  mean = sum(logs) / 4
  error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 3 / 4)
  assert more['log_j']['mean'] == pytest.approx(mean)
  assert more['log_j']['error'] == pytest.approx(error)
  assert more['log_bytes']['mean'] == pytest.approx(math.log(1.5))
  assert (more['macs_per_pixel'], more['step_ms']) == (150.0, 7.0)


def test_each_seed_against_its_own_baseline():
  runs = [run('base', 0, 1.0), run('base', 1, 2.0), run('x', 0, 2.0), run('x', 1, 4.0)]
  _, found = statistics.ablation({'runs': runs, 'baseline': 'base'})
  assert found['problems'] == 8 and found['step_ms'] is None
  assert found['log_bytes'] == pytest.approx({'mean': math.log(2), 'error': 0.0})


def test_baseline_that_is_no_setting_is_refused():
  grid = sweeps.Grid([sweeps.Setting('a', 'c.py')], baseline='b')
  with pytest.raises(CodaxError, match="unknown setting 'b'"):
    sweeps.check(grid)


def curve(name, points, seed=0):
  """A run with files of images: {image: [(bytes, psnr, Gaussians asked for)]}."""
  rows = [
    {'image': i, 'point': f'count {n}', 'bytes': b, 'psnr': p, 'seconds': 2.0}
    for i, files in points.items()
    for b, p, n in files
  ]
  return {'setting': name, 'seed': seed, 'files': rows, 'metrics': {}}


BASE = {'a': [(1000, 20.0, 1), (4000, 32.0, 2)], 'b': [(500, 30.0, 1), (1000, 33.0, 2)]}


def test_gains_are_at_equal_bytes():
  """Six dB, or three, each time the size doubles: between the points and beyond."""
  line = {'a': lambda b: 20 + 6 * math.log2(b / 1000),
          'b': lambda b: 30 + 3 * math.log2(b / 500)}  # fmt: skip
  above = {'a': [(1500, 1.0, 1), (6000, 2.0, 2)], 'b': [(400, -0.5, 1), (800, 0.5, 2)]}
  mine = {
    i: [(b, line[i](b) + gain, n) for b, gain, n in files] for i, files in above.items()
  }
  content = {'runs': [curve('base', BASE), curve('x', mine)], 'baseline': 'base'}
  base, x = statistics.compare(content)['settings']
  assert base['gain'] == {'mean': pytest.approx(0), 'error': pytest.approx(0)}
  assert x['files'] == 4 and x['gain']['mean'] == pytest.approx(0.75)
  error = math.sqrt((0.25**2 + 1.25**2 + 1.25**2 + 0.25**2) / 3 / 4)
  assert x['gain']['error'] == pytest.approx(error)
  logs = [math.log(r) for r in (1.5, 1.5, 0.8, 0.8)]
  assert x['log_bytes']['mean'] == pytest.approx(sum(logs) / 4)
  assert x['bytes'] == 8700 / 4 and x['seconds'] == 2.0 and 'gaussians' not in x


def test_gains_need_a_curve_of_each_seed():
  worse = {i: [(b, p - 1, n) for b, p, n in files] for i, files in BASE.items()}
  runs = [curve('base', BASE), curve('base', worse, 1)]
  runs += [curve('x', BASE), curve('x', BASE, 1)]
  _, x = statistics.gains({'runs': runs, 'baseline': 'base'})
  assert x['files'] == 8 and x['gain']['mean'] == pytest.approx(0.5)
  with pytest.raises(CodaxError, match='two sizes'):
    statistics.psnr_at([{'bytes': 9, 'psnr': 1.0}, {'bytes': 9, 'psnr': 1.0}], 9)


def test_every_line_of_the_gaussians_grid_is_another_recipe():
  from codax.splat import task

  found = {}
  for setting in sweeps.load(ROOT / 'configs/grids/splat_switches.py').settings:
    overrides = [f'--config.{key}={value}' for key, value in setting.overrides.items()]
    args = flags.parse(['train.py', f'--config={ROOT / setting.config}', *overrides])
    plans = task.make_plans(args.config).values()
    assert len({plan.count for plan in plans}) == 2
    assert len({plan._replace(count=None) for plan in plans}) == 1
    found[setting.name] = next(iter(plans)).recipe
  assert len(set(found.values())) == len(found) and 'baseline' in found


# --- trained codecs, over seeds ------------------------------------------------------


def content(curves, **more):
  runs = [
    {
      'setting': name,
      'seed': seed,
      'metrics': {'perplexity': 10.0 + seed, 'usage': 0.5, 'psnr': 30.0},
      'curve': [{'lmbda': l, 'bpp': b, 'psnr': p} for l, b, p in curve],
    }
    for (name, seed), curve in curves.items()
  ]
  return {'runs': runs, 'nominal': 0.1, 'searched': ['x'], 'nearest': ['x'], **more}


LINE = [(1e-6, 0.4, 32.0), (0.1, 0.3, 31.0), (0.2, 0.2, 30.0), (0.4, 0.1, 29.0)]


def test_savings_are_at_equal_psnr_and_seed_by_seed():
  """A curve at 80 and 70 % of the rate saves 20 and 30: mean 25, error 5."""
  less = lambda f, up: [(l, f * b, p + up) for l, b, p in LINE]
  data = content({
    ('x', 0): LINE, ('x', 1): LINE,
    ('y', 0): less(0.8, 0.0), ('y', 1): less(0.7, 0.0),
  })  # fmt: skip
  x, y = statistics.curves(data)
  assert x['saving_searched']['x']['mean'] == pytest.approx(0, abs=1e-9)
  for found in (y['saving_searched']['x'], y['saving_nearest']['x']):
    assert found['mean'] == pytest.approx(25) and found['error'] == pytest.approx(5)
  assert y['saving_searched']['x']['overlap'] == 1 and y['seeds'] == 2
  assert y['file_bpp']['mean'] == pytest.approx(0.3 * 0.75)
  assert y['file_psnr'] == {'mean': 31.0, 'error': 0.0}
  assert y['perplexity'] == {'mean': 10.5, 'error': 0.5}


def test_savings_beyond_a_curve_are_no_number():
  data = content({('x', 0): LINE, ('low', 0): [(l, b, p - 0.5) for l, b, p in LINE]})
  low = statistics.curves(data)[1]
  assert low['saving_nearest']['x'] == {'mean': None, 'error': None}
  found = low['saving_searched']['x']
  assert found['mean'] < 0 < found['overlap'] < 1
  assert low['psnr'] == {'mean': 30.0, 'error': None}  # one seed has no error


def test_accuracies_are_means_over_seeds_and_steps_to_targets():
  """Linear between evaluations; the mean is of the runs that reached a target."""

  def run(setting, seed, accuracy, curve):
    history = {'step_ms': 2.0 + seed, 'parameters': 100, 'accuracy': curve}
    history |= {
      'total_steps': 30,
      'moved': 0.2 + 0.1 * seed if setting == 'b' else None,
    }
    metrics = {'accuracy': accuracy, 'top5': 1.0, 'loss': 0.5}
    return {
      'setting': setting, 'seed': seed, 'metrics': metrics, 'history': history,
      'files': [], 'curve': [],
    }  # fmt: skip

  runs = [
    run('a', 0, 0.8, [[10, 0.5], [20, 0.7]]),
    run('b', 0, 0.7, [[10, 0.65], [20, 0.65]]),
    run('a', 1, 0.9, [[10, 0.6], [20, 0.8]]),
    run('b', 1, 0.9, [[10, 0.1], [20, 0.5]]),
  ]
  content = {
    'runs': runs,
    'baseline': 'a',
    'target': None,
    'accuracy_targets': [0.6, 0.75],
  }
  found = statistics.compare(content)
  assert found['comparison'] == 'accuracies'
  a, b = found['settings']
  assert a['accuracy'] == {'mean': pytest.approx(0.85), 'error': pytest.approx(0.05)}
  assert b['gain'] == {'mean': pytest.approx(-0.05), 'error': pytest.approx(0.05)}
  assert a['step_ms']['mean'] == 2.5 and a['grad_variation']['mean'] is None
  assert a['steps_to']['0.6']['mean'] == pytest.approx((15 + 10) / 2)
  assert a['steps_to']['0.75'] == {'mean': 17.5, 'error': None, 'reached': 1}
  # 10 % are before the first evaluation, and 60 % are step 18
  assert a['accuracy_at']['0.1']['mean'] is None
  wanted = [0.5 + 0.8 * 0.2, 0.6 + 0.8 * 0.2]
  assert a['accuracy_at']['0.6']['mean'] == pytest.approx(sum(wanted) / 2)
  assert b['moved']['mean'] == pytest.approx(0.25) and a['moved']['mean'] is None
  assert b['steps_to']['0.75']['reached'] == 0 and b['steps_to']['0.6']['mean'] == 10
  result = {
    'kind': 'sweep', 'name': 'k', 'hardware': {'platform': 'cpu', 'cores': 2},
    'baseline': 'a', **found,
  }  # fmt: skip
  lines = sweep_tables.accuracies([result]).splitlines()
  assert '| steps to 60 % | steps to 75 % |' in lines[2]
  heads = 'accuracy at 60 % of the steps, % | inputs moved by a grid update, % | loss'
  assert f'| steps to 75 % | {heads} |' in lines[2]  # nobody knows those at 10 and 30 %
  assert '| 71.0 ± 5.0 | – |' in lines[4]
  assert '| 53.5 ± 11.5 | 25.0 ± 5.0 |' in lines[5]
  assert lines[4].startswith('| `a` | 100 ± 0 | 2.5 ± 0.5 | 85.00 ± 5.00 |  | 12 ± 2 |')
  assert '| 18 (1 of 2) |' in lines[4]
  assert '| -5.00 ± 5.00 | 10 (1 of 2) | – |' in lines[5]

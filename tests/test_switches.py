"""What a sweep's switches change against its baseline."""

import math

import pytest

from codax import sweeps
from codax.errors import CodaxError


def run(name, seed, factor, ms=None):
  """Two pictures at two lambdas, MSE 1e-3; bpp factor or twice it."""
  rows = [
    {
      'image': image,
      'lmbda': lmbda,
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
  base, more = sweeps.switches({'runs': runs, 'baseline': 'base'})
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
  _, found = sweeps.switches({'runs': runs, 'baseline': 'base'})
  assert found['problems'] == 8 and found['step_ms'] is None
  assert found['log_bytes'] == pytest.approx({'mean': math.log(2), 'error': 0.0})


def test_a_baseline_must_be_a_setting():
  grid = sweeps.Grid([sweeps.Setting('a', 'c.py')], baseline='b')
  with pytest.raises(CodaxError, match="unknown setting 'b'"):
    sweeps.check(grid)

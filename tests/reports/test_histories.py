"""Histories of runs: gradient norms, steps to a target, and their table."""

import json
import math

import numpy as np
import pytest

from codax import bundle
from codax.reports import histories, statistics, sweep_tables


def test_norms_are_described_without_the_first_tenth():
  norms = [1e9] * 4 + [1.0] * 34 + [12.0] * 2
  found = histories.describe_norms(norms)
  assert found['grad_spikes'] == pytest.approx(2 / 36)
  values = np.array(norms[4:])
  assert found['grad_variation'] == pytest.approx(values.std() / values.mean())


def test_steps_to_a_target_are_between_evaluations():
  curve = [[50, 20.0], [100, 22.0], [150, 21.0], [200, 26.0]]
  assert histories.steps_to(21.5, curve) == pytest.approx(87.5)
  assert histories.steps_to(19.0, curve) == 50
  assert histories.steps_to(26.1, curve) is None


def test_history_is_read_from_the_logs(tmp_path):
  assert histories.read(tmp_path) == {}
  lines = [
    {
      'step': i + 1,
      'train/grad_norm': 2.0,
      'train/clipped_share': 5 / (i + 1),
      'train/moved_share': 0.01 * i,
    }
    for i in range(20)
  ]
  lines.append({'step': 20, 'eval/psnr': 25.0, 'eval/accuracy': 0.5})
  write = lambda name, rows: (tmp_path / name).write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  write('metrics.jsonl', lines)
  speeds = [{'step': i, 'steps_per_s': s} for i, s in enumerate((50, 20))]
  write('timing.jsonl', [*speeds, {'step': 2, 'session': 1}])
  (tmp_path / 'config.json').write_text('{"total_steps": 30}')
  model = bundle.make('vqvae', {}, {'a': np.zeros((2, 5)), 'b': np.zeros(4, int)}, {})
  bundle.save(model, tmp_path / bundle.FILE_NAME)
  assert histories.read(tmp_path) == {
    'grad_variation': 0.0, 'grad_spikes': 0.0, 'clipped': 0.25, 'moved': 0.19,
    'step_ms': pytest.approx(23.0), 'peak_mib': None, 'parameters': 10,
    'total_steps': 30, 'psnr': [[20, 25.0]],
    'accuracy': [[20, 0.5]],
  }  # fmt: skip


def test_accuracy_at_a_share_of_the_steps_is_between_evaluations():
  history = {'total_steps': 200, 'accuracy': [[20, 0.5], [60, 0.7], [100, 0.6]]}
  assert histories.find_accuracy(0.1, history) == 0.5
  assert histories.find_accuracy(0.2, history) == pytest.approx(0.6)
  assert histories.find_accuracy(0.5, history) == 0.6
  # before the first evaluation, and after an early end
  assert histories.find_accuracy(0.05, history) is None
  assert histories.find_accuracy(0.6, history) is None
  earlier = {'accuracy': history['accuracy']}
  assert histories.find_accuracy(0.6, earlier) == pytest.approx(0.7)


def test_trainings_are_compared_seed_by_seed():
  def run(name, seed, psnr, end):
    history = {'grad_variation': 0.5, 'grad_spikes': 0.01, 'clipped': 0.1}
    history |= {'step_ms': 9.0, 'parameters': 1000, 'psnr': [[10, 20.0], [20, end]]}
    metrics = {'psnr': psnr, 'rate_bpp': 0.7, 'ssim': 0.9, 'active_units': 8}
    return {'setting': name, 'seed': seed, 'files': [], 'metrics': metrics,
            'history': history}  # fmt: skip

  runs = [run('a', 0, 24.0, 24.0), run('a', 1, 25.0, 25.0)]
  runs += [run('b', 0, 24.5, 24.0), run('b', 1, 25.7, 21.0)]
  content = {'runs': runs, 'baseline': 'a', 'target': 22.0}
  found = statistics.compare(content)
  assert found['comparison'] == 'trainings'
  a, b = found['settings']
  assert a['gain'] == {'mean': 0.0, 'error': 0.0} and a['reached'] == 2
  assert b['gain'] == pytest.approx({'mean': 0.6, 'error': 0.1})
  assert b['reached'] == 1 and b['steps_to_target'] == {'mean': 15.0, 'error': None}
  assert b['bpp']['mean'] == pytest.approx(0.7) and b['file_bpp']['mean'] is None
  hardware = {'platform': 'cpu', 'cores': 2}
  result = {'kind': 'sweep', 'name': 'g', **content, **found, 'hardware': hardware}
  text = sweep_tables.trainings([result])
  assert '| `b` | 1000 ± 0 | 9.0 ± 0.0 | 25.10 ± 0.60 | +0.60 ± 0.10 |' in text
  assert 'bpp, estimated' in text and '1.00 ± 0.00' in text


def test_costs_of_files_are_compared_at_equal_lambdas():
  """J = MSE + lambda * bpp, lower by 10 % at one lambda and by 20 % at the other."""

  def run(name, seed, factors):
    curve = []
    for lmbda, factor in zip((1e-3, 4e-3), factors):
      one = {'bytes': 100, 'bpp': 0.5 * factor, 'psnr': -10 * math.log10(0.01 * factor)}
      curve.append({'lmbda': lmbda, 'bpp': 0.5, 'psnr': 20.0, 'images': {'x': one}})
    return {'setting': name, 'seed': seed, 'files': [], 'metrics': {}, 'history': {},
            'curve': curve}  # fmt: skip

  runs = [run('a', seed, (1, 1)) for seed in (0, 1)]
  runs += [run('b', 0, (0.9, 0.8)), run('b', 1, (0.9, 0.8))]
  content = {'runs': runs, 'baseline': 'a', 'target': 22.0}
  a, b = statistics.compare(content)['settings']
  assert a['log_j'] == {'mean': 0.0, 'error': 0.0}
  mean = (math.log(0.9) + math.log(0.8)) / 2
  assert b['log_j'] == pytest.approx({'mean': mean, 'error': 0.0})

"""Summary of a training from its logs: exact figures, files, sessions."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from codax.reports import summary


def _write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Logs of 8 lines: the KL weight rises over 400 steps, two processes took part."""
  folder = tmp_path_factory.mktemp('run')
  rows, timing = [], []
  for i in range(1, 9):
    step = 100 * i
    rates = {'train/learning_rate': 0.1 / i, 'train/learning_rate/prior': 0.2}
    weight = {'train/kl_weight': 1e-4 * min(1, i / 4)}
    rows.append({'step': step, 'train/loss': 8.0 / i, 'train/kl': i, **weight, **rates})
    if i % 4 == 0:
      rows.append({'step': step, 'eval/psnr': 20.0 + i, 'eval/kl_dim/000': 1.0})
    begin = 1764471048.125 + 1000 * (i > 5)
    timing.append({'step': step, 'session': begin, 'seconds': float(i)})
    timing[-1] |= {'steps_per_s': 50.0} if i not in (1, 6) else {}
  _write(folder / 'metrics.jsonl', rows)
  _write(folder / 'timing.jsonl', timing)
  params = {'vae': {'analysis': {'w': np.zeros((300, 4)), 'b': np.zeros(4)}}}
  params |= {'vae': params['vae'] | {'synthesis': np.zeros(7)}, 'prior': np.zeros(3)}
  summary.write(folder, params)
  return folder


def test_rows_have_the_exact_figures_with_loss_kl_and_weight_first(workdir):
  with open(workdir / 'summary.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  assert list(rows[0]) == [
    'metric', 'initial', 'final', 'change', 'min', 'max', 'mean', 'deviation',
  ]  # fmt: skip
  assert [row['metric'] for row in rows[:3]] == [
    'train/loss', 'train/kl', 'train/kl_weight',
  ]  # fmt: skip
  values = 8.0 / np.arange(1, 9)
  expected = [8, 1, -7, 1, 8, values.mean(), values.std()]
  got = [float(x) for x in list(rows[0].values())[1:]]
  np.testing.assert_allclose(got, expected, rtol=1e-12)
  assert 'eval/kl_dim/000' in [row['metric'] for row in rows]
  text = (workdir / 'summary.md').read_text()
  assert 'standard deviation' in text and 'kl_dim' not in text


def test_metrics_at_half_three_quarters_and_end_of_the_warmup(workdir):
  series = summary.read_series(workdir)
  assert summary.find_warmup_steps(series) == {0.5: 200, 0.75: 300, 1.0: 400}
  lines = (workdir / 'summary.md').read_text().splitlines()
  table = lines[lines.index('## At 50, 75 and 100 % of the KL warm-up') :]
  rows = [[x.strip() for x in line.split('|')[1:-1]] for line in table[4:10]]
  cells = {row[0]: row[1:] for row in rows}
  heads = ['50 % (step 200)', '75 % (step 300)', '100 % (step 400)']
  assert cells['metric'] == heads
  assert cells['train/loss'] == ['4', '2.6667', '2']
  assert cells['eval/psnr'] == ['24', '24', '24']
  flat = {'train/kl_weight': [(1, 0.1), (2, 0.1)]}
  assert summary.find_warmup_steps(flat) == summary.find_warmup_steps({}) == {}


def test_sessions_wall_time_and_parameters_are_told(workdir):
  text = (workdir / 'summary.md').read_text()
  assert 'Wall time: 13 s.' in text  # 5 and 8
  lines = [[x.strip() for x in line.split('|')[1:-1]] for line in text.splitlines()]
  assert ['20251130-025048.125', '100', '500', '5.0'] in lines
  assert ['20251130-030728.125', '600', '800', '8.0'] in lines
  for part in (['vae/analysis', '1,204'], ['vae/synthesis', '7'], ['prior', '3']):
    assert part in lines
  assert ['all', '1,214'] in lines


def test_history_of_learning_rates_has_a_column_for_each_group(workdir):
  rows = (workdir / 'learning_rates.csv').read_text().splitlines()
  assert rows[0] == 'step,learning_rate,learning_rate/prior'
  assert rows[1] == '100,0.1,0.2' and rows[8] == '800,0.0125,0.2'
  late = {'a': [(1, 0.5)], 'b': [(1, 0.5), (2, 0.25)]}
  assert summary.format_history(late).splitlines()[2] == '2,,0.25'


def test_five_figures_are_drawn(workdir):
  names = sorted(p.name for p in (workdir / 'figures').iterdir())
  assert names == [
    'kl.png', 'learning_rates.png', 'losses.png', 'overview.png', 'step_times.png',
  ]  # fmt: skip
  for name in names:
    with Image.open(workdir / 'figures' / name) as image:
      assert image.getextrema()[0] == (0, 255)  # lines on white


def test_folder_without_metrics_stays_as_it_is(tmp_path):
  summary.write(tmp_path)
  assert not list(tmp_path.iterdir())

"""Sweeps over a number: their table, their answer and their plot."""

import io

import pytest
from kept import CPU, script, sweep
from PIL import Image

from codax.reports import series, statistics


def result(names=('a', 'b'), numbers=(256, 512), psnr_step=0.0):
  """Returns a sweep in which series i has 10 i more perplexity, and seeds differ."""
  runs = [
    {
      'setting': f'{name}.K={number}', 'seed': seed, 'files': [], 'curve': [],
      'metrics': {
        'perplexity': number / 10 + 10.0 * i + seed, 'usage': 0.5,
        'psnr': 20.0 + i * psnr_step + 0.01 * seed,
      },
    }
    for i, name in enumerate(names) for number in numbers for seed in (0, 1, 2)
  ]  # fmt: skip
  content = sweep(runs, hardware=CPU)
  return {'kind': 'sweep', 'name': 'kept', **content, **statistics.compare(content)}


def test_table_has_a_line_for_each_number_and_series():
  text = series.table([result()])
  lines = text.splitlines()
  assert '3 seeds' in lines[0] and '| K | setting |' in lines[2]
  assert len(lines) == 4 + 4
  # by number first; the first series is compared with nothing
  assert [line.split('|')[2].strip() for line in lines[4:]] == ['`a`', '`b`'] * 2
  assert '| 256 | `a` | 26.6 ± 0.6 | 50 ± 0 | 20.01 ± 0.01 |' in lines[4]
  assert '+10.0 ± 0.0 | +0.00 ± 0.00 | yes |' in lines[5]


def test_lower_psnr_is_no_success():
  assert '| no |' in series.table([result(psnr_step=-0.5)])


@pytest.mark.parametrize(
  'perplexity, psnr, answer',
  [
    ((5.0, 1.0), (0.0, 0.1), 'yes'),
    ((5.0, 1.0), (-0.1, 0.1), 'yes'),  # not lower by two standard errors
    ((5.0, 3.0), (0.2, 0.1), 'unclear'),
    ((-5.0, 1.0), (0.2, 0.1), 'no'),
    ((5.0, 1.0), (-0.3, 0.1), 'no'),
    ((5.0, None), (0.2, None), 'unclear'),
  ],
)
def test_answer_follows_from_means_and_errors(perplexity, psnr, answer):
  gains = [dict(zip(('mean', 'error'), pair)) for pair in (perplexity, psnr)]
  assert series.judge(*gains) == answer


@pytest.mark.parametrize('numbers', [(256,)])
def test_other_sweeps_are_no_series(numbers):
  assert series.find(result(numbers=numbers)) == []
  plain = result()
  plain['settings'] = [{**row, 'setting': 'ema'} for row in plain['settings']]
  assert series.find(plain) == [] and series.table([plain]) == ''


def test_plot_names_its_numbers_and_is_drawn_once(tmp_path):
  ((path, draw),) = series.find_stale_plots(tmp_path, [result()]).items()
  assert path == tmp_path / 'kept.png'
  path.write_bytes(draw())
  image = Image.open(io.BytesIO(path.read_bytes()))
  assert (
    image.width > 2 * image.height and len(image.convert('RGB').getcolors(9**6)) > 9
  )
  assert series.find_stale_plots(tmp_path, [result()]) == {}
  assert series.find_stale_plots(tmp_path, [result(psnr_step=1.0)])


def test_full_and_reduced_grids_have_the_same_settings():
  from codax import sweeps

  root = script('tables').ROOT / 'configs' / 'grids'
  full, reduced = (
    sweeps.load(root / f'cifar10_codebooks{end}.py') for end in ('', '_reduced')
  )
  names = [setting.name for setting in full.settings]
  assert names == [setting.name for setting in reduced.settings] and len(names) == 20
  assert full.seeds == reduced.seeds == (0, 1, 2)
  settings = [{'setting': name} for name in names]
  points = series.find({'comparison': 'curves', 'settings': settings})
  assert {point.at for point in points} == {256, 512, 1024, 2048}


def test_study_gives_every_setting_the_time_of_the_baseline():
  study = script('studies/codebook_steps')
  seconds = {'ema': 1.0, 'slow': 2.0, 'fast': 0.9, 'stuck': 1e3}
  found = study.count_steps(seconds, 'ema', 810)
  assert found == {'ema': 810, 'slow': 400, 'fast': 900, 'stuck': 20}

"""metrics.jsonl, plots and image grids."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codax.training import metrics_reduction, plots, writers


@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_come_back_to_the_bit(tmp_path_factory, values):
  workdir = tmp_path_factory.mktemp('w')
  writer = writers.open_run(workdir, 0)
  writers.write(writer, 1, {f'm{i}': v for i, v in enumerate(values)})
  writers.close(writer)
  [row] = writers.read(workdir / writers.METRICS)
  for i, value in enumerate(values):
    back = row[f'm{i}']
    assert back.hex() == float(value).hex() or (math.isnan(value) and math.isnan(back))


def test_lines_after_the_step_are_dropped_and_the_rest_left_alone(tmp_path):
  kept = '{"step": 1, "a": 0.10}\n{"step": 2,   "b": 1}\n'
  path = tmp_path / writers.METRICS
  path.write_text(kept + '{"step": 3, "a": 1}\n{"step": 2, "a"')
  assert [r['step'] for r in writers.read(path)] == [1, 2, 3]
  writers.close(writers.open_run(tmp_path, 2))
  assert path.read_text() == kept
  writers.close(writers.open_run(tmp_path, 0))
  assert path.read_text() == ''


def test_inactive_writer_writes_nothing(tmp_path):
  writer = writers.open_run(tmp_path / 'x', 0, active=False)
  writers.write(writer, 1, {'a': 1.0})
  writers.write_timing(writer, 1, {'a': 1.0})
  writers.close(writer)
  assert not (tmp_path / 'x').exists()


def test_lines_are_there_at_once_and_sorted(tmp_path):
  writer = writers.open_run(tmp_path, 0)
  writers.write(writer, np.int32(4), {'b': np.float32(0.5), 'a': 2})
  writers.write_timing(writer, 4, {'s': 1.5})
  assert (tmp_path / writers.METRICS).read_text() == '{"step": 4, "a": 2.0, "b": 0.5}\n'
  assert json.loads((tmp_path / writers.TIMING).read_text()) == {'step': 4, 's': 1.5}
  writers.close(writer)


def test_last_evaluation_is_the_newest(tmp_path):
  assert metrics_reduction.last_evaluation(tmp_path) == {}
  writer = writers.open_run(tmp_path, 0)
  writers.write(writer, 1, {'eval/psnr': 1.0})
  writers.write(writer, 2, {'eval/psnr': 2.0})
  writers.write(writer, 3, {'train/loss': 2.0})
  writers.close(writer)
  assert metrics_reduction.last_evaluation(tmp_path) == {'psnr': 2.0}


def test_curves_of_what_there_is(tmp_path):
  writer = writers.open_run(tmp_path, 0)
  for step in (1, 2, 3):
    writers.write(writer, step, {'train/loss': 10.0**-step, 'train/learning_rate': 1.0})
    writers.write(writer, step, {'eval/loss': math.nan, 'eval/bpp': step})
  writers.close(writer)
  names = [p.name for p in plots.curves(tmp_path)]
  assert names == ['loss.png', 'rate.png']
  with Image.open(tmp_path / 'loss.png') as image:
    assert image.size == (770, 440)
  assert plots.curves(tmp_path, min_age=1000) == []
  assert plots.curves(tmp_path / 'none') == []


def test_grid_places_every_pixel():
  images = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 3), np.uint8)
  grid = plots.grid(images, columns=2, gap=1)
  assert grid.shape == (3 * 4 - 1, 2 * 5 - 1, 3)
  for i in range(5):
    y, x = i // 2 * 4, i % 2 * 5
    np.testing.assert_array_equal(grid[y : y + 3, x : x + 4], images[i])
  assert (grid[3] == 255).all() and (grid[8:, 5:] == 255).all()
  with pytest.raises(ValueError, match='uint8'):
    plots.grid(images.astype(float))


def test_only_the_newest_images_stay(tmp_path):
  images = np.zeros((1, 2, 2, 3), np.uint8)
  plots.save_png(tmp_path / 'images' / 'astronaut.png', images[0])
  for step in (999999, 1000000, 20):
    plots.save_mosaic(tmp_path, step, plots.grid(images), keep=2)
  names = sorted(p.name for p in (tmp_path / 'images').iterdir())
  assert names == ['astronaut.png', 'step_1000000.png', 'step_999999.png']


@pytest.mark.parametrize(
  'line',
  [
    '{"step": 2, "a": 0.', 'x', '[1]', '{"a": 1}', '{"step": true, "a": 1}',
    '{"step": 2, "a": "1"}', '{"step": 2, "a": null}', '{"step": 2.5}', '[' * 9999,
  ],
)  # fmt: skip
def test_damaged_line_is_counted_and_left_out(tmp_path, caplog, line):
  path = tmp_path / writers.METRICS
  whole = '{"step": 1, "a": 1.0}\n', '{"step": 3, "a": 2.0}\n'
  path.write_text(f'{whole[0]}{line}\n{whole[1]}')
  assert [row['step'] for row in writers.read(path)] == [1, 3]
  writers.warn_damaged(tmp_path)
  assert f'{path} is damaged: 1 of its lines' in caplog.text
  caplog.clear()
  writers.close(writers.open_run(tmp_path, 3))
  assert f'{path} is damaged: 1 of its lines' in caplog.text
  assert path.read_text() == ''.join(whole)


def test_line_cut_by_a_crash_is_no_damage_of_a_run_that_goes_on(tmp_path, caplog):
  path = tmp_path / writers.METRICS
  path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a"')
  writers.close(writers.open_run(tmp_path, 1))
  assert not caplog.text

"""What is measured of the Gaussian codec: its steps' cost, and its sources' claims."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codax import errors
from codax.reports import store
from codax.splat import (
  bench,
  binning,
  fit,
  fit_config,
  qat_inputs,
  quantization,
  seeding,
  snapshots,
  step,
  variants,
)
from codax.splat.render import Gaussians
from codax.splat.target import make_target

ROOT = Path(__file__).parents[2]
SIZE = (48, 48)


def load(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / 'launch' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with one image."""
  path = tmp_path_factory.mktemp('images')
  Image.fromarray(bench.make_smooth_image(np.random.default_rng(0), *SIZE)).save(
    path / 'a.png'
  )
  return path


def test_smooth_images_are_smooth_and_fill_the_range():
  made = bench.make_smooth_image(np.random.default_rng(0), 40, 60)
  assert made.shape == (40, 60, 3) and made.dtype == np.uint8
  steps = np.abs(np.diff(made.astype(int), axis=1)).mean()
  assert 30 < made.std() and steps < 0.5 * made.std()
  assert (bench.make_smooth_image(np.random.default_rng(1), 40, 60) != made).any()
  assert bench.make_smooth_image(np.random.default_rng(0), 1, 1).shape == (1, 1, 3)


def test_steps_are_timed_for_every_number_of_gaussians(tmp_path, capsys):
  out = tmp_path / 'bench.json'
  command = [
    'images', f'--config={ROOT}/configs/splat.py', '--config.counts=(20,300)',
    '--size=48x48', '--steps=26', f'--out={out}',
  ]  # fmt: skip
  assert load('bench').main(command) == 0
  found = json.loads(out.read_text())
  assert found['pictures'] == '1 of 48 x 48'
  assert (found['steps_timed'], found['listed_every']) == (50, 25)
  few, many = found['fits']
  assert (few['gaussians'], many['gaussians']) == (20, 300)
  for one in (few, many):
    assert all(one[k] > 0 for k in ('step_ms', 'quantised_step_ms', 'compile_s'))
    assert one['step_ms_a_picture'] == one['step_ms']
  # more Gaussians touch more tiles, and need more room
  assert many['pairs'] > 2 * few['pairs']
  assert many['program_mib'] > few['program_mib'] > 0
  assert found['peak_rss_mib'] > many['program_mib']
  assert 'gaussians 300, pairs' in capsys.readouterr().out


def test_images_of_one_program_are_fitted_as_each_by_itself():
  """The step under vmap: the same Gaussians, but for the order of sums."""
  chosen = fit_config.FitConfig(initial_fraction=1.0)
  rng = np.random.default_rng(0)
  images = [bench.make_smooth_image(rng, *SIZE) for _ in 'ab']
  fits = lambda: [fit.init_fit(make_target(x), 20, chosen, 0) for x in images]
  targets = [one.tiled for one in fits()]
  states = lambda: [one.state for one in fits()]  # which are used up
  many = [each.gaussians for each in states()]
  lists, _ = binning.bin_images(many, [SIZE] * 2, chosen, chosen.bin_margin)
  # each with steps of its own
  units = [
    quantization.make_units('cholesky', chosen.q_steps._replace(luma=luma), 3)
    for luma in (4, 60)
  ]
  qat = tuple(
    each._replace(units=unit)
    for each, unit in zip(qat_inputs.make(fits()), units, strict=True)
  )
  steps = np.int32(50), np.int32(chosen.rebin_every)
  # where values are quantized, a rounding error can become a step
  for extra, near, far in ((None, 1e-4, 0.05), (qat, 1e-2, 0.2)):
    together, mse = step.advance(
      tuple(states()), tuple(targets), lists, *steps, chosen, extra
    )
    assert mse.shape == (2,)
    for i in range(2):
      mine = extra and (extra[i],)
      alone, own = step.advance(
        (states()[i],), (targets[i],), lists[i : i + 1], *steps, chosen, mine
      )
      assert mse[i] == pytest.approx(float(own[0]), rel=near)
      found, wanted = together[i].gaussians.xy, alone[0].gaussians.xy
      np.testing.assert_allclose(found, wanted, atol=far)


TWO_DEVICES = """
import jax, numpy as np
from codax.splat import bench, fit, fit_config, schedule
from codax.splat.target import make_target
assert jax.device_count() == 2
rng = np.random.default_rng(0)
targets = [make_target(bench.make_smooth_image(rng, 32, 32)) for _ in 'ab']
chosen = fit_config.FitConfig(num_growths=1, growth_end=0.4)
plan = schedule.plan_calls(75, chosen)
found = []
for devices in (1, 2):
  state = fit.init_state(targets, [20, 21], chosen, 0)
  while state.call < plan.num_calls:
    state, metrics = fit.advance(state, plan, devices)
  results = fit.finish(state, plan, metrics)
  found.append([metrics.mse, *(each.gaussians.xy for each in results)])
  assert state.fits[0].num_active == 20
np.testing.assert_allclose(found[1][0], found[0][0], rtol=0.05)
for one, two in zip(found[0][1:], found[1][1:]):
  assert np.median(np.abs(one - two)) < 0.05
"""


@pytest.mark.slow
def test_two_devices_share_the_images_of_a_bucket():
  flags = os.environ.get('XLA_FLAGS', '')
  flags += ' --xla_force_host_platform_device_count=2'
  env = {**os.environ, 'XLA_FLAGS': flags}
  done = subprocess.run(
    [sys.executable, '-c', TWO_DEVICES], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_variants_are_measured_once_and_kept(folder, tmp_path, monkeypatch, capsys):
  script, tables = load('studies/splat_claims'), load('tables')
  command = [f'--images={folder}', '--count=20', '--steps=50', f'--out={tmp_path}/o']
  assert script.main(command) == 0
  content = store.load(tmp_path / 'o' / 'study.json', 'study')
  (row,) = content['images']
  numbers = row['numbers']
  assert row['image'] == 'a.png' and numbers['count'] == 20
  assert set(row['fits']) == set(variants.VARIANTS)
  # two calls of 25 steps: 70 % of them are over after the last
  assert numbers['qat_70'] == numbers['rounded'] < numbers['normalized']
  names = ('rounded', 'qat_70', 'qat', 'rounded_coarse', 'qat_coarse', 'vq_256', 'rvq')
  for name in names:
    loss = numbers['normalized'] - numbers[name]
    assert numbers[f'{name}_loss'] == pytest.approx(loss)
  assert numbers['sum_gain'] == pytest.approx(numbers['sum'] - numbers['alpha'])
  assert numbers['qat_seconds'] == row['fits']['qat']['seconds'] > 0
  for name in ('vq_256', 'rvq'):
    groups = row['fits'][name]['vectors']
    for group, facts in groups.items():
      assert numbers[f'{name}_{group}'] == facts['distortion']
      assert len(facts['entries']) == (1 if name == 'vq_256' else 2)
    assert numbers[f'{name}_ratio'] == row['fits'][name]['attribute_ratio']
  # an entry for each Gaussian: what they are rounded to is all that is lost
  assert numbers['vq_256_shape'] < 3 / 4
  assert 'qat_time' not in numbers  # too few steps to say
  assert content['means']['qat']['mean'] == numbers['qat']
  printed = (tmp_path / 'o' / 'table.md').read_text()
  assert '|  | a.png |\n' in printed and '| Gaussians | 20 |\n' in printed
  assert f'| alpha | {numbers["alpha"]:.2f} |\n' in printed
  assert printed in capsys.readouterr().out
  # as it is kept
  tables.add(tmp_path / 'o', 'splat_claims', tmp_path)
  (kept,) = store.load_all(tmp_path)
  block = '<!-- table: splat_claims -->\n{}<!-- end -->'
  assert tables.fill(block.format(''), [kept]) == block.format(printed)
  assert tables.fill(block.format('old\n'), []) == block.format('')
  # what is done is not done again, and nothing else passes for it
  monkeypatch.setattr(variants, 'measure', lambda *_, **__: pytest.fail('again'))
  assert script.main(command) == 0
  with pytest.raises(errors.CodaxError, match='count = 20, not 21'):
    script.main([*command, '--count=21'])
  with pytest.raises(errors.CodaxError, match='1 or more'):
    script.main([*command, '--steps=0'])


def test_look_is_called_at_the_end_of_each_stage(folder):
  """And whoever looks changes nothing."""
  image = np.asarray(Image.open(folder / 'a.png'))
  seen = []
  chosen = fit_config.FitConfig(num_growths=2, growth_end=0.8)
  run = lambda **more: fit.run(image, 20, 150, chosen, 0, **more)[0]
  look = lambda *stage: seen.append((*stage[:2], len(seeding.active_indices(stage[2]))))
  looked, plain = run(look=look), run()
  assert seen == [
    ('seeded', 0, 10), ('grown', 50, 15), ('before rounding', 75, 15),
    ('grown', 100, 20),
  ]  # fmt: skip
  np.testing.assert_array_equal(looked.xy, plain.xy)


def test_outlines_are_ellipses_of_one_standard_deviation():
  """12 pixels across and 5 down, about (40, 30), each pixel drawn twice as large."""
  chosen = fit_config.FitConfig()
  shape = np.array([[np.log(12), np.log(5), 0]], np.float32)
  one = Gaussians(
    np.array([[40, 30]], np.float32), shape, np.zeros((1, 3), np.float32), np.zeros(3)
  )
  payload = quantization.to_payload(chosen, one, (60, 80, 3))
  drawn = snapshots.draw_outlines(payload, np.zeros((60, 80, 3), np.uint8), 2)
  assert drawn.shape == (120, 160, 3)
  rows, columns = np.nonzero(drawn[..., 0] > 0)
  ends = [columns.min(), columns.max(), rows.min(), rows.max()]
  np.testing.assert_allclose(ends, [56, 104, 50, 70], atol=2)


def test_panels_of_extreme_images_are_bounded():
  assert (
    snapshots._choose_scale((48, 48)) == 7 and snapshots._choose_scale((512, 768)) == 1
  )
  for size in ((60000, 1), (1, 60000), (4000, 3), (1, 1)):
    scale = snapshots._choose_scale(size)
    assert scale >= 1 and scale**2 * size[0] * size[1] <= 2**24

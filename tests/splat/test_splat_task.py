"""`launch/train.py` with configs/splat.py, in small."""

import csv
import importlib.util
import json
import os
import signal
from pathlib import Path

import clocks
import jax
import numpy as np
import pytest
from PIL import Image

from codax import families, signals
from codax.codec import Encoded
from codax.errors import CodaxError, OutOfReach
from codax.per_image import run, store
from codax.reports import held_out
from codax.splat import bucket_fit, defaults, fit, fit_state, render, task
from codax.training import checkpoints, writers

ROOT = Path(__file__).parents[2]


def load(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / 'launch' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config_file():
  path = ROOT / 'configs' / 'splat.py'
  spec = importlib.util.spec_from_file_location('splat_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config(**changes):
  made = config_file().get_config()
  made.data.crop, made.data.limit, made.total_steps = 48, 1, 50
  made.update_from_flattened_dict(changes)
  return made


def run_all(config, workdir):
  return run.run(task.PER_IMAGE, config, workdir)


def test_training_command_leaves_files_metrics_and_images(
  tmp_path, capsys, monkeypatch
):
  command = [
    'train.py', f'--config={ROOT}/configs/splat.py', f'--workdir={tmp_path}',
    '--config.data.crop=48', '--config.data.limit=1', '--config.total_steps=50',
    '--config.counts=(20,40)',
  ]  # fmt: skip
  train = load('train')
  assert train.main(command) == 0
  done = held_out.load(tmp_path)
  rows = [r for r in done['rows'] if r.codec == 'splat']
  assert [r.extras['gaussians'] for r in rows] == [20, 40]
  assert [r.point for r in rows] == ['count 20', 'count 40']
  assert rows[0].bytes < rows[1].bytes
  table = list(csv.DictReader((tmp_path / 'metrics.csv').open()))
  assert [int(r['gaussians']) for r in table] == [20, 40]
  for row in table:
    data = (tmp_path / 'files' / f'{row["label"]}.cdx').read_bytes()
    assert families.describe(data)['gaussians'] == int(row['gaussians'])
    facts = json.loads((tmp_path / 'files' / f'{row["label"]}.json').read_text())
    assert facts['psnr'] == pytest.approx(float(row['psnr']))
    bucket = tmp_path / 'buckets' / row['label']
    (line,) = writers.read(bucket / writers.METRICS)
    assert line['step'] == 50 and line['train/gaussians'] == facts['gaussians']
    # of the last step before rounding, pixels not clipped
    assert line['train/psnr'] == pytest.approx(facts['psnr'], abs=2)
    assert (bucket / 'loss.png').stat().st_size > 0
    # sorted, positions take fewer bits than N * log2(W * H)
    assert 0 < float(row['positions_bits']) < float(row['positions_raw'])
    # seeded, before rounding, the file, and its Gaussians: enlarged, under titles
    grid = Image.open(tmp_path / 'images' / f'{row["label"]}_stages.png')
    side = 48 * 7
    assert grid.size == (4 * side + 3 * 4, 24 + side)
  # a damaged file of a complete run is made again
  path = tmp_path / 'files' / f'{table[0]["label"]}.cdx'
  whole = path.read_bytes()
  path.write_bytes(whole[:9])
  assert train.main(command) == 0 and path.read_bytes() == whole
  rows = [r for r in held_out.load(tmp_path)['rows'] if r.codec == 'splat']
  # a file that is there already is not made again
  (tmp_path / 'results.json').unlink(missing_ok=True)
  monkeypatch.setattr(
    task.encode, 'encode_image', lambda *_, **__: pytest.fail('again')
  )
  assert train.main(command) == 0
  again = [r for r in held_out.load(tmp_path)['rows'] if r.codec == 'splat']
  np.testing.assert_equal(again, rows)


def test_bad_images_are_passed_over_and_named_if_asked(tmp_path, capsys):
  """Such as cannot be read, or are too small for the number of Gaussians."""
  rng = np.random.default_rng(0)
  folder = tmp_path / 'p'
  folder.mkdir()
  for name, side in (('a', 48), ('small', 4)):
    pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{name}.png')
  (folder / 'text.png').write_text('no image')
  command = [
    'train.py', f'--config={ROOT}/configs/splat.py', f'--workdir={tmp_path}/r',
    '--config.data.name=folder', f'--config.data.path={folder}',
    '--config.data.split=all', '--config.total_steps=50', '--config.counts=(20,)',
  ]  # fmt: skip
  train = load('train')
  with pytest.raises(CodaxError, match='text.png: not an image.*skip_bad=True'):
    train.main(command)
  (folder / 'text.png').rename(folder / 'text.txt')
  with pytest.raises(CodaxError, match='^small.png: 20 Gaussians.*skip_bad=True'):
    train.main(command)
  (folder / 'text.txt').rename(folder / 'text.png')
  assert train.main([*command, '--config.data.skip_bad=True']) == 0
  assert capsys.readouterr().out.count('passed over: ') == 2
  results = json.loads((tmp_path / 'r' / 'results.json').read_text())
  assert {x['image'] for x in results['passed_over']} == {'small.png', 'text.png'}
  assert {x['image'] for x in results['rows']} == {'a.png'}
  (row,) = csv.DictReader((tmp_path / 'r' / 'metrics.csv').open())
  ours = next(x for x in results['rows'] if x['codec'] == 'splat')
  assert float(row['psnr_above_one_color']) == pytest.approx(
    ours['psnr_above_one_color']
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'counts': (10,), 'bpps': (0.3,)}, 'counts or config.bpps'),
    ({'bpps': (-1.0,)}, 'config.bpps is -1.0; valid: 0 or more'),
    ({'bpps': (0.0,)}, 'config.bpps has 0; valid: numbers above 0'),
    ({'bpps': (float('inf'),)}, 'config.bpps is inf'),
    ({'counts': (20.5,)}, 'config.counts has 20.5; valid: whole numbers'),
    ({'counts': (float('nan'),)}, 'config.counts is nan; valid: 1 or more'),
    ({'counts': (20, 2305)}, r'^astronaut: 2305 Gaussians.*48 x 48.*1 to 2304'),
    ({'seed': -1}, 'config.seed is -1; valid: 0 to 4294967295'),
    ({'total_steps': 0}, 'total_steps is 0'),
    ({'recipe.covariance': 'choleski'}, "'choleski'.*cholesky"),
    ({'recipe.blend': 'alpha'}, "'alpha'"),
    ({'recipe.q_steps.log': 65}, 'q_steps.log is 65; valid: 1 to 64'),
    (
      {'recipe.initial_fraction': 0.0},
      'recipe.initial_fraction is 0; valid: numbers above 0',
    ),
    ({'recipe.initial_fraction': 1.5}, 'recipe.initial_fraction is 1.5; valid: 0 to 1'),
    ({'recipe.min_scale': 0.0}, 'recipe.min_scale is 0; valid: numbers above 0'),
    ({'recipe.uniform_fraction': 1.5}, 'recipe.uniform_fraction is 1.5; valid: 0 to 1'),
    ({'recipe.growth_end': 1.0}, 'recipe.growth_end is 1.0; valid: 0 to below 1'),
    ({'recipe.rebin_every': 0}, 'recipe.rebin_every is 0; valid: 1 to'),
    ({'recipe.bin_margin': float('nan')}, 'recipe.bin_margin is nan; valid: a number'),
    ({'recipe.rate_weight': -1.0}, 'recipe.rate_weight is -1.0; valid: 0 or more'),
    ({'recipe.coding': 'vectors'}, "'vectors'.*vector"),
    ({'recipe.rvq_stages': 0}, 'recipe.rvq_stages is 0; valid: 1 to 4'),
    ({'recipe.codebook_size': 1025}, 'recipe.codebook_size is 1025; valid: 0 to 1024'),
    ({'recipe.commitment': 2.0}, 'recipe.commitment is 2.0; valid: 0 to 1'),
    ({'recipe.quality_layers': 5}, 'recipe.quality_layers is 5; valid: 1 to 4'),
    ({'recipe.quality_layers': 2, 'recipe.coding': 'vector'}, 'quality_layers is for'),
    ({'data.crop': -1}, 'crop'),
  ],
)
def test_bad_configuration_is_one_line_that_names_the_key(changes, message):
  with pytest.raises(CodaxError, match=message):
    task.plan(config(**changes))


def test_keys_of_the_recipe_reach_the_fit():
  made = config(
    **{'recipe.num_growths': 7, 'recipe.q_steps.fine': 3, 'recipe.min_scale': 0.9}
  )
  recipe = task.plan(made)[0].settings.recipe
  assert (recipe.num_growths, recipe.q_steps.fine, recipe.min_scale) == (7, 3, 0.9)


def test_stopped_fit_is_made_again(tmp_path, monkeypatch):
  changed = config(**{'counts': (20,)})
  whole = task.encode.encode_image

  def half(image, plan, **more):
    found = whole(image, plan, **more)
    return found._replace(stop_reason='signal')

  monkeypatch.setattr(task.encode, 'encode_image', half)
  outcome = run_all(changed, tmp_path)
  assert outcome.stopped == 'signal' and not list(tmp_path.rglob('*.cdx'))
  monkeypatch.setattr(task.encode, 'encode_image', whole)
  outcome = run_all(changed, tmp_path)
  assert outcome.stopped is None and len(outcome.images) == 1


@pytest.mark.parametrize('changes', [{'counts': (20, 21)}, {'bpps': (0.5, 0.8)}])
def test_signal_while_a_file_is_written_ends_the_run_at_once(
  tmp_path, monkeypatch, changes
):
  """Its fit is stored: the same command makes that file again, and keeps others."""
  write, calls = task.encode.write, []

  def signalled(*args):
    if list(tmp_path.rglob('*.cdx')) and not calls:
      calls.append(args)
      os.kill(os.getpid(), signal.SIGTERM)
    return write(*args)

  monkeypatch.setattr(task.encode, 'write', signalled)
  with pytest.raises(signals.Interrupted), signals.listen():
    run_all(config(**changes), tmp_path)
  (whole,) = tmp_path.rglob('*.cdx')
  before = whole.stat().st_mtime_ns
  outcome = run_all(config(**changes), tmp_path)
  assert outcome.stopped is None and len(outcome.images) == 2
  assert whole.stat().st_mtime_ns == before


def test_targets_out_of_reach_are_left_out(tmp_path, monkeypatch):
  """And not tried again; the others have their files."""
  whole, tried = task.encode.encode_image, []

  def encode(image, plan, **more):
    tried.append(plan.bpp)
    if plan.bpp < 0.1:
      raise OutOfReach(f'bpp {plan.bpp:g} is out of reach: the least is 0.2')
    return whole(image, plan._replace(bpp=None, count=20), **more)

  monkeypatch.setattr(task.encode, 'encode_image', encode)
  changed, folder = config(bpps=(0.01, 1.0)), tmp_path / 'some'
  for _ in range(2):
    outcome = run_all(changed, folder)
    assert tried == [0.01, 1.0]
    (one,) = outcome.images
    assert one.label.endswith('_1bpp') and outcome.stopped is None
    (line,) = outcome.missed
    assert line.endswith('_0.01bpp: bpp 0.01 is out of reach: the least is 0.2')
    missed, made = csv.DictReader((folder / 'metrics.csv').open())
    assert missed['label'].endswith('_0.01bpp') and 'out of reach' in missed['missed']
    assert missed['psnr'] == missed['file_bpp'] == made['missed'] == ''
    assert float(made['psnr']) == pytest.approx(one.encoded.details['psnr'])
  with pytest.raises(CodaxError, match='no target is in reach; .*the least is 0.2'):
    run_all(config(bpps=(0.01,)), tmp_path / 'none')


def test_images_with_codebooks_of_one_size_share_a_bucket():
  changes = {'recipe.coding': 'vector', 'max_batch': 0}
  names = lambda **more: {
    name: [job.settings.count for job in found]
    for name, found in run.make_buckets(task.plan(config(**changes, **more)), 0).items()
  }
  # at most one entry for each Gaussian, and up to 499 of them 128
  assert names(counts=(450, 499, 500, 512, 1, 2)) == {
    '48x48_512_128': [450, 499], '48x48_512_256': [500, 512],
    '48x48_64_1': [1], '48x48_64_2': [2],
  }  # fmt: skip
  # codebooks may begin with fewer Gaussians
  early = {'recipe.qat_start': 0.2}
  assert len(names(counts=(450, 460), **early)) == 2
  changes['recipe.coding'] = 'scalar'
  assert names(counts=(450, 512)) == {'48x48_512': [450, 512]}


def test_facts_of_codebooks_are_in_rows_and_metrics(tmp_path):
  (job,) = task.plan(config(counts=(20,)))
  groups = {
    name: {'entries': [4, 3], 'distortion': value}
    for name, value in (('shape', 0.5), ('colour', 2.5))
  }
  details = {
    'seconds': 1.0, 'source': {}, 'psnr': 30.0, 'vectors': groups,
    'initial_distortion': {'shape': 1.0, 'colour': 3.0}, 'attribute_ratio': 7.5,
  }  # fmt: skip
  done = {job.label: Encoded(b'', job.image, 0.0, details)}
  (one,) = run._collect(task.PER_IMAGE, [job], done, tmp_path).images
  (row,) = csv.DictReader((tmp_path / 'metrics.csv').open())
  found = [row[k] for k in ('shape_distortion', 'colour_distortion', 'attribute_ratio')]
  assert found == ['0.5', '2.5', '7.5'] and row['missed'] == ''
  for key in ('vectors', 'initial_distortion', 'attribute_ratio'):
    assert one.facts[key] == details[key]


@pytest.mark.slow
def test_images_fitted_together_have_files_as_each_by_itself(tmp_path, monkeypatch):
  changes = {'counts': (40, 100), 'data.limit': 2, 'total_steps': 100}
  alone = run_all(config(**changes), tmp_path / 'alone')
  changed = config(**changes, max_batch=0)
  # files are not made, and the fits are kept
  monkeypatch.setattr(task.encode, 'encode_image', lambda *_, **__: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run_all(changed, tmp_path / 'both')
  monkeypatch.undo()
  (kept,) = (tmp_path / 'both' / 'buckets').iterdir()  # of 2 images and 64 slots
  once = task.PER_IMAGE._replace(fit=_once(bucket_fit.fit_bucket))
  monkeypatch.setattr(task, 'PER_IMAGE', once)
  both = run_all(changed, tmp_path / 'both')
  assert len(list(kept.parent.iterdir())) == 2
  (line,) = writers.read(kept / writers.METRICS)
  assert line['step'] == 100 and line['train/gaussians'] == 40
  names = [one.label for one in both.images]
  assert names == [one.label for one in alone.images] and len(names) == 4
  for one, other in zip(both.images, alone.images, strict=True):
    assert families.decode(one.encoded.data).shape == (48, 48, 3)
    found, wanted = one.encoded.details, other.encoded.details
    assert found['fitted_together'] == 2 and found['gaussians'] == wanted['gaussians']
    assert found['psnr'] == pytest.approx(wanted['psnr'], abs=0.5)
    assert found['file_bpp'] == pytest.approx(wanted['file_bpp'], rel=0.05)


def test_stored_fits_are_as_they_were(tmp_path):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  books = ((draw(5, 3), draw(4, 3)), (draw(5, 3), draw(2, 3)))
  plain = render.Gaussians(draw(9, 2), draw(9, 3), draw(9, 3), draw(3))
  vector = plain._replace(books=books)
  facts = fit_state.FitFacts(
    coded=[1, 2], psnr_float=float('inf'), missing_pair_share=0.1
  )
  stages = [fit_state.Stage('seeded', 0, vector), fit_state.Stage('grown', 5, plain)]
  fits = [
    bucket_fit.StoredFit(fit_state.FitResult(plain, facts), stages),
    bucket_fit.StoredFit(fit_state.FitResult(vector, fit_state.FitFacts(lost=3)), []),
  ]
  store.save(tmp_path / 'a', *bucket_fit.pack(fits), 2.5)
  with store.open_store(tmp_path / 'a') as held:
    found = bucket_fit.unpack(held.arrays, held.facts)
  assert held.seconds == 2.5 and held.source['hardware']['platform'] == 'cpu'
  assert [each.result.facts for each in found] == [each.result.facts for each in fits]
  assert [stage[:2] for stage in found[0].stages] == [('seeded', 0), ('grown', 5)]
  assert jax.tree.structure(found) == jax.tree.structure(fits)
  jax.tree.map(np.testing.assert_array_equal, found, fits)


def _once(function):
  """The function, for one call only."""
  calls = []

  def once(*args, **kwargs):
    assert not calls, 'called again'
    calls.append(args)
    return function(*args, **kwargs)

  return once


def test_negative_max_batch_is_refused(tmp_path):
  with pytest.raises(CodaxError, match='max_batch is -1; valid: 0'):
    run_all(config(max_batch=-1), tmp_path)


class Killed(Exception):
  """Stands for a process that is killed right after a checkpoint."""


@pytest.mark.parametrize(
  ('changes', 'kills'),
  [
    ({'counts': (60,)}, (1, 2)),
    pytest.param(
      {'counts': (60,), 'recipe.coding': 'vector', 'recipe.codebook_size': 12},
      (3,),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {'counts': (60, 61), 'max_batch': 0, 'recipe.quality_layers': 2},
      (2, 1),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_fit_killed_at_checkpoints_ends_with_the_same_bytes(
  tmp_path, monkeypatch, changes, kills
):
  """Growth, chosen steps of quantization, codebooks, capacities, random numbers."""
  made = config(total_steps=125, log_every=25, checkpoint_every=25, **changes)
  run_all(made, tmp_path / 'whole')
  save, fail_at = store.save_checkpoint, []

  def killed(*args):
    save(*args)
    fail_at[0] -= 1
    if not fail_at[0]:
      raise Killed

  for kill in kills:
    fail_at[:] = [kill]
    with monkeypatch.context() as patched:
      patched.setattr(store, 'save_checkpoint', killed)
      with pytest.raises(Killed):
        run_all(made, tmp_path / 'cut')
  monkeypatch.setattr(fit, 'init_state', lambda *_: pytest.fail('begun again'))
  run_all(made, tmp_path / 'cut')
  names = [p.relative_to(tmp_path / 'whole') for p in (tmp_path / 'whole').rglob('*')
           if p.suffix in ('.cdx', '.png') or p.name == 'metrics.jsonl']  # fmt: skip
  assert sum(name.suffix == '.cdx' for name in names) == len(changes['counts'])
  for name in names:
    if name.name not in ('loss.png', 'rate.png'):
      whole, cut = ((tmp_path / x / name).read_bytes() for x in ('whole', 'cut'))
      assert whole == cut, name


def test_fit_out_of_time_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
  changes = {'counts': (40,), 'total_steps': 100}
  run_all(config(**changes), tmp_path / 'whole')
  with clocks.time_runs_out(monkeypatch):
    outcome = run_all(config(**changes), tmp_path / 'cut')
  assert outcome.stopped == 'max_seconds' and not list(tmp_path.rglob('cut/**/*.cdx'))
  (bucket,) = (tmp_path / 'cut' / 'buckets').iterdir()
  assert checkpoints.newest(bucket / store.CHECKPOINTS) == 25
  assert run_all(config(**changes), tmp_path / 'cut').stopped is None
  (whole,), (cut,) = ((tmp_path / x / 'files').glob('*.cdx') for x in ('whole', 'cut'))
  assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize(
  ('family', 'override', 'message'),
  [
    ('splat', 'at_once=0', 'at_once was renamed.*max_batch'),
    ('overfit_mlp', 'at_once=0', 'at_once was renamed.*max_batch'),
    ('splat', 'recipe.how=sum', 'recipe.how was renamed.*recipe.blend'),
    ('splat', 'recipe.steps.luma=3', 'steps.luma was renamed.*recipe.q_steps.luma'),
  ],
)
def test_old_key_on_the_command_line_is_answered_with_the_new_one(
  family, override, message, tmp_path
):
  command = ['train.py', f'--config={ROOT}/configs/{family}.py']
  with pytest.raises(CodaxError, match=message):
    load('train').main([*command, f'--config.{override}', f'--workdir={tmp_path}'])


@pytest.mark.parametrize('old', defaults.RENAMED)
def test_old_key_in_a_config_file_is_answered_with_the_new_one(old):
  changed = config()
  section, value = changed, 1
  if '.' in old:
    section = changed.recipe
  if old.count('.') == 2:  # a key of a section whose name is old too
    value = {old.split('.')[-1]: 1}
  with section.unlocked():
    section[old.split('.')[1] if '.' in old else old] = value
  new = defaults.RENAMED[old]
  new = new if old.count('.') < 2 else 'recipe.q_steps'
  with pytest.raises(CodaxError, match=f'was renamed to {new}$'):
    task.make_plans(changed)


def test_config_file_writes_out_the_defaults():
  assert config_file().get_config('full') == defaults.get('full')

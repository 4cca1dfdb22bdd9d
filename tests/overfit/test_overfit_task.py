"""`launch/train.py` with images as the data set: files, sheets, resuming, errors."""

import importlib.util
import json
import shutil
import types
from pathlib import Path
from unittest import mock

import clocks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import SMALL, photo

from codax import codec, errors, families, fitting
from codax.errors import CodaxError
from codax.overfit import codec as overfit_codec
from codax.overfit import (
  defaults,
  divergence,
  encode,
  latent_rounding,
  parsing,
  presets,
  task,
  train,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import stream
from codax.overfit.presets import TrainConfig
from codax.per_image import result, store
from codax.per_image import run as per_image_run
from codax.training import checkpoints

ROOT = Path(__file__).parents[2]
CONFIGS = ['overfit_mlp', 'overfit_kan', 'overfit_pwl']
# Of so small a lambda that a few steps come to more than one color.
LMBDAS = '--config.lmbdas=(1e-6,1e-5)'
QUICK = [
  '--config.total_steps=24', '--config.stage2_steps=4', '--config.steps_per_call=8',
  '--config.log_every=8', '--config.eval_every=16', '--config.checkpoint_every=16',
  '--config.data.split=all', '--config.arch.grids=3', '--config.arch.context=6',
  '--config.arch.synthesis=(5,)', '--config.arch.entropy=(6,)',
  '--config.arch.convs=1', '--config.recipe.optimizer=adam',  # quick to compile
]  # fmt: skip


def launch(*args):
  """`launch/train.py` in this process; returns its exit status."""
  path = ROOT / 'launch' / 'train.py'
  spec = importlib.util.spec_from_file_location('launch_train', path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return errors.exit_status(lambda: script.main(['train.py', *map(str, args)]))


def load_config(name):
  """Imports a file of `configs/`."""
  path = ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two images of one size and one of another."""
  top = tmp_path_factory.mktemp('images')
  for i, size in enumerate([(20, 24), (20, 24), (16, 12)]):
    Image.fromarray(photo(*size, seed=i)).save(top / f'p{i}.png')
  return top


def run(folder, workdir, *more, config='overfit_mlp'):
  return launch(
    f'--config={ROOT}/configs/{config}.py', f'--workdir={workdir}',
    '--config.data.name=folder', f'--config.data.path={folder}', *QUICK, *more,
  )  # fmt: skip


@pytest.fixture(scope='module')
def finished(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  assert run(folder, workdir, LMBDAS) == 0
  return workdir


def check_trained(data):
  """That a file is of more than the mean color."""
  payload = stream.payload_size(data)
  assert payload > 100
  assert len(np.unique(families.decode(data).reshape(-1, 3), axis=0)) > 20


def test_each_image_and_lambda_has_file_report_and_row(finished, folder):
  labels = {f'p{i}.png_{lmbda}' for i in range(3) for lmbda in ('1e-06', '1e-05')}
  rows = json.loads((finished / 'results.json').read_text())['rows']
  ours = [row for row in rows if row['codec'] == 'overfit']
  assert {row['point'] for row in ours} == {'lmbda 1e-06', 'lmbda 1e-05'}
  ours = {f'{row["image"]}_{row["lmbda"]:g}': row for row in ours}
  assert set(ours) == labels
  for label in labels:
    data = (finished / 'files' / f'{label}.cdx').read_bytes()
    sheet = json.loads((finished / 'files' / f'{label}.json').read_text())
    assert ours[label]['bytes'] == len(data) == sheet['file_bytes']
    assert sheet['lmbda'] == float(label.split('_')[1])
    original = np.asarray(Image.open(folder / label.split('_')[0]))
    assert families.decode(data).shape == original.shape
    check_trained(data)
    assert sheet['steps'] == 24 and 0 < sheet['steps_per_second'] < 1e5
    assert (finished / 'files' / f'{label}.md').read_text().startswith(f'# {label}')
  assert {p.name for p in (finished / 'buckets').iterdir()} == {'24x20', '12x16'}
  assert (finished / 'buckets' / '24x20' / 'loss.png').stat().st_size > 0


@pytest.mark.parametrize('count', [1, 2])
def test_sheet_is_printed_for_one_image_alone(finished, capsys, count):
  path = next((finished / 'files').glob('*.json'))
  encoded = result.load_encoded(finished, path.stem, families.decode)
  image = result.EncodedImage(path.stem, encoded.reconstruction, encoded, {})
  done = result.RunResult(None, [image] * count)
  args = types.SimpleNamespace(config={}, workdir=finished)
  with mock.patch.object(per_image_run, 'run', return_value=done):
    fitting.fit_images(task, families.family('overfit'), args)
  text = capsys.readouterr().out
  assert ('| status of training | complete |' in text) == (count == 1)
  assert ('| stage 2 begins | 2' in text) == (count == 1)


def test_command_given_again_says_that_the_run_is_complete(finished, folder, capsys):
  before = {p: p.stat().st_mtime_ns for p in finished.rglob('*.cdx')}
  assert run(folder, finished, LMBDAS) == 0
  assert 'the run is complete' in capsys.readouterr().out
  assert before == {p: p.stat().st_mtime_ns for p in finished.rglob('*.cdx')}


@pytest.mark.slow
def test_sheet_of_reference_has_both_stages_and_the_end_of_the_rule(folder, tmp_path):
  more = (
    '--config.data.limit=2', '--config.recipe.stage2_patience=1',
    '--config.recipe.stage2_decay=0.01', '--config.recipe.stage2_min_lr=1e-5',
    '--config.recipe.stage2_lr=1.0', '--config.stage2_steps=8',
  )  # fmt: skip
  config = 'overfit_pwl.py:fast-reference'
  args = [f'--config={ROOT}/configs/{config}', f'--workdir={tmp_path / "r"}']
  args += ['--config.data.name=folder', f'--config.data.path={folder}', *QUICK, *more]
  assert launch(*args, '--config.lmbdas=(1e-5,)') == 0
  sheets = sorted((tmp_path / 'r' / 'files').glob('*.json'))
  assert len(sheets) == 2
  for path in sheets:
    facts = json.loads(path.read_text())['stage2']
    # a rate of 1 leads to no lower loss: cut after cut, to the end and the best
    assert facts['best_loss_after'] <= facts['best_loss_before']
    assert facts['end'] == 'learning rate' and facts['ended_at'] <= 24
    assert facts['lr'] < 1e-5 and facts['lr_cuts'] == 3
    text = path.with_suffix('.md').read_text()
    assert '| ended by | learning rate |' in text
  bucket = tmp_path / 'r' / 'buckets' / '24x20'
  lines = [json.loads(x) for x in (bucket / 'metrics.jsonl').read_text().splitlines()]
  lines = [line for line in lines if 'train/lr' in line]
  assert lines[-1]['train/noise'] == 0 and lines[0]['train/noise'] > 1


@pytest.mark.slow
def test_run_out_of_time_goes_on_to_the_same_files(
  finished, folder, tmp_path, monkeypatch
):
  with clocks.time_runs_out(monkeypatch):
    assert run(folder, tmp_path / 'r', LMBDAS) == 0
  assert not (tmp_path / 'r' / 'results.json').exists()
  (bucket,) = (tmp_path / 'r' / 'buckets').iterdir()  # the second was not begun
  assert checkpoints.newest(bucket / 'checkpoints') == 8
  assert run(folder, tmp_path / 'r', LMBDAS) == 0
  for path in finished.rglob('*.cdx'):
    assert path.read_bytes() == (tmp_path / 'r' / 'files' / path.name).read_bytes()


def test_run_with_a_missing_file_writes_that_one_alone(finished, folder, tmp_path):
  shutil.copytree(finished, tmp_path / 'r')
  (tmp_path / 'r' / 'results.json').unlink()
  (tmp_path / 'r' / 'files' / 'p1.png_1e-05.json').unlink()
  with mock.patch.object(encode, 'write', wraps=encode.write) as write:
    assert run(folder, tmp_path / 'r', LMBDAS) == 0
  assert write.call_count == 1
  for path in (finished / 'files').glob('*.cdx'):
    assert path.read_bytes() == (tmp_path / 'r' / 'files' / path.name).read_bytes()


def test_workdir_of_other_images_is_refused(finished, folder, tmp_path, capsys):
  shutil.copytree(finished, tmp_path / 'r')
  shutil.copytree(folder, tmp_path / 'p')
  (tmp_path / 'r' / 'results.json').unlink()
  source = f'--config.data.path={folder}'  # as it was begun
  Image.fromarray(photo(20, 24, seed=9)).save(tmp_path / 'p' / 'p1.png')
  with mock.patch.object(task, 'load_images', lambda *_: _of(tmp_path / 'p')):
    assert run(folder, tmp_path / 'r', LMBDAS, source) == 2
  assert 'p1.png changed' in capsys.readouterr().err


def _of(folder):
  return [(p.name, np.asarray(Image.open(p))) for p in sorted(folder.iterdir())]


@pytest.mark.slow
def test_bad_images_are_passed_over_and_named_if_asked(folder, tmp_path, capsys):
  shutil.copytree(folder, tmp_path / 'p')
  whole = (folder / 'p0.png').read_bytes()
  (tmp_path / 'p' / 'cut.png').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'p' / 'text.png').write_text('no image')
  assert run(tmp_path / 'p', tmp_path / 'r', LMBDAS) == 2
  assert '2 images cannot be used' in capsys.readouterr().err
  assert run(tmp_path / 'p', tmp_path / 'r', LMBDAS, '--config.data.skip_bad=True') == 0
  out = capsys.readouterr().out
  results = json.loads((tmp_path / 'r' / 'results.json').read_text())
  assert {x['image'] for x in results['passed_over']} == {'cut.png', 'text.png'}
  assert out.count('passed over: ') == 2
  assert {x['image'] for x in results['rows']} == {'p0.png', 'p1.png', 'p2.png'}
  ours = [x for x in results['rows'] if x['codec'] == 'overfit']
  table = (tmp_path / 'r' / 'metrics.csv').read_text().splitlines()
  column = table[0].split(',').index('psnr_above_one_color')
  gains = sorted(float(line.split(',')[column]) for line in table[1:])
  assert gains == pytest.approx(sorted(x['psnr_above_one_color'] for x in ours))
  assert ('nearly one color' in out) == (gains[0] < 3)


def stored(workdir, bucket='24x20'):
  """The fits of a bucket."""
  with store.open_store(workdir / 'buckets' / bucket / store.FILE) as held:
    return task.unpack(held.arrays, held.facts)


def test_store_of_another_number_of_fits_is_damaged(finished):
  file = finished / 'buckets' / '24x20' / store.FILE
  fits, held = per_image_run._load_fits(task.PER_IMAGE, file, 4)
  assert len(fits) == 4 and held.source['hardware']['platform'] == 'cpu'
  with pytest.raises(CodaxError, match='is damaged: it holds 4 fits, not 6'):
    per_image_run._load_fits(task.PER_IMAGE, file, 6)


def test_fits_packed_and_unpacked_are_the_same():
  init = jax.jit(train.init, static_argnums=(1, 2))
  state = init(
    jax.random.key(0), SMALL, TrainConfig(), np.full((2, 13, 18, 3), 0.4, np.float32)
  )
  params = jax.device_get(jax.tree.map(lambda x: x[1], state.params))
  shape = params['latents'].shape
  latents = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  latents[0] = 1e3  # beyond what a file holds
  params['latents'] = latents
  before = encode.FitResult(params, 1e-3 / 3, 7, 12.5, None)
  arrays, facts = task.pack([before, before])
  first, second = task.unpack(arrays, json.loads(json.dumps(facts)))
  assert first[1:] == second[1:] == before[1:]
  for module in ('synthesis', 'entropy'):
    assert set(first.params[module]) == set(params[module])
    for name, value in params[module].items():
      np.testing.assert_array_equal(first.params[module][name], value)
  # files hold rounded latents: these are the same before and after
  rounded = lambda found: np.asarray(latent_rounding.round_latents(found['latents']))
  np.testing.assert_array_equal(rounded(second.params), rounded(params))
  assert np.abs(rounded(first.params)).max() == 255
  arrays[f'0/{task._LATENTS}'] = arrays[f'0/{task._LATENTS}'][:-3]
  with pytest.raises(ValueError, match='latents of fit 0'):
    task.unpack(arrays, facts)


@pytest.mark.slow
def test_failed_problems_begin_again_and_others_stay(folder, tmp_path, caplog):
  real, asked = divergence.has_failed, []

  def has_failed(*args):
    asked.append(args)
    return len(asked) == 2 or real(*args)  # the second problem of the first attempt

  with mock.patch.object(divergence, 'has_failed', has_failed):
    more = ['--config.data.limit=2', '--config.lmbdas=(1e-6,)']
    assert run(folder, tmp_path / 'r', *more) == 0
  assert 'training diverged for p1.png with 1e-06: again with seed 1' in caplog.text
  assert len(asked) == 3
  again = tmp_path / 'r' / 'buckets' / '24x20' / 'again_1'
  assert checkpoints.newest(again / 'checkpoints') == 24
  assert asked[1][0] != asked[2][0]  # errors with the two seeds
  assert len(stored(tmp_path / 'r')) == 2
  for i in range(2):
    check_trained((tmp_path / 'r' / 'files' / f'p{i}.png.cdx').read_bytes())


def test_step_to_infinity_is_skipped_for_its_problem_alone():
  recipe = TrainConfig(optimizer='adam')  # quick to compile
  images = np.stack([photo(12, 16, seed=i) for i in range(3)])
  targets, key = np.float32(images) / 255, jax.random.key(0)
  before = jax.jit(train.init, static_argnums=(1, 2))(key, SMALL, recipe, targets)
  step = jax.jit(train.step, static_argnums=(0, 1))
  args = (jnp.int32(5), jnp.int32(0)), before, targets, jnp.full(3, 1e-3), key
  after, metrics = step(SMALL, recipe, *args)
  broken = np.array(after.params['entropy']['w0'])
  broken[1, 0, 0] = np.inf
  params = {**after.params, 'entropy': {**after.params['entropy'], 'w0': broken}}
  found, seen = jax.jit(divergence.skip_nonfinite)(
    before, after.replace(params=params), metrics, targets
  )
  assert found.skipped.tolist() == [0, 1, 0] and int(found.step) == 1
  for i, source in enumerate((after, before, after)):
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(source.params)):
      np.testing.assert_array_equal(a[i], b[i])
  color = np.var(images[1] / 255, axis=(0, 1)).mean()
  np.testing.assert_allclose(seen['loss'], [metrics['loss'][0], color,
                                            metrics['loss'][2]], rtol=1e-5)  # fmt: skip


@pytest.mark.slow
def test_training_that_always_fails_gives_a_file_of_one_color(folder, tmp_path, caplog):
  more = ['--config.data.limit=1', '--config.recipe.learning_rate=1e6']
  with mock.patch.object(divergence, 'RESTARTS', 1):
    assert run(folder, tmp_path / 'r', *more) == 0
  assert caplog.text.count('training diverged for p0.png') == 2
  assert 'given up' in caplog.text
  (path,) = (tmp_path / 'r' / 'files').glob('*.cdx')
  assert len(np.unique(families.decode(path.read_bytes()).reshape(-1, 3), axis=0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS[1:])
def test_configuration_of_other_networks_trains(config, folder, tmp_path):
  one = ['--config.data.limit=1', '--config.lmbdas=(1e-6,)']
  assert run(folder, tmp_path / 'r', *one, config=config) == 0
  (path,) = (tmp_path / 'r' / 'files').glob('*.cdx')
  assert families.decode(path.read_bytes()).shape == (20, 24, 3)
  check_trained(path.read_bytes())


SWITCHES = [
  '--config.total_steps=16', '--config.recipe.optimizer=soap',
  '--config.weight_rounding=False', '--config.candidates=2', '--config.warm_steps=2',
  '--config.recipe.noise_distribution=kumaraswamy', '--config.recipe.noise=(2.0,1.0)',
  '--config.recipe.clip=all', '--config.pretrained_init=False', '--config.data.limit=1',
]  # fmt: skip


@pytest.mark.slow
def test_run_with_switches_goes_on_to_the_same_file(folder, tmp_path, monkeypatch):
  whole, cut = tmp_path / 'a', tmp_path / 'b'
  assert run(folder, whole, *SWITCHES) == 0
  with clocks.time_runs_out(monkeypatch):
    assert run(folder, cut, *SWITCHES) == 0
  assert not list(cut.rglob('*.cdx'))
  assert run(folder, cut, *SWITCHES) == 0
  (path,) = (whole / 'files').glob('*.cdx')
  assert path.read_bytes() == (cut / 'files' / path.name).read_bytes()


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ('--config.lmbdas=(0.0,)', 'config.lmbdas'),
    ('--config.lmbdas=(1e-3,1.0000001e-3)', 'has one twice'),
    ('--config.recipe.temperature=(0.3,)', 'must be two numbers'),
    ('--config.recipe.temperature=(0.3,0.0)', 'temperatures are above 0'),
    ('--config.stage2_steps=99', 'config.stage2_steps is 99'),
    ('--config.data.crop=-1', 'config.data.crop'),
    ('--config.arch.grids=9', 'grids is 9; valid: 1 to 8'),
    ('--config.recipe.clip_norm=-1.0', 'config.recipe.clip_norm'),
    ('--config.recipe.noise_distribution=kumaraswami', "did you mean 'kumaraswamy'"),
    ('--config.recipe.noise_distribution=kumaraswamy', 'must be 1 or more'),
    ('--config.recipe.clip=non', "did you mean 'none'"),
    ('--config.candidates=0', 'candidates is 0'),
    ('--config.warm_steps=0', 'warm_steps is 0'),
    ('--config.recipe.refresh=0', 'config.recipe.refresh is 0; valid: 1 or more'),
    ('--config.data.name=phots', "did you mean 'photos'"),
  ],
)
def test_bad_setting_is_one_line(change, text, folder, tmp_path, capsys):
  assert run(folder, tmp_path / 'r', change) == 2
  error = capsys.readouterr().err.strip().splitlines()
  assert len([line for line in error if line.startswith('error: ')]) == 1
  assert text in error[-1]


@pytest.mark.parametrize('key', ['arch', 'recipe', 'data'])
def test_unknown_key_of_a_section_is_named(key):
  config = defaults.get('', archs.Arch())
  config.unlock()
  config[key]['nonsense'] = 1
  read = {'arch': parsing.parse_arch, 'recipe': parsing.parse_recipe}.get(key)
  with pytest.raises(CodaxError, match=f'{key}.nonsense'):
    read(config) if read else task.load_images(config.data)


@pytest.mark.parametrize(('old', 'new'), defaults.RENAMED.items())
def test_old_key_of_a_configuration_file_is_answered_with_the_new_one(old, new):
  config = defaults.get()
  config.unlock()
  section, _, key = old.rpartition('.')
  (config[section] if section else config)[key] = 1
  with pytest.raises(CodaxError, match=f'config key {old} was renamed to {new}$'):
    task.plan(config)


@pytest.mark.parametrize('old', ['recipe.law', 'arch.parents', 'hard_steps', 'start'])
def test_old_key_of_the_command_line_is_answered_with_the_new_one(
  old, folder, tmp_path, capsys
):
  assert run(folder, tmp_path / 'r', f'--config.{old}=1') == 2
  new = defaults.RENAMED[old]
  assert f'{old} was renamed to {new}' in capsys.readouterr().err


def test_old_value_of_upsampling_is_answered_with_the_new_one():
  config = defaults.get()
  config.arch.upsampling = 'learnt'
  with pytest.raises(CodaxError, match="'learnt' was renamed to 'learned'"):
    task.plan(config)


def test_renamed_keys_are_none_of_the_configuration():
  config = defaults.get()
  keys = {*config, *(f'{k}.{n}' for k in ('arch', 'recipe') for n in config[k])}
  assert set(defaults.RENAMED.values()) <= keys and not set(defaults.RENAMED) & keys


def test_defaults_are_the_recipe_and_the_presets_of_the_command():
  for name, preset in presets.PRESETS.items():
    config = defaults.get(name)
    assert parsing.stage_steps(parsing.parse_run(config)) == preset.steps
    assert parsing.parse_recipe(config) == presets.TrainConfig()
    assert parsing.parse_arch(config) == preset.arch
    chosen = encode.make_config(codec.Options(preset=name))
    assert (chosen.arch, chosen.stage_steps) == preset
  assert parsing.parse_arch(defaults.get('', archs.Arch())) == archs.PROFILES[1]


def test_crop_is_the_middle_of_the_image():
  source = task.load_images({**defaults.DATA, 'crop': 32, 'limit': 1})
  (name, image) = source[0]
  assert image.shape == (32, 32, 3)
  whole = dict(task.load_images({**defaults.DATA, 'limit': 1}))[name]
  top, left = ((n - 32) // 2 for n in whole.shape[:2])
  np.testing.assert_array_equal(image, whole[top : top + 32, left : left + 32])


@pytest.mark.parametrize('preset', ['', *presets.PRESETS])
def test_configuration_of_perceptrons_writes_out_the_defaults(preset):
  made = load_config('overfit_mlp').get_config(preset)
  assert made.to_dict() == defaults.get(preset).to_dict()


def test_reference_configuration_is_that_of_c3():
  module = load_config('overfit_pwl')
  made = module.get_config('medium-reference')
  assert parsing.parse_arch(made) == archs.C3._replace(activation='pwl')
  recipe = parsing.parse_recipe(made)
  assert (recipe.noise_distribution, recipe.noise, recipe.temperature) == (
    'kumaraswamy', (2.0, 1.0), (0.3, 0.1)
  )  # fmt: skip
  assert (
    recipe.optimizer == 'adam' and recipe.clip == 'all' and not made.pretrained_init
  )
  assert made.total_steps == 10_000
  with pytest.raises(CodaxError, match="did you mean 'reference'"):
    module.get_config('fast-referenc')


@pytest.mark.parametrize('name', overfit_codec.OPTIONS[0].choices)
def test_networks_of_the_option_are_those_of_the_configurations(name):
  kind, _, module = name.partition('-')
  config = load_config(f'overfit_{kind}').get_config(f'fast-{module}' if module else '')
  options = codec.Options(preset='fast', extra={'networks': name})
  assert encode.make_config(options).arch == parsing.parse_arch(config)

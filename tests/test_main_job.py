"""The main job as users do it: train; encode and decode in processes of their own."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from codax import bundle, cli, errors, families
from codax.data import pipeline
from codax.training import flags
from codax.vqvae import task

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('vqvae_*.py'))
# What makes a run of seconds out of one of minutes.
TINY = [
  '--config.total_steps=4', '--config.steps_per_call=2', '--config.log_every=2',
  '--config.data.batch_size=4', '--config.data.crop=16', '--config.data.eval_crops=8',
  '--config.data.scales=(1.0,)', '--config.quantizer.num_codes=16',
  '--config.model.hidden=8', '--config.model.latent_dim=4',
  '--config.model.encoder_blocks=0', '--config.model.decoder_blocks=1',
  '--config.context.hidden=8', '--config.report_images=1',
]  # fmt: skip


def train(*args):
  """`launch/train.py` in this process; returns its exit status."""
  spec = importlib.util.spec_from_file_location(
    'launch_train', ROOT / 'launch' / 'train.py'
  )
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return errors.exit_status(lambda: script.main(['train.py', *args]))


def codax(*args):
  """Runs the `codax` command in a process of its own; returns its standard output."""
  command = [sys.executable, '-m', 'codax.cli', *map(str, args)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout


def codax_in_turn(commands):
  """Runs several `codax` commands in one new process."""
  program = (
    'import json, sys\nfrom codax import cli\n'
    'for argv in json.loads(sys.argv[1]):\n  assert cli.main(argv) == 0, argv'
  )
  command = [sys.executable, '-c', program, json.dumps(commands)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr


def photographs(folder, count=6, size=(40, 56)):
  """Pieces of embedded photographs as a user's own folder."""
  folder.mkdir()
  source = pipeline.source({'name': 'photos'}, 'train')
  for i in range(count):
    image = source[i % len(source)]['image'][40 * i :][: size[0], : size[1]]
    Image.fromarray(image).save(folder / f'image{i}.png')
  return folder


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """A run on a user's own folder."""
  top = tmp_path_factory.mktemp('main')
  folder = photographs(top / 'mine')
  status = train(
    f'--config={ROOT}/configs/vqvae_ba.py', f'--workdir={top}/run',
    '--config.data.name=folder', f'--config.data.path={folder}',
    '--config.data.test_fraction=0.3', *TINY,
  )  # fmt: skip
  assert status == 0
  return top / 'run'


def test_run_leaves_the_files_of_the_readme(run):
  for name in ('config.json', 'metrics.jsonl', 'results.json', 'table.md'):
    assert (run / name).stat().st_size > 0
  assert list((run / 'checkpoints').iterdir())
  assert list((run / 'images').glob('*.png'))
  made = bundle.load(run)
  files = sorted((run / 'files').glob('*.cdx'))
  assert files
  rows = json.loads((run / 'results.json').read_text())['rows']
  ours = [r for r in rows if r['codec'] == 'vqvae']
  assert {r['codec'] for r in rows} == {'vqvae', 'jpeg', 'webp'}
  for row, path in zip(ours, files):
    pixels = families.codec_for(path.read_bytes(), model=made).decode(path.read_bytes())
    assert row['bytes'] == path.stat().st_size
    assert row['bpp'] == pytest.approx(8 * row['bytes'] / pixels[..., 0].size)


def test_complete_run_is_not_run_again(run, capsys):
  before = (run / 'metrics.jsonl').read_bytes()
  config = json.loads((run / 'config.json').read_text())
  status = train(
    f'--config={ROOT}/configs/vqvae_ba.py', f'--workdir={run}',
    '--config.data.name=folder', f'--config.data.path={config["data"]["path"]}',
    '--config.data.test_fraction=0.3', *TINY,
  )  # fmt: skip
  assert status == 0 and 'complete' in capsys.readouterr().out
  assert (run / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize('name', ['vqvae_ba', 'overfit_mlp', 'splat'])
def test_bad_images_are_all_named_before_any_training(name, tmp_path, capfd):
  folder = photographs(tmp_path / 'mine')
  (folder / 'text.png').write_text('no image')
  Image.new('RGBA', (40, 56), (1, 2, 3, 100)).save(folder / 'clear.png')
  whole = (folder / 'image0.png').read_bytes()
  (folder / 'cut.png').write_bytes(whole[: len(whole) // 2])
  split = [] if name == 'vqvae_ba' else ['--config.data.split=all']
  status = train(
    f'--config={ROOT}/configs/{name}.py', f'--workdir={tmp_path}/run',
    '--config.data.name=folder', f'--config.data.path={folder}', *split,
  )  # fmt: skip
  assert status == 2
  error = capfd.readouterr().err.splitlines()[-1]
  # those that are trained on, or all that are to be encoded
  assert 'images cannot be used: ' in error and 'skip_bad=True' in error
  assert sum(f'{bad}.png: ' in error for bad in ('text', 'clear', 'cut')) >= 2
  assert [path.name for path in (tmp_path / 'run').iterdir()] == ['.codax.lock']


@pytest.mark.slow
def test_training_passes_over_bad_images_if_asked(tmp_path, capsys):
  folder = photographs(tmp_path / 'mine')
  bad = {'text.png', 'cut.png', 'cut2.png'}
  whole = (folder / 'image0.png').read_bytes()
  for name in bad:
    (folder / name).write_bytes(whole[: 1 if name == 'text.png' else len(whole) // 2])
  status = train(
    f'--config={ROOT}/configs/vqvae_ba.py', f'--workdir={tmp_path}/run',
    '--config.data.name=folder', f'--config.data.path={folder}',
    '--config.data.test_fraction=0.3', '--config.data.skip_bad=True', *TINY,
  )  # fmt: skip
  assert status == 0
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert {one['image'] for one in results['passed_over']} == bad
  assert len(results['rows']) == 3 and 'passed over: ' in capsys.readouterr().out


SIZES, MODES = [(1, 1), (33, 17), (61, 48)], ['RGB', 'L']


@pytest.fixture(scope='session')
def two_processes(run, tmp_path_factory):
  """A folder of images, their files by one process and what another one decodes."""
  folder = tmp_path_factory.mktemp('two')
  photo = Image.fromarray(pipeline.source({'name': 'photos'}, 'test')[0]['image'])
  names = []
  for (width, height), mode in itertools.product(SIZES, MODES):
    names.append(f'{folder}/{width}{mode}')
    image = photo.crop((90, 30, 90 + width, 30 + height)).convert(mode)
    image.save(f'{names[-1]}.png')
  model = ['--model', str(run)]
  codax_in_turn([['encode', f'{n}.png', '-o', f'{n}.cdx', *model] for n in names])
  codax_in_turn(
    [['decode', f'{n}.cdx', '-o', f'{n}.out.png', *model] for n in names[1:]]
  )
  codax('decode', f'{names[0]}.cdx', '-o', f'{names[0]}.out.png', *model)
  return folder


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('size', SIZES)
def test_image_decoded_by_another_process_is_the_reconstruction(
  run, two_processes, size, mode, capsys
):
  name = f'{size[0]}{mode}'
  cdx = two_processes / f'{name}.cdx'
  decoded = np.asarray(Image.open(two_processes / f'{name}.out.png'))
  # the encoder's own reconstruction, made in a third process: this one
  image = np.asarray(Image.open(two_processes / f'{name}.png'))
  again = families.get('vqvae', model=run).encode(image)
  assert again.data == cdx.read_bytes()
  np.testing.assert_array_equal(decoded, again.reconstruction.reshape(decoded.shape))
  assert cli.main(['info', str(cdx), '--json']) == 0
  facts = json.loads(capsys.readouterr().out)
  assert facts['bpp'] == 8 * cdx.stat().st_size / (size[0] * size[1])
  assert (facts['width'], facts['height']) == size
  assert facts['entropy_model'] in ('static', 'context')


def test_pillow_opens_a_file_to_the_decoded_pixels(run, monkeypatch):
  import codax.pillow_plugin  # noqa: F401

  monkeypatch.setenv('CODAX_MODEL', str(run))
  path = sorted((run / 'files').glob('*.cdx'))[0]
  with Image.open(path) as image:
    pixels = np.asarray(image)
  data = path.read_bytes()
  np.testing.assert_array_equal(
    pixels, families.codec_for(data, model=run).decode(data)
  )


@pytest.mark.parametrize(
  'args, text',
  [
    (['--config.quantizer.num_code=3'], 'num_codes'),
    (['--config.context.price_from=0.5'], 'renamed to context.context_cost_from'),
    (['--config.quantizer.revive_below=0.1'], 'renamed to quantizer.revival.below'),
    (['--config.quantizer.name=vq_emma'], 'vq_ema'),
    (['--config.data.name=fotos'], 'photos'),
    (['--config.data.name=folder', '--config.data.path=/nowhere/at/all'], '/nowhere'),
  ],
)
def test_mistake_on_the_command_line_is_one_line_and_status_2(
  args, text, tmp_path, capsys
):
  config = f'--config={ROOT}/configs/vqvae_ba.py'
  assert train(config, f'--workdir={tmp_path}/run', *TINY, *args) == 2
  said = [l for l in capsys.readouterr().err.splitlines() if l.startswith('error: ')]
  assert len(said) == 1 and text in said[0]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize('variant', ['', 'cifar10', 'reference'])
def test_every_configuration_makes_its_task(path, variant):
  args = flags.parse(['train.py', f'--config={path}:{variant}'.rstrip(':')])
  made = task.make(args.config)
  crop = args.config.data.crop
  batch = {'image': jax.ShapeDtypeStruct((8, crop, crop, 3), np.uint8)}
  state = jax.eval_shape(made.init, jax.random.key(0), batch)
  networks = [state.params[name] for name in ('encoder', 'decoder')]
  count = sum(x.size for x in jax.tree.leaves(networks))
  if variant and args.config.model.latent_dim == args.config.model.hidden:
    assert count == 6_962_179
  elif variant:  # with projections to and from the quantizer's channels
    assert 6_962_179 < count < 7_000_000
  else:
    assert 300_000 < count < 500_000
  state, metrics = jax.eval_shape(made.train_step, state, batch, jax.random.key(0))
  assert metrics['loss'].shape == ()


@pytest.mark.slow
def test_cifar10_trains_two_steps_on_mock_data(tmp_path):
  """The real configuration and input path, a thinner model: two cores."""
  import tensorflow_datasets as tfds

  with tfds.testing.mock_data(num_examples=32):
    status = train(
      f'--config={ROOT}/configs/vqvae_ba.py:cifar10', f'--workdir={tmp_path}/run',
      '--config.total_steps=2', '--config.steps_per_call=1', '--config.log_every=1',
      '--config.data.batch_size=8', '--config.model.hidden=16',
      '--config.model.latent_dim=16', '--config.quantizer.num_codes=32',
      '--config.report_images=1', f'--config.data.data_dir={tmp_path}',
    )  # fmt: skip
  assert status == 0
  lines = [json.loads(l) for l in (tmp_path / 'run/metrics.jsonl').open()]
  losses = [l['train/loss'] for l in lines if 'train/loss' in l]
  assert len(losses) == 2 and np.isfinite(losses).all()

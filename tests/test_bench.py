"""launch/bench.py: its figures fit each other, it needs no data, errors are a line."""

import importlib.util
import json
import pathlib
import re
import time

import pytest

from codax import errors
from codax.data import pipeline
from codax.reports import sweep_tables

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f'--config={ROOT}/configs/vqvae_ba.py'
TINY = [
  '--config.data.batch_size=4', '--config.data.crop=16', '--config.model.hidden=8',
  '--config.model.latent_dim=4', '--config.model.encoder_blocks=0',
  '--config.model.decoder_blocks=1',
  '--config.quantizer.num_codes=16', '--config.context.enabled=False',
]  # fmt: skip


@pytest.fixture(scope='module')
def bench():
  path = ROOT / 'launch' / 'bench.py'
  spec = importlib.util.spec_from_file_location('launch_bench', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.slow
def test_bench_train_figures_fit_each_other(bench, tmp_path, capsys):
  out = tmp_path / 'bench.json'
  assert bench.main(['train', CONFIG, '--steps=6', f'--out={out}', *TINY]) == 0
  found = json.loads(out.read_text())
  assert found['data'] == 'random, on the device' and found['batch'] == '4 of 16 x 16'
  assert found['steps_timed'] == 6 and found['compile_s'] > 0
  assert found['images_per_s'] == pytest.approx(4e3 / found['step_ms'])
  assert 0 <= found['outside_the_step'] < 1 and 0 <= found['input_wait'] <= 1
  share = 1 - found['compiled_step_ms'] / found['step_ms']
  assert found['outside_the_step'] == pytest.approx(max(share, 0))
  # Two for each MAC, three products a layer in training, at least for the decoder's
  # largest layer: 3 x 3 x 8 -> 8 at 4 x 4 positions, 4 images.
  assert found['flops_per_step'] > 2 * 3 * 4 * 16 * 9 * 8 * 8
  rate = found['flops_per_step'] / found['step_ms'] * 1e3
  assert found['flops_per_s'] == pytest.approx(rate)
  assert found['fraction_of_peak'] is None
  assert found['command'].startswith('python launch/bench.py train --config=')
  assert found['hardware']['platform'] == 'cpu' and 'jax' in found['versions']
  text = capsys.readouterr().out
  assert f'images per s        {found["images_per_s"]:.4g}\n' in text
  assert 'fraction of peak    unknown\n' in text


@pytest.mark.slow
def test_bench_train_with_slow_input_reports_the_wait(bench, tmp_path, monkeypatch):
  """A batch takes 60 ms to read, a step far less: the loop says that it waited."""
  make = pipeline.make

  def slow(*args, **kwargs):
    pipe = make(*args, **kwargs)

    def host_batch(*where):
      time.sleep(0.06)
      return pipe.host_batch(*where)

    return pipe._replace(host_batch=host_batch)

  monkeypatch.setattr(pipeline, 'make', slow)
  run = ['train', CONFIG, '--steps=10', f'--out={tmp_path}/b.json', *TINY]
  assert bench.main([*run, '--config.data.max_resident_mb=0']) == 0
  found = json.loads((tmp_path / 'b.json').read_text())
  assert found['data'] == 'random, from the host'
  assert found['input_wait'] > 0.3 and found['outside_the_step'] > 0.3


def test_peak_flops_of_known_devices_are_their_makers(bench):
  peak = bench.peak_flops
  assert peak('NVIDIA H100 80GB HBM3', 'default') == 494.7e12
  assert peak('NVIDIA H100 80GB HBM3', 'float32') == 67e12
  assert peak('NVIDIA H100 PCIe', 'bfloat16') == 756e12
  assert peak('NVIDIA A100-SXM4-40GB', 'tensorfloat32') == 156e12
  assert peak('TPU v5 lite', 'float32') == 197e12
  assert peak('Tesla T4', 'default') == 8.1e12
  assert peak('Tesla T4', 'bfloat16') is None
  assert peak('NVIDIA L40S', 'default') is None and peak('cpu', 'default') is None


@pytest.mark.parametrize(
  ('args', 'text'),
  [
    (['train'], '--config=FILE is missing'),
    (['train', f'{CONFIG}x'], "did you mean '"),
    (['train', CONFIG, '--config.sed=1'], "did you mean 'seed'"),
    (['train', CONFIG, '--stesp=1'], 'stesp'),
    (['train', CONFIG, '--steps=0'], "'0' is not a number of 1 or more"),
    (['train', CONFIG, '--data=real'], "invalid choice: 'real'"),
    (['train', CONFIG, '--config.family=vqvea'], "did you mean 'vqvae'"),
    (['pictures', CONFIG], 'bench.py pictures was renamed to bench.py images'),
    (['trian', CONFIG], "invalid choice: 'trian'"),
    ([], 'BENCH'),
  ],
)
def test_bad_input_is_one_line_and_status_2(bench, args, text, capsys):
  try:
    status = errors.exit_status(lambda: bench.main(args))
  except SystemExit as e:
    status = e.code
  assert status == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: ') and text in lines[0]


@pytest.mark.slow
def test_bench_of_a_codec_that_trains_on_each_image_divides_by_images(
  bench, tmp_path, capsys
):
  out = tmp_path / 'bench.json'
  args = ['images', f'--config={ROOT}/configs/overfit_mlp.py', '--steps=2']
  args += ['--size=12x8', '--count=2', '--config.arch.grids=2', f'--out={out}']
  assert bench.main(args) == 0
  found = json.loads(out.read_text())
  assert found['pictures'] == '2 of 12 x 8' and found['steps_timed'] == 2
  assert found['step_ms_a_picture'] == pytest.approx(found['step_ms'] / 2)
  assert found['flops_per_step'] > 0 and 'step ms' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('args', 'text'),
  [
    ([CONFIG], 'does not train on each image; valid: overfit'),
    ([f'--config={ROOT}/configs/overfit_mlp.py', '--size=12'], 'such as 768x512'),
  ],
)
def test_bench_of_images_with_bad_input_is_refused(bench, args, text, capsys):
  with pytest.raises((errors.CodaxError, SystemExit)) as caught:
    bench.main(['images', *args])
  assert text in str(caught.value) + capsys.readouterr().err


def test_bench_decode_names_all_bad_files_before_it_times(bench, tmp_path):
  (golden,) = (ROOT / 'tests/golden/overfit_1').glob('bare.cdx')
  (tmp_path / 'cut.cdx').write_bytes(golden.read_bytes()[:-3])
  bad = [str(tmp_path / name) for name in ('cut.cdx', 'none.cdx')]
  with pytest.raises(errors.CodaxError, match='^2 files cannot be used: ') as e:
    bench.main(['decode', str(golden), *bad])
  assert all(f'{path}: ' in str(e.value) for path in bad)


def test_bench_decode_of_golden_files_reports_each(bench, tmp_path, capsys):
  golden = sorted((ROOT / 'tests' / 'golden' / 'splat_1').glob('*.cdx'))[:2]
  out = tmp_path / 'bench.json'
  args = ['decode', *map(str, golden), '--times=2', f'--out={out}']
  assert bench.main(args) == 0
  found = json.loads(out.read_text())
  assert [row['file'] for row in found['decoded']] == [path.name for path in golden]
  for row, path in zip(found['decoded'], golden, strict=True):
    assert row['bytes'] == path.stat().st_size
    width, height = map(int, row['size'].split(' x '))
    per_pixel = 1e3 * row['decode_ms'] / (width * height)
    assert row['decode_us_a_pixel'] == pytest.approx(per_pixel) and row['decode_ms'] > 0
  with pytest.raises(errors.CodaxError, match='does not know --tims=2'):
    bench.main([*args, '--tims=2'])


def test_bench_activations_reports_the_named_ones(bench, tmp_path, capsys):
  out = tmp_path / 'bench.json'
  args = ['activations', '--channels=2', '--size=3x2', '--count=1', '--times=1']
  args += ['--only=bezier', '--only=bezier_split']
  assert bench.main([*args, f'--out={out}']) == 0
  found = json.loads(out.read_text())
  rows = {row['activation']: row for row in found['activations']}
  assert set(rows) == {'bezier', 'bezier_split'}
  # 9 taps, 2 channels in, 5 x 2 out; 4 points for each of 2 channels
  assert rows['bezier_split']['parameters'] == 9 * 2 * 10
  assert rows['bezier']['parameters'] == 9 * 2 * 2 + 4 * 2
  assert all(row['step_ms'] > 0 and row['alone_step_ms'] > 0 for row in rows.values())
  assert 'images              1 of 3 x 2\n' in capsys.readouterr().out
  table = sweep_tables.activation_times([{**found, 'name': 'b'}])
  assert '| `bezier_split` | 180 |' in re.sub(' +', ' ', table)
  with pytest.raises(errors.CodaxError, match="did you mean 'bezier'"):
    bench.main(['activations', '--only=bezir'])


def test_bench_kan_reports_the_named_layers(bench, tmp_path, capsys):
  out = tmp_path / 'bench.json'
  args = ['kan', '--shape=6x5', '--grid=4', '--batch=3', '--times=1']
  args += ['--only=bspline', '--only=dense, same shape']
  assert bench.main([*args, f'--out={out}']) == 0
  found = json.loads(out.read_text())
  assert (found['kind'], found['shape'], found['batch']) == ('layer_times', '6 to 5', 3)
  rows = {row['layer']: row for row in found['layers']}
  # an edge has a base weight, G + 3 coefficients and a scale
  assert rows['bspline']['parameters'] == 6 * 5 * (1 + 7 + 1)
  assert rows['dense, same shape']['parameters'] == 6 * 5
  assert all(row['forward_ms'] > 0 and row['step_ms'] > 0 for row in rows.values())
  assert 'layer bspline, parameters 270, ' in capsys.readouterr().out
  table = sweep_tables.layer_times([{**found, 'name': 'b'}])
  assert '| bspline | 270 |' in re.sub(' +', ' ', table)
  with pytest.raises(errors.CodaxError, match="did you mean 'bspline'"):
    bench.main(['kan', '--only=bsplin'])

"""Encoding and decoding of images, as a user meets it; few steps, small networks."""

import json
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tiny import SMALL, networks, photo

from codax import cli, families, rate_control, signals
from codax import codec as codecs
from codax.errors import CodaxError, OutOfReach
from codax.metrics import distortion
from codax.overfit import codec, encode, network_init, presets, report, train
from codax.overfit.format import arch as archs
from codax.overfit.presets import Steps, TrainConfig

QUICK = encode.EncodeConfig(arch=SMALL, stage_steps=Steps(60, 10))
# Where the optimiser does not matter: half the time to compile.
ADAM = TrainConfig(optimizer='adam')


@pytest.fixture(scope='module')
def encoded():
  image = photo(24, 32)
  return image, encode.encode_image(image, QUICK)


def test_file_decodes_to_the_reconstruction(encoded):
  image, found = encoded
  np.testing.assert_array_equal(codec.decode(found.data), found.reconstruction)
  assert distortion.psnr(image, found.reconstruction) > 20


def test_estimated_bits_are_those_of_the_file(encoded):
  _, found = encoded
  actual = 8 * len(found.data)
  assert abs(found.estimated_bits - actual) < 0.01 * actual + 64


def test_report_has_every_figure(encoded):
  image, found = encoded
  facts = found.details
  assert facts['pixels'] == 24 * 32
  assert facts['latents'] == 24 * 32 + 12 * 16 + 6 * 8
  assert facts['file_bytes'] == len(found.data)
  assert facts['psnr'] == distortion.psnr(image, found.reconstruction)
  assert facts['float_psnr'] >= facts['psnr'] - 0.5
  parts = facts['bits']
  assert parts['total'] == sum(v for k, v in parts.items() if k != 'total')
  assert parts['latents'] == pytest.approx(sum(facts['grid_bits']))
  assert facts['bpp']['total'] == parts['total'] / facts['pixels']
  assert facts['loss'] == pytest.approx(
    facts['distortion'] + facts['lmbda'] * facts['bpp']['total']
  )
  assert facts['macs_per_pixel']['total'] == archs.macs(SMALL, 24, 32).total
  assert facts['steps'] == 70
  page = report.markdown(facts, 'an image')
  assert f'| file, bytes | {len(found.data)} |' in page
  assert f'{facts["psnr"]:.3f}' in page


def test_report_has_the_lines_of_the_source(encoded):
  facts = encoded[1].details
  assert facts['source_loss'] == pytest.approx(
    facts['distortion'] + facts['lmbda'] * facts['bpp']['latents']
  )
  assert facts['float_source_loss'] == pytest.approx(
    facts['float_distortion'] + facts['lmbda'] * facts['float_latent_bpp']
  )
  assert facts['float_latent_bpp'] * facts['pixels'] == facts['float_latent_bits']
  macs = archs.macs(SMALL, 24, 32)
  assert facts['network_macs_per_pixel'] == macs.entropy + macs.synthesis
  assert facts['status'] == 'complete' and len(facts['fit_id']) == 16
  begin, end = [event['time'] for event in facts['events']]
  assert begin <= end
  page = report.markdown(facts, 'an image')
  assert f'| total without upsampling | {macs.entropy + macs.synthesis:.0f} |' in page
  assert f'| bits of latents before | {facts["float_latent_bits"]:.0f} |' in page
  assert f'| search of quantization steps begins | {begin} |' in page


def test_id_of_a_fit_is_that_of_networks_and_rounded_latents():
  params = networks(SMALL, (8, 8, 3)) | {'latents': np.float32([0.0, 0.01, 0.5])}
  same = params | {'latents': np.float32([0.001, 0.0, 0.5])}  # rounded they are equal
  other = params | {'latents': np.float32([0.0, 0.01, 0.9])}
  assert report.identify(params) == report.identify(same) != report.identify(other)


def test_decoding_imports_no_jax(encoded, tmp_path):
  path = tmp_path / 'x.cdx'
  path.write_bytes(encoded[1].data)
  program = (
    'import sys; import codax; '
    f'image = codax.decode(open({str(path)!r}, "rb").read()); '
    'assert "jax" not in sys.modules; print(image.astype(int).sum())'
  )
  out = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert int(out.stdout) == encoded[1].reconstruction.astype(int).sum()


@pytest.mark.parametrize(
  ('image', 'recipe'),
  [
    (photo(1, 1), TrainConfig()),
    (photo(1, 7, 1), ADAM),
    (np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8), ADAM),
  ],
  ids=['one pixel', 'grey row', 'tiny noise'],
)
def test_odd_images_round_trip(image, recipe):
  plan = QUICK._replace(stage_steps=Steps(30, 5), recipe=recipe)
  found = encode.encode_image(image, plan)
  decoded = codec.decode(found.data)
  assert decoded.shape == image.shape
  np.testing.assert_array_equal(decoded, found.reconstruction)


def test_constant_image_takes_a_few_bytes():
  image = np.full((24, 32, 3), (200, 30, 77), np.uint8)
  found = encode.encode_image(image, QUICK._replace(stage_steps=Steps(10, 2)))
  assert len(found.data) < 60
  assert np.abs(found.reconstruction.astype(int) - image).max() <= 1


def test_file_with_the_same_seed_is_the_same_and_with_another_not(encoded):
  image, found = encoded
  assert encode.encode_image(image, QUICK).data == found.data
  assert encode.encode_image(image, QUICK._replace(seed=1)).data != found.data


def test_file_with_a_larger_lambda_is_smaller(encoded):
  image, found = encoded
  assert len(encode.encode_image(image, QUICK._replace(lmbda=0.03)).data) < len(
    found.data
  )


@pytest.mark.slow
@pytest.mark.parametrize('target', [{'bpp': 1.2}, {'psnr': 33.0}])
def test_target_in_reach_is_met(target):
  image = photo(64, 80)
  chosen = encode.make_config(codecs.Options(**target))
  chosen = chosen._replace(arch=SMALL, recipe=ADAM, stage_steps=Steps(200, 30))
  found = encode.encode_image(image, chosen)
  if 'bpp' in target:
    assert 8 * len(found.data) / image[..., 0].size == pytest.approx(1.2, rel=0.03)
  else:
    assert found.details['psnr'] == pytest.approx(33.0, abs=0.1)


@pytest.mark.parametrize(
  ('target', 'text'),
  [({'bpp': 0.05}, 'bpp 0.05 is out of reach'), ({'psnr': 90.0}, 'the most is')],
)
def test_target_out_of_reach_is_refused_with_the_nearest(encoded, target, text):
  image, _ = encoded
  # rounded plainly, as it is nine times; targets in reach are met with joint rounding
  chosen = QUICK._replace(stage_steps=Steps(20, 4), weight_rounding=False, **target)
  with pytest.raises(OutOfReach, match=text) as e:
    encode.encode_image(image, chosen)
  nearest = e.value.nearest
  np.testing.assert_array_equal(codec.decode(nearest.data), nearest.reconstruction)
  assert nearest.details['target_miss']['reason'] == rate_control.OUT_OF_REACH


def test_write_with_a_rate_too_dear_falls_back_on_one_color():
  """In place of a single file, and beside several among which a target chooses."""
  image = photo(24, 32)
  target = np.float32(image)[None] / 255
  state = train.init(jax.random.key(0), SMALL, ADAM, target)
  params = jax.device_get(jax.tree.map(lambda x: x[0], state.params))
  trained = encode.FitResult(params, 0.9, 0, 0.0, None)
  (flat,) = encode.write(image, SMALL, trained, (1.0,), is_joint=False)
  assert (flat.reconstruction == flat.reconstruction[:1, :1]).all()
  files = encode.write(image, SMALL, trained, (1.0, 4.0), is_joint=False)
  assert len(files) == 3 and files[-1].data == flat.data
  assert all(len(file.data) > len(flat.data) for file in files[:-1])


def test_training_that_diverges_begins_again(encoded, monkeypatch, caplog):
  image, _ = encoded
  real, calls, made = train.dispatch, [], []

  def broken(arch, recipe, stage_steps, state, targets, lmbdas, rng, count):
    state, metrics = real(arch, recipe, stage_steps, state, targets, lmbdas, rng, count)
    calls.append(rng)
    made.append(count)
    if sum(made) <= 25:  # up to the first look at the metrics
      metrics = {**metrics, 'loss': np.array([np.nan])}
    return state, metrics

  monkeypatch.setattr(train, 'dispatch', broken)
  found = encode.encode_image(image, QUICK)
  assert 'diverged' in caplog.text
  assert found.details['steps'] == 70
  assert not np.array_equal(*(np.asarray(k._base_array) for k in (calls[0], calls[-1])))


def test_training_that_always_diverges_is_an_error(encoded, monkeypatch):
  image, _ = encoded
  monkeypatch.setattr(
    train, 'dispatch', lambda *a: (a[3], {'loss': [np.inf], 'mse': [0], 'bpp': [0]})
  )
  with pytest.raises(CodaxError, match='diverged 4 times'):
    encode.encode_image(image, QUICK)


def test_encode_with_a_reason_to_stop_keeps_the_file_so_far(encoded):
  image, _ = encoded
  found = encode.encode_image(image, QUICK, reason=lambda: 'signal')
  assert found.stop_reason == found.details['stopped'] == 'signal'
  assert found.details['steps'] == 1
  np.testing.assert_array_equal(codec.decode(found.data), found.reconstruction)


def test_encode_without_a_watcher_raises_on_ctrl_c(encoded, monkeypatch):
  image, _ = encoded
  interrupt = lambda *_: signal.raise_signal(signal.SIGINT)
  monkeypatch.setattr(train, 'dispatch', interrupt)
  with pytest.raises(KeyboardInterrupt):
    encode.encode_image(image, QUICK)


def test_correction_that_diverges_leaves_the_file_before_it(encoded, monkeypatch):
  image, _ = encoded
  real, trained = encode.RateSearch.train, []

  def broken(self, is_correction=False):
    if is_correction:
      raise encode._Diverged('the loss is nan')
    trained.append(self)
    real(self)

  monkeypatch.setattr(encode.RateSearch, 'train', broken)
  found = encode.encode_image(image, QUICK._replace(psnr=60.0))
  assert len(trained) == 1
  assert found.stop_reason == found.details['stopped'] == 'diverged'
  assert rate_control.get_miss(found).reason == rate_control.STOPPED
  np.testing.assert_array_equal(codec.decode(found.data), found.reconstruction)


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for steps, of .1 s each, and the first call's 5."""
  real, now, calls = train.dispatch, [100.0], []

  def timed(*args):
    calls.append(args[-1])
    now[0] += 0.1 * args[-1] + (5.0 if len(calls) == 1 else 0.0)
    return real(*args)

  monkeypatch.setattr(train, 'dispatch', timed)
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  return now


def test_seconds_set_the_number_of_steps(encoded, clock):
  image, _ = encoded
  found = encode.encode_image(image, QUICK._replace(seconds=30.0))
  # what was timed, what compiles and what rounds the networks takes its part
  left = 30 - 5.6 - encode._ROUNDING_SECONDS
  assert found.details['steps'] == pytest.approx(left / 0.1 - 40, abs=1)
  assert found.details['stopped'] is None


def test_seconds_too_few_for_compilation_give_a_file_and_a_reason(encoded, clock):
  """A share of the time is trained all the same, and networks are rounded quickly."""
  image, _ = encoded
  found = encode.encode_image(image, QUICK._replace(seconds=5.0))
  assert found.details['steps'] == 12 and found.stop_reason is None
  assert found.details['budget']['usual_steps'] == 70
  text = rate_control.explain_budget(found)
  assert text == (
    '12 of 70 steps fit into 5 s, so the quality is lower; all of them take about 12 s '
    'here; it took 6 s, as compiling alone takes 5 s'
  )
  np.testing.assert_array_equal(codec.decode(found.data), found.reconstruction)
  whole = found._replace(details={'budget': found.details['budget'] | {'steps': 35}})
  assert rate_control.explain_budget(whole) is None


def test_seconds_hold_for_targets_too(encoded, clock):
  image, _ = encoded
  found = encode.encode_image(image, QUICK._replace(seconds=90.0, psnr=32.0))
  assert clock[0] - 100 <= 90 and found.details['stopped'] is None
  assert abs(found.details['psnr'] - 32) <= rate_control.PSNR_TOLERANCE


def test_target_without_time_for_a_correction_says_so(encoded, clock, monkeypatch):
  image, _ = encoded
  short = lambda self: self.step_seconds > 1  # a step takes .1
  monkeypatch.setattr(encode.RateSearch, 'has_time_for_correction', short)
  found = encode.encode_image(image, QUICK._replace(seconds=40.0, psnr=34.0))
  assert abs(found.details['psnr'] - 34) > rate_control.PSNR_TOLERANCE
  assert found.stop_reason == found.details['stopped'] == 'max_seconds'


@pytest.mark.parametrize('lmbda', [1e-7, 2.0])
def test_lambda_out_of_range_is_refused(lmbda):
  with pytest.raises(CodaxError, match='out of range; valid: 1e-06 to 1'):
    encode.make_config(codecs.Options(lmbda=lmbda))


def test_initial_networks_fit_every_kind_of_image(tmp_path):
  arch = archs.PROFILES[1]
  from tiny import networks

  full = networks(arch, (128, 128, 3))
  network_init.save(arch, full, tmp_path / 'saved')
  found = network_init.from_arrays(load_file(tmp_path / 'saved'), arch, 4, 1)
  for t in archs.tensors(arch, 4, 1):
    assert found[t.module][t.name].shape == t.shape
  wanted = full['synthesis']['w0'].astype(np.float16)[:4]
  np.testing.assert_array_equal(found['synthesis']['w0'], wanted)
  assert network_init.networks(SMALL, 3, 3) is None
  known = network_init.networks(archs.PROFILES[2], 4, 1)
  for t in archs.tensors(archs.PROFILES[2], 4, 1):
    assert known[t.module][t.name].shape == t.shape


@pytest.mark.slow
def test_initial_networks_of_grey_images_give_the_mean_of_the_colors(tmp_path):
  from tiny import grids, networks

  from codax.overfit import model

  arch = archs.PROFILES[1]
  full = networks(arch, (128, 128, 3), spread=0.05)
  for name in [n for n in full['synthesis'] if n[0] in 'kc']:
    full['synthesis'][name][:] = 0  # convolutions mix colors
  network_init.save(arch, full, tmp_path / 'saved')
  arrays = load_file(tmp_path / 'saved')
  latents = [np.float32(g) for g in grids(arch, (128, 128, 3))]
  color, grey = (
    model.synthesize(
      network_init.from_arrays(arrays, arch, 7, channels)['synthesis'], arch, latents
    )
    for channels in (3, 1)
  )
  np.testing.assert_allclose(grey[..., 0], color.mean(-1), atol=2e-3)


def test_command_writes_the_file_and_its_details(tmp_path, monkeypatch, capfd):
  from PIL import Image

  from codax import cli

  monkeypatch.setattr(
    encode, 'make_config', lambda options: QUICK._replace(seed=options.seed)
  )
  Image.fromarray(photo(24, 32)).save(tmp_path / 'a.png')
  names = [str(tmp_path / name) for name in ('a.png', 'a.cdx', 'a.json', 'b.png')]
  args = ['encode', names[0], '-o', names[1], '--codec', 'overfit', '--seed', '3']
  assert cli.main([*args, '--details', names[2]]) == 0
  facts = json.loads((tmp_path / 'a.json').read_text())
  assert facts['file_bytes'] == (tmp_path / 'a.cdx').stat().st_size
  assert 'note' not in capfd.readouterr().err
  assert cli.main(['decode', names[1], '-o', names[3]]) == 0
  decoded = np.asarray(Image.open(names[3]))
  assert distortion.psnr(photo(24, 32), decoded) == facts['psnr']


@pytest.fixture
def interrupted(tmp_path, monkeypatch, capfd):
  """Runs `codax encode` with a function in place of a number of steps."""
  from PIL import Image

  from codax import cli

  def run(instead, call):
    real, calls = train.dispatch, []

    def dispatch(*args):
      calls.append(args)
      return instead(real, *args) if len(calls) == call else real(*args)

    monkeypatch.setattr(encode, 'make_config', lambda options: QUICK)
    monkeypatch.setattr(train, 'dispatch', dispatch)
    Image.fromarray(photo(24, 32)).save(tmp_path / 'a.png')
    names = [str(tmp_path / name) for name in ('a.png', 'a.cdx')]
    status = cli.main(['encode', names[0], '-o', names[1], '--codec', 'overfit'])
    return status, *capfd.readouterr()

  return run


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_command_with_a_first_signal_writes_the_file_and_says_so(
  interrupted, tmp_path, name
):
  number = getattr(signal, name)

  def signalled(real, *args):
    signal.raise_signal(number)
    return real(*args)

  status, out, err = interrupted(signalled, 2)
  assert status == 128 + number
  assert 'stopping: a file of the steps so far is written; again: no file' in err
  assert 'steps: the file is as good as they made it' in err
  data = (tmp_path / 'a.cdx').read_bytes()
  assert out.startswith(f'{tmp_path / "a.cdx"}: {len(data)} bytes')
  assert codec.decode(data).shape == (24, 32, 3)


def test_command_with_a_signal_before_the_first_step_writes_no_file(
  interrupted, tmp_path
):
  status, out, err = interrupted(lambda *_: signal.raise_signal(signal.SIGTERM), 1)
  assert (status, out) == (143, '')
  assert err.endswith('interrupted: no file was written\n')
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_command_with_a_second_signal_writes_no_file(
  interrupted, tmp_path, monkeypatch
):
  monkeypatch.setattr(signals, '_SAME_PRESS', 0.05)
  monkeypatch.setattr(signals, '_PATIENCE', 30.0)  # then the process would end

  def twice(*_):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.1)
    signal.raise_signal(signal.SIGINT)

  status, out, err = interrupted(twice, 2)
  assert (status, out) == (130, '')
  assert err.endswith('interrupted: no file was written\n')
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize(
  ('networks', 'wanted'),
  [
    ('mlp', ('dense', 'dense')),
    pytest.param('kan', (8, 4), marks=pytest.mark.slow),
    ('kan-entropy', (8, 'dense')),
  ],
)
def test_networks_flag_makes_files_that_name_their_networks(tmp_path, networks, wanted):
  Image.fromarray(photo(9, 12)).save(tmp_path / 'x.png')
  short = presets.Preset(archs.PROFILES[2], Steps(4, 1))
  with mock.patch.dict(presets.PRESETS, {'fast': short}):
    command = ['encode', f'{tmp_path}/x.png', '-o', f'{tmp_path}/x.cdx']
    more = ['--codec=overfit', '--lmbda=1e-6', f'--networks={networks}']
    assert cli.main([*command, *more]) == 0
  data = (tmp_path / 'x.cdx').read_bytes()
  facts = families.describe(data)
  found = facts['entropy_layers'], facts['synthesis_layers']
  assert tuple(x if x == 'dense' else x['grid'] for x in found) == wanted
  assert (facts['profile'] == 2) == (networks == 'mlp')
  assert families.decode(data).shape == (9, 12, 3)


def test_unknown_networks_are_refused_with_the_valid_ones(tmp_path, capsys):
  Image.fromarray(photo(9, 12)).save(tmp_path / 'x.png')
  command = ['encode', f'{tmp_path}/x.png', '-o', f'{tmp_path}/x.cdx']
  with pytest.raises(SystemExit, match='2'):
    cli.main([*command, '--codec=overfit', '--networks=kam'])
  assert 'kan-entropy' in capsys.readouterr().err
  assert not (tmp_path / 'x.cdx').exists()
  with pytest.raises(CodaxError, match="'kam'.*kan"):
    families.get('overfit', options=codecs.Options(extra={'networks': 'kam'}))
  with pytest.raises(CodaxError, match="'splat' has no option 'networks'"):
    families.get('splat', options=codecs.Options(extra={'networks': 'kan'}))

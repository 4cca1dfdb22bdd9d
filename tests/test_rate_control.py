"""Targets of rate and quality: one tolerance, one search, one ending for all codecs."""

import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from codax import cli, families, rate_control
from codax.baselines import codec as baselines
from codax.codec import Encoded
from codax.errors import OutOfReach
from codax.rate_control import Target, Trial

GOLDEN = Path(__file__).parent / 'golden' / 'vqvae_1'


def make_file(value, **details):
  pixels = np.zeros((8, 8, 3), np.uint8)
  return Encoded(b'x' * 9, pixels, 72.0, {'value': value, 'steps': 1, **details})


# --- The tolerance --------------------------------------------------------------------


@pytest.mark.parametrize(
  ('target', 'measured', 'is_met'),
  [
    (Target(bpp=0.5), 0.5 * 1.029, True),
    (Target(bpp=0.5), 0.5 * 0.971, True),
    (Target(bpp=0.5), 0.5 * 1.031, False),
    (Target(bpp=0.5), 0.5 * 0.969, False),
    (Target(psnr=33.0), 33.09, True),
    (Target(psnr=33.0), 32.91, True),
    (Target(psnr=33.0), 33.11, False),
    (Target(psnr=33.0), 32.89, False),
    (Target(psnr=33.0), math.inf, False),
    (Target(bpp=1e-300), 1e300, False),
  ],
)
def test_tolerance_is_3_percent_or_a_tenth_of_a_db_on_both_sides(
  target, measured, is_met
):
  assert rate_control.is_met(target, measured) == is_met


def test_gap_is_positive_above_the_target():
  assert rate_control.gap(Target(bpp=0.5), 1.0) == pytest.approx(math.log(2))
  assert rate_control.gap(Target(psnr=30.0), 29.0) == -1.0
  assert rate_control.gap(Target(psnr=30.0), math.inf) == 90.0


def test_measure_is_of_the_whole_file_and_the_decoded_image():
  image = np.full((8, 8, 3), 16, np.uint8)
  file = make_file(0)
  assert rate_control.measure(Target(bpp=1.0), image, file) == 8 * 9 / 64
  expected = 10 * math.log10(255**2 / 16**2)
  assert rate_control.measure(Target(psnr=1.0), image, file) == pytest.approx(expected)


# --- The search -----------------------------------------------------------------------

POSITIVE = st.floats(1e-3, 5.0)


@st.composite
def curves(draw):
  """(gap of a setting, bounds, slope, start): rising or falling, a target in reach."""
  low = draw(st.floats(-12.0, 6.0))
  xs = low + np.cumsum([0, *draw(st.lists(st.floats(0.05, 3.0), min_size=1))])
  assume(xs[-1] < 12)
  ys = np.cumsum([0, *(draw(POSITIVE) for _ in xs[1:])])
  wanted = draw(st.floats(0.0, 1.0)) * ys[-1]
  sign = draw(st.sampled_from([-1, 1]))
  bounds = math.exp(xs[0]), math.exp(xs[-1])

  def gap(setting):
    return sign * (float(np.interp(math.log(setting), xs, ys)) - wanted)

  start = math.exp(xs[0] + draw(st.floats(0.0, 1.0)) * (xs[-1] - xs[0]))
  start = min(max(start, bounds[0]), bounds[1])
  return gap, bounds, sign * draw(st.floats(0.05, 10.0)), start


@given(curves(), st.sampled_from([0.5, 2.0, math.inf]))
def test_propose_on_a_monotone_curve_converges_within_bounds(curve, max_move):
  gap, bounds, slope, start = curve
  history = [(start, gap(start))]
  while abs(history[-1][1]) > 0.02:
    new = rate_control.propose(history, bounds, slope, max_move=max_move)
    if new is None:  # only where the curve is as steep as a wall
      nearest = sorted(history, key=lambda one: abs(one[1]))[0][0]
      sides = [gap(min(max(nearest * f, bounds[0]), bounds[1])) for f in (0.998, 1.002)]
      assert min(sides) <= 0.02 and max(sides) >= -0.02
      break
    assert bounds[0] <= new <= bounds[1] and new not in [x for x, _ in history]
    history.append((new, gap(new)))
    assert len(history) < 40


@given(
  st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60),
  st.floats(0.0, 1.0),
  st.floats(0.0, 1.0),
  st.sampled_from([-1, 1]),
)
def test_propose_of_whole_numbers_finds_the_nearest_of_all(rises, share, start, sign):
  values = np.cumsum(rises)
  wanted = values[0] + share * (values[-1] - values[0])
  gaps = sign * (values - wanted)
  history = []
  new = 1 + round(start * (len(values) - 1))
  while new is not None:
    assert 1 <= new <= len(values) and new not in [x for x, _ in history]
    history.append((new, float(gaps[new - 1])))
    new = rate_control.propose(history, (1, len(values)), 2.0 * sign, is_integer=True)
  found = min(abs(y) for _, y in history)
  assert found == pytest.approx(np.abs(gaps).min(), abs=1e-12)


@given(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=30), st.booleans())
def test_propose_with_any_noise_ends_and_repeats_nothing(gaps, is_integer):
  bounds, history, new = (2, 90), [], 40
  for y in gaps:
    history.append((new, y))
    new = rate_control.propose(history, bounds, -1.0, is_integer=is_integer)
    if new is None:
      break
    assert 2 <= new <= 90 and new not in [x for x, _ in history]


@pytest.mark.parametrize('slope', [-0.6, 0.6])
def test_propose_beyond_the_bounds_ends_at_a_bound(slope):
  tried = [(1.0, 3.0)]
  while (new := rate_control.propose(tried, (1e-6, 50.0), slope)) is not None:
    tried.append((new, 3.0 + slope * math.log(new) / 100))
  assert tried[-1][0] == (1e-6 if slope > 0 else 50.0) and len(tried) < 12


def test_propose_between_two_sides_lies_on_the_line_through_them():
  found = rate_control.propose([(1.0, -1.0), (16.0, 3.0)], (0.1, 100.0), 1.0)
  assert found == pytest.approx(2.0)
  # the middle, where one side came twice
  tried = [(16.0, 3.0), (0.5, -1.2), (1.0, -1.0)]
  assert rate_control.propose(tried, (0.1, 100.0), 1.0) == pytest.approx(4.0)


# --- The ending -----------------------------------------------------------------------


def make_trials(*values):
  target = Target(psnr=30.0)
  return target, [
    Trial(i + 1.0, v, rate_control.gap(target, v), make_file(v))
    for i, v in enumerate(values)
  ]


def test_conclude_with_a_met_target_returns_the_nearest_without_a_miss():
  target, tried = make_trials(30.09, 29.95, 33.0)
  found = rate_control.conclude(target, tried, 'signal')
  assert found is tried[1].file and rate_control.get_miss(found) is None


@pytest.mark.parametrize(
  ('values', 'text'),
  [((33.0, 30.2, 31.0), 'the least is 30.2 dB'), ((20.0, 29.8), 'the most is 29.8 dB')],
)
def test_conclude_on_one_side_raises_with_the_nearest_file(values, text):
  target, tried = make_trials(*values)
  with pytest.raises(OutOfReach, match='^psnr 30 is out of reach.*' + text) as e:
    rate_control.conclude(target, tried)
  assert e.value.nearest.details['value'] == tried[1].measured
  assert rate_control.get_miss(e.value.nearest).reason == rate_control.OUT_OF_REACH


def test_conclude_on_both_sides_returns_the_nearest_with_its_miss():
  target, tried = make_trials(31.0, 29.8, 29.0)
  found = rate_control.conclude(target, tried)
  miss = rate_control.get_miss(found)
  assert miss == ('psnr', 30.0, 29.8, rate_control.COARSE) and miss.side == 'below'
  assert found.stop_reason is None and 'target_miss' not in tried[1].file.details
  assert json.loads(json.dumps(found.details))['target_miss']['side'] == 'below'
  assert 'nearest file that was found has 29.8 dB' in rate_control.explain(miss)


@pytest.mark.parametrize('reason', ['signal', 'max_seconds', 'diverged'])
def test_conclude_of_a_stopped_search_returns_the_nearest_with_its_reason(reason):
  target, tried = make_trials(31.0, 33.0)
  found = rate_control.conclude(target, tried, reason)
  assert found.stop_reason == found.details['stopped'] == reason
  miss = rate_control.get_miss(found)
  assert miss.reason == rate_control.STOPPED
  line = rate_control.explain(miss, found.stop_reason)
  assert line == (
    f'psnr 30 was not met when encoding was stopped ({reason}): the file has 31 dB'
  )


def test_lossless_file_counts_as_120_db():
  target, tried = make_trials(math.inf)
  with pytest.raises(OutOfReach) as e:
    rate_control.conclude(target, tried)
  assert rate_control.get_miss(e.value.nearest).reached == 120.0


# --- Time -----------------------------------------------------------------------------


def test_time_budget_counts_from_its_begin(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  budget = rate_control.start_budget(60.0)
  now[0] = 130.0
  assert (budget.spent, budget.left) == (30.0, 30.0)
  assert budget.has_time_for(30.0) and not budget.has_time_for(30.1)
  assert budget.stop() is None and budget.stop(lambda: 'signal') == 'signal'
  now[0] = 160.0
  assert budget.stop() == budget.stop(lambda: None) == 'max_seconds'
  assert rate_control.start_budget(None).has_time_for(1e9)
  assert rate_control.start_budget(None).stop() is None


# --- Every codec, through the command -------------------------------------------------


def fake_vqvae(monkeypatch, make):
  from codax.vqvae import codec as vqvae

  monkeypatch.setattr(vqvae, 'latents', lambda *_: None)
  monkeypatch.setattr(vqvae, 'refine_latents', lambda *_: None)
  fake = lambda model, z, image, lmbda, progress=None: make(lmbda, -1)
  monkeypatch.setattr(vqvae, '_encode_latents', fake)


def fake_overfit(monkeypatch, make):
  import jax.numpy as jnp

  from codax.overfit import encode, train, warm_up

  zero = jnp.zeros((), jnp.int32)
  state = train.State(zero, {}, {}, zero)
  monkeypatch.setattr(warm_up, 'init', lambda *_: state)
  monkeypatch.setattr(encode.RateSearch, 'train', lambda self, **_: None)

  def write(image, arch, trained, factors, *_):
    made = make(trained.lmbda, -1)
    bits = {'synthesis': 1.0, 'entropy': 1.0}
    return [made._replace(details=made.details | {'bits': bits})]

  monkeypatch.setattr(encode, 'write', write)


def fake_splat(monkeypatch, make):
  from codax.splat import encode, fit, fit_state, render, seeding

  def gaussians(count):
    xy = np.ones((seeding.count_slots(count), 2), np.float32)
    xy[count:] = seeding.INACTIVE_XY
    facts = fit_state.FitFacts(steps=1, coded=list(encode.FitConfig().q_steps))
    return render.Gaussians(xy, None, None, None), facts

  monkeypatch.setattr(encode.counts, 'choose_count', lambda *_: 20)
  monkeypatch.setattr(fit, 'run', lambda image, count, *_, **__: gaussians(count))
  again = lambda image, old, count, *_, **__: gaussians(count)
  monkeypatch.setattr(fit, 'resume', again)
  monkeypatch.setattr(encode, 'rank_gaussians', lambda g, *_: seeding.active_indices(g))
  count = lambda g: len(seeding.active_indices(g))
  monkeypatch.setattr(encode, 'write', lambda image, g, *_: make(count(g), 1))


def fake_baseline(monkeypatch, make):
  encoded = lambda image, name, quality, preset: make(quality, 1)
  monkeypatch.setattr(baselines, '_encode', encoded)


FAKES = {'vqvae': fake_vqvae, 'overfit': fake_overfit, 'splat': fake_splat}
NAMES = [*FAKES, *baselines.list_available()]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
  """Runs `codax encode` with an encoder whose files have the values asked for.

  The encoder's `value(setting, sign)` gives the measured value, where files rise with
  the setting for sign 1 and fall for -1. Returns (status, stderr, path of the file).
  """
  measured = lambda target, image, encoded: encoded.details['value']
  monkeypatch.setattr(rate_control, 'measure', measured)
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'in.png')

  def run(name, target, value):
    make = lambda setting, sign: make_file(value(setting, sign))
    FAKES.get(name, fake_baseline)(monkeypatch, make)
    out = tmp_path / f'out{families.family(name).suffixes[0]}'
    argv = ['encode', str(tmp_path / 'in.png'), '-o', str(out), '--codec', name, target]
    if name == 'vqvae':
      argv += ['--model', str(next(GOLDEN.glob('*.safetensors')))]
    status = cli.main(argv)
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return status, ''.join(x for x in lines if 'trains on this image' not in x), out

  return run


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
  ('target', 'value', 'is_met'),
  [
    ('--bpp=2', 2 * 1.029, True),
    ('--bpp=2', 2 * 0.971, True),
    ('--bpp=2', 2 * 1.031, False),
    ('--bpp=2', 2 * 0.969, False),
    ('--psnr=30', 30.09, True),
    ('--psnr=30', 29.91, True),
    ('--psnr=30', 30.11, False),
    ('--psnr=30', 29.89, False),
  ],
)
def test_encoder_meets_a_target_within_tolerance_only(run, name, target, value, is_met):
  status, err, out = run(name, target, lambda setting, sign: value)
  if is_met:
    assert (status, err) == (0, '') and out.exists()
  else:
    assert status == 2 and not out.exists()
    bound = 'least' if value > float(target.partition('=')[2]) else 'most'
    assert 'is out of reach' in err and f'the {bound} is {value:.4g}' in err


@pytest.mark.parametrize('name', NAMES)
def test_encoder_with_files_on_both_sides_writes_the_nearest_with_a_note(run, name):
  """Steps of 10 % at a setting, one side 4 % away and the other 6 %."""
  edge = {'vqvae': 0.011, 'overfit': 2e-4, 'splat': 17.5}.get(name, 33.5)
  value = lambda setting, sign: 2 * (1.06 if (setting > edge) == (sign > 0) else 0.96)
  status, err, out = run(name, '--bpp=2', value)
  assert status == 0 and out.exists()
  assert err == 'note: bpp 2 is not met: the nearest file that was found has 1.92\n'


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('wanted', [1.5, 2.4])
def test_encoder_follows_a_smooth_curve_to_its_target(run, name, wanted):
  start = {'vqvae': 0.05, 'overfit': 3e-4, 'splat': 20}.get(name, 75)
  value = lambda setting, sign: 2 * (setting / start) ** (0.7 * sign)
  status, err, out = run(name, f'--bpp={wanted}', value)
  assert (status, err) == (0, '') and out.exists()


def test_library_call_interrupted_raises(monkeypatch):
  """No codec turns Ctrl-C into a normal return unless its caller watches for it."""
  fake_splat(monkeypatch, lambda *_: signal.raise_signal(signal.SIGINT))
  image = np.zeros((8, 8, 3), np.uint8)
  with pytest.raises(KeyboardInterrupt):
    families.encode(image, 'splat', bpp=1.0)

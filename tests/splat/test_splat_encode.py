"""Fitting and encoding of small images, end to end."""

import time

import numpy as np
import pytest
from PIL import Image

from codax import cli, codec, families, rate_control
from codax.errors import CodaxError, OutOfReach
from codax.metrics import distortion
from codax.splat import (
  binning,
  counts,
  encode,
  fit,
  fit_config,
  fit_state,
  importance,
  quantization,
  render,
  seeding,
  step,
)
from codax.splat.format import container, integer, quality_layers, stream
from codax.splat.target import make_target

RECIPE = fit_config.FitConfig(adaptive_steps=False)
PLAN = encode.EncodeConfig(recipe=RECIPE, total=200)


@pytest.fixture(scope='module')
def fitted(image):
  return fit.run(image, 60, 200, RECIPE, 0)


@pytest.fixture(scope='module')
def encoded(image, fitted):
  return encode.encode_image(image, PLAN._replace(count=60), initial_fit=fitted)


def test_decoded_file_is_the_reconstruction(image, encoded):
  np.testing.assert_array_equal(families.decode(encoded.data), encoded.reconstruction)
  assert abs(8 * len(encoded.data) - encoded.estimated_bits) < 64 * 8
  mean = np.round(image.mean((0, 1))).astype(np.uint8)
  spread = distortion.psnr(image, np.broadcast_to(mean, image.shape))
  assert encoded.details['psnr'] > spread + 10
  assert encoded.details['psnr'] == distortion.psnr(image, encoded.reconstruction)
  assert encoded.details['gaussians'] == 60 and encoded.details['lost'] == 0


def test_quantized_training_image_is_the_decoded_one(image, fitted, encoded):
  """The float image of quantized Gaussians is the decoder's, but for rounding."""
  gaussians = fitted.gaussians
  payload = quantization.to_payload(RECIPE, gaussians, image.shape)
  np.testing.assert_array_equal(integer.render(payload), encoded.reconstruction)
  room = binning.choose_capacity((gaussians,), image.shape[:2], RECIPE, None)
  units = quantization.make_units(RECIPE.covariance, RECIPE.q_steps, 3)
  made = step.render_pixels(gaussians, image.shape[:2], RECIPE, room, units)
  error = np.clip(made, 0, 1) * 255 - integer.render(payload)
  assert np.abs(error).mean() < 0.3


def test_equal_seeds_make_equal_files_and_others_others(image, encoded):
  chosen = PLAN._replace(count=60)
  assert encode.encode_image(image, chosen).data == encoded.data
  assert encode.encode_image(image, chosen._replace(seed=1)).data != encoded.data


def test_bpp_and_psnr_targets_are_met(image):
  """By corrections, of less than 64 Gaussians: programs that other tests have too."""
  pixels = image.shape[0] * image.shape[1]
  found = encode.encode_image(image, PLAN._replace(bpp=0.7, total=100))
  assert 8 * len(found.data) / pixels == pytest.approx(0.7, rel=0.03)
  assert found.details['steps'] > 100
  # of fewer Gaussians, before the corrections
  assert 'psnr_float' not in found.details
  wanted = found.details['psnr'] - 1.2
  found = encode.encode_image(image, PLAN._replace(psnr=wanted, total=100))
  assert found.details['psnr'] == pytest.approx(wanted, abs=0.1)
  assert found.details['stopped'] is None


def test_facts_of_a_continued_fit_are_joined():
  facts = fit_state.FitFacts(lost=3, steps=100, psnr_float=30.0, coded=[1])
  again = fit_state.FitFacts(1, 50, stopped='signal', coded=[1], missing_pair_share=0.1)
  both = encode._join_facts(facts, again)
  assert both.to_details() == {
    'lost': 3, 'steps': 150, 'stopped': 'signal', 'coded': [1],
    'missing_pair_share': 0.1,
  }  # fmt: skip


def test_target_out_of_reach_is_refused_with_the_nearest(image):
  with pytest.raises(OutOfReach, match=r'bpp 0\.01 is out of reach.*the least is'):
    encode.encode_image(image, PLAN._replace(bpp=0.01))


def test_larger_lambda_has_fewer_gaussians(image):
  few, many = (
    counts.choose_count(image, PLAN._replace(lmbda=lmbda)) for lmbda in (1e-2, 1e-4)
  )
  assert many > 2 * few


@pytest.mark.parametrize(
  ('target', 'count'),
  [({'psnr': 5000.0}, 3072), ({'bpp': 1e308}, 3072), ({'lmbda': 1e308}, 8),
   ({'lmbda': 5e-324}, 3072), ({'psnr': 1e-3}, 8), ({'bpp': 1e-300}, 8)],
)  # fmt: skip
def test_extreme_targets_begin_with_extreme_counts(image, target, count):
  assert counts.choose_count(image, PLAN._replace(**target)) == count


def test_requested_count_is_taken_or_refused(image):
  assert counts.choose_count(image, PLAN._replace(count=1)) == 1
  assert counts.choose_count(image, PLAN._replace(count=3072)) == 3072
  for count in (0, 3073):
    with pytest.raises(CodaxError, match=rf'^{count} Gaussians.*64 x 48.*1 to 3072$'):
      encode.encode_image(image, PLAN._replace(count=count))


@pytest.mark.parametrize(('size', 'channels'), [((1, 1), 3), ((1, 9), 1), ((17, 3), 3)])
def test_tiny_images_are_encoded(size, channels):
  rng = np.random.default_rng(0)
  tiny = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
  found = encode.encode_image(tiny, PLAN._replace(total=25))
  np.testing.assert_array_equal(families.decode(found.data), found.reconstruction)
  assert found.reconstruction.shape == tiny.shape


def test_constant_image_is_encoded_well():
  flat = np.full((20, 30, 3), [10, 200, 90], np.uint8)
  # steps are as fine as so good a fit asks for
  found = encode.encode_image(
    flat, PLAN._replace(recipe=fit_config.FitConfig(), total=100)
  )
  assert np.abs(found.reconstruction.astype(int) - flat).max() <= 4
  # its smallest file is better than was asked for
  with pytest.raises(OutOfReach, match='psnr 30 is out of reach.*the least is') as e:
    encode.encode_image(flat, PLAN._replace(psnr=30.0, total=100))
  better = e.value.nearest.details
  assert better['gaussians'] <= 8 and better['psnr'] > 35


def test_quantization_steps_follow_the_error():
  usual = RECIPE.q_steps
  chosen = lambda mse: quantization.adapt_steps('cholesky', usual, mse)
  assert chosen(quantization.REFERENCE_MSE) == usual
  # a quarter of the error, half the steps
  finer = chosen(quantization.REFERENCE_MSE / 4)
  np.testing.assert_allclose(finer[:4], np.array(usual[:4]) / 2, atol=0.5)
  assert chosen(0.1) == usual
  for mse in (0.0, 1e-12, 1.0):
    for kind in integer.COVARIANCES:
      steps = quantization.adapt_steps(kind, usual, mse)
      for name, value in steps._asdict().items():
        low, high = stream.Q_STEP_RANGES[name]
        assert low <= value <= high
  turned = quantization.adapt_steps(
    'rotation', usual._replace(third=128), quantization.REFERENCE_MSE / 8
  )
  assert turned.third in (32, 64)  # a power of two


def test_file_has_the_steps_that_the_fit_chose(image):
  found = encode.encode_image(
    image, PLAN._replace(recipe=fit_config.FitConfig(), count=300, total=100)
  )
  held = container.unpack(found.data).q_steps
  assert list(held) == found.details['coded']
  assert (held.luma < RECIPE.q_steps.luma) == (found.details['psnr_float'] > 33.5)


def test_importance_is_the_error_without_a_gaussian(image):
  """Against leaving out one Gaussian after the other."""
  gaussians, _ = fit.run(image, 24, 100, RECIPE, 0)
  matter = importance.measure_importance(gaussians, make_target(image), RECIPE)
  size, room = (
    image.shape[:2],
    binning.choose_capacity((gaussians,), image.shape[:2], RECIPE, None),
  )
  whole = np.asarray(step.render_pixels(gaussians, size, RECIPE, room))
  lost = []
  for i in range(24):
    xy = np.array(gaussians.xy)
    xy[i] = seeding.INACTIVE_XY
    made = step.render_pixels(gaussians._replace(xy=xy), size, RECIPE, room)
    lost.append(float(np.square(np.asarray(made) - whole).sum()))
  order = np.argsort(np.argsort(matter[:24])), np.argsort(np.argsort(lost))
  assert np.corrcoef(*order)[0, 1] > 0.7


def test_densification_adds_gaussians_where_the_error_is(image):
  rng = np.random.default_rng(0)
  target = make_target(image)
  start = seeding.init_gaussians(target, 40, RECIPE, rng)
  assert (start.xy[:, 0] > 0).sum() == 20
  wrong = target.pixels.copy()
  wrong[30:40, 50:60] = wrong[30:40, 50:60] < 0.5
  state = step.init_state(fit.run(image, 41, 200, RECIPE, 0)[0])
  room = binning.choose_capacity((state.gaussians,), image.shape[:2], RECIPE, None)
  free = np.flatnonzero(np.asarray(state.gaussians.xy[:, 0]) < 0)
  assert len(free) == seeding.count_slots(41) - 41 > 6
  wrong = target._replace(pixels=wrong, ycbcr=quantization.to_ycbcr(wrong))
  one = fit_state.make_image_fit(state, wrong, 47, 41, RECIPE, rng)
  grown = fit.densify(one, 6, room)
  assert grown.num_active == 47
  new = np.asarray(grown.state.gaussians.xy)[free]
  assert (np.abs(new - [55, 35]) < 8).all(1).sum() >= 4
  assert (new[:, 0] < 0).sum() == len(free) - 6


def test_alpha_blend_is_refused(image):
  with pytest.raises(CodaxError, match="not 'alpha'"):
    encode.encode_image(image, PLAN._replace(recipe=RECIPE._replace(blend='alpha')))


def test_count_by_detail_of_flat_and_noisy_images():
  flat = np.zeros((64, 64, 3), np.uint8)
  assert counts.count_by_detail(flat) == round(64 * 64 * 0.0025)
  noise = np.random.default_rng(0).integers(0, 2, (64, 64, 1)) * 255
  assert counts.count_by_detail(noise.astype(np.uint8)) == pytest.approx(41, abs=2)


class Clock:
  """A clock: a call takes a second, two when it quantizes, and ten more at first.

  It compiles then, for both.
  """

  def __init__(self, monkeypatch):
    self.now, self.seen, advance = 0.0, set(), step.advance
    monkeypatch.setattr(time, 'monotonic', self.monotonic)
    monkeypatch.setattr(step, 'advance', lambda *args: self.pass_by(advance, *args))

  def monotonic(self):
    return self.now

  def pass_by(self, advance, *args):
    quantized = bool(args[6][0].is_on)
    self.now += 1 + quantized + 10 * (not self.seen)  # one program for both
    self.seen.add(quantized)
    return advance(*args)


def test_more_seconds_allow_more_steps(image, monkeypatch):
  made = {}
  for seconds in (80, 110):
    clock = Clock(monkeypatch)
    chosen = PLAN._replace(count=60, seconds=float(seconds))
    budget = rate_control.TimeBudget(chosen.seconds, 0.0)
    timing = encode._fit_total(image, 60, chosen, lambda: None, budget)
    assert clock.now == 16  # two calls of each, and compilation
    assert timing.fit is None
    made[seconds], reason = timing.total / 25, timing.reason
    late = seconds + 0.2 * (seconds - 16) + 10  # once more as much compilation
    clock.now = late - 0.5
    assert reason() is None
    clock.now = late + 0.5
    assert reason() == 'max_seconds'
    monkeypatch.undo()
  # what is left after timing, at 1.5 s a call
  assert made == {80: int(0.95 * 64 / 1.5), 110: int(0.95 * 94 / 1.5)}


@pytest.mark.parametrize(('seconds', 'steps'), [(5.0, 50), (16.5, 100)])
def test_seconds_too_few_for_more_give_the_timed_fit(
  image, monkeypatch, seconds, steps
):
  clock = Clock(monkeypatch)
  found = encode.encode_image(image, PLAN._replace(count=60, seconds=seconds))
  assert clock.now <= 16 and found.details['steps'] == steps
  budget = found.details['budget']
  assert budget['steps'] == steps and budget['usual_steps'] == PLAN.total
  text = rate_control.explain_budget(
    found._replace(details={'budget': budget | {'usual_steps': 5000}})
  )
  assert text.startswith(f'{steps} of 5,000 steps fit into {seconds:g} s')
  assert ('compiling alone takes' in text) == (seconds < 10)


@pytest.mark.parametrize('target', [{'bpp': 0.7}, {'psnr': 24.0}, {'count': 60}])
def test_seconds_are_not_exceeded(image, monkeypatch, target):
  clock = Clock(monkeypatch)
  found = encode.encode_image(image, PLAN._replace(seconds=80.0, **target))
  assert clock.now <= 1.2 * 80 + 2
  assert clock.now > 55 or 'count' not in target
  assert found.details['seconds'] == clock.now
  assert found.stop_reason == found.details['stopped']
  # either the target is met, or why it is not
  met = 'count' in target or found.details['stopped'] == 'max_seconds'
  if 'bpp' in target:
    met |= found.details['file_bpp'] == pytest.approx(0.7, rel=0.03)
  if 'psnr' in target:
    met |= found.details['psnr'] == pytest.approx(24.0, abs=0.1)
  assert met


def test_stop_while_a_file_is_written_is_remembered(image, monkeypatch):
  """Without a target the file is whole; with one that it misses, it is not."""
  written, whole = [], encode.write

  def write(*args):
    written.append(whole(*args))
    return written[-1]

  monkeypatch.setattr(encode, 'write', write)
  reason = lambda: 'signal' if written else None
  for target, stopped in (({'count': 60}, None), ({'bpp': 0.5}, 'signal')):
    written.clear()
    chosen = PLAN._replace(total=100, **target)
    found = encode.encode_image(image, chosen, reason=reason)
    assert len(written) == 1 and found.data == written[0].data
    assert written[0].details['stopped'] is None
    assert found.stop_reason == found.details['stopped'] == stopped


@pytest.mark.parametrize('total', [10, 60, 75])
def test_fit_makes_the_requested_number_of_steps(image, total):
  seen, chosen = [], RECIPE._replace(qat_start=1.0)
  gaussians, facts = fit.run(
    image, 60, total, chosen, 0, progress=lambda *done: seen.append(done)
  )
  assert facts.steps == total and len(seen) == -(-total // 25)
  assert len(seeding.active_indices(gaussians)) == 60


def test_pairs_missing_from_the_lists_are_counted(image):
  """A Gaussian that has moved on by a tile, one that grew, one that stayed."""
  xy = np.array([[8, 8], [24, 24], [56, 40]], np.float32)
  one = render.Gaussians(
    xy, np.full((3, 3), np.log(1.2), np.float32) * [[1, 1, 0]], np.zeros((3, 3)), None
  )
  moved = one._replace(xy=xy + np.array([[16, 0], [0, 0], [0, 0]], np.float32))
  grown = one._replace(shape=one.shape + np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]))
  tiles = lambda g, margin=0.0: binning.tile_boxes([g], [(48, 64)], RECIPE, margin)
  share = lambda g: binning.missing_pair_share(tiles(one), tiles(g))[0]
  assert share(one) == 0
  assert share(moved) == pytest.approx(1 / 3)
  # three tiles across, of which one was listed
  assert share(grown) == pytest.approx(2 / 5)
  assert binning.missing_pair_share(tiles(one, 8.5), tiles(grown)) == [0]


def test_stopped_fit_has_a_file(image):
  """A signal ends the fit; the file has the Gaussians so far."""
  calls = []
  reason = lambda: 'signal' if len(calls) >= 2 else None
  gaussians, facts = fit.run(
    image, 60, 200, RECIPE, 0, lambda *done: calls.append(done), reason
  )
  assert facts.stopped == 'signal' and facts.steps == 50
  found = encode.write(image, gaussians, RECIPE, facts)
  np.testing.assert_array_equal(families.decode(found.data), found.reconstruction)


def test_divergence_is_an_error(image):
  with pytest.raises(CodaxError, match='diverged by step 25'):
    fit.run(image, 60, 200, RECIPE._replace(color_lr=float('nan')), 0)


def test_command_line_takes_counts_and_decodes_prefixes(
  image, tmp_path, capsys, monkeypatch
):
  monkeypatch.setitem(encode.TOTAL_STEPS, 'fast', 50)
  png, file, out = (str(tmp_path / n) for n in ('a.png', 'a.cdx', 'b.png'))
  Image.fromarray(image).save(png)
  command = ['encode', png, '-o', file, '--codec=splat', '--count=100']
  assert cli.main([*command, '--preset=fast']) == 0
  data = (tmp_path / 'a.cdx').read_bytes()
  facts = families.describe(data)
  assert facts['gaussians'] == 100
  counts = [p['gaussians'] for p in facts['prefixes']]
  assert counts == [50, 100]
  whole = families.decode(data).astype(float)
  shown = []
  for count in counts:
    assert cli.main(['decode', file, '-o', out, f'--prefix={count}']) == 0
    shown.append(np.asarray(Image.open(out)))
  np.testing.assert_array_equal(shown[1], whole)
  held = container.unpack(data)
  np.testing.assert_array_equal(shown[0], integer.render_prefix(held, 50))
  assert shown[0].shape == whole.shape and (shown[0] != whole).any()
  capsys.readouterr()
  assert cli.main(['decode', file, '-o', out, '--prefix=99']) == 2
  assert 'no prefix has 99 Gaussians; valid: 50, 100' in capsys.readouterr().err


def test_options_of_this_family_are_checked():
  options = codec.Options(extra={'count': 9})
  with pytest.raises(CodaxError, match="'overfit' has no option 'count'"):
    families.get('overfit', options=options)
  with pytest.raises(CodaxError, match='layers must be a whole number from 1 to 4'):
    families.get('splat', options=codec.Options(extra={'layers': 5}))
  with pytest.raises(CodaxError, match='lmbda, bpp, psnr, count, not bpp and count'):
    families.get('splat', options=options._replace(bpp=1.0))
  with pytest.raises(CodaxError, match='count must be a whole number'):
    families.get('splat', options=codec.Options(extra={'count': 1.5}))


def test_first_layer_is_an_image_too(image, fitted, encoded):
  chosen = RECIPE._replace(quality_layers=2)
  found = encode.encode_image(image, PLAN._replace(recipe=chosen, count=60))
  np.testing.assert_array_equal(families.decode(found.data), found.reconstruction)
  psnr = lambda data, count: distortion.psnr(
    image, container.decode_prefix(data, count)
  )
  facts = families.describe(found.data)
  assert facts['layers'] == 2 and facts['profile'] == 1
  counts = [p['gaussians'] for p in facts['prefixes']]
  assert counts == [30, 60] and psnr(found.data, 60) == found.details['psnr']
  first, last = found.details['prefixes']
  assert first['psnr'] == psnr(found.data, 30) and last['psnr'] == psnr(found.data, 60)
  assert [first['bytes'], last['bytes']] == [p['bytes'] for p in facts['prefixes']]
  # the whole is as good; the half is an image, as half of another one is not
  assert found.details['psnr'] > encoded.details['psnr'] - 0.5
  few = encode.encode_image(image, PLAN._replace(count=30))
  assert psnr(found.data, 30) > few.details['psnr'] - 1.5
  gaussians = fitted.gaussians
  halved = importance.rank_layers(gaussians, make_target(image), chosen)
  plain = quantization.to_payload(RECIPE, gaussians, image.shape, halved)
  assert psnr(found.data, 30) > psnr(container.pack(plain)[0], 30) + 1


def test_layers_halve_the_remaining_gaussians():
  order = np.random.default_rng(0).permutation(20)[:13]
  numbers = quality_layers.assign_layers(order, 20, 3)
  assert numbers[order].tolist() == [0] * 3 + [1] * 3 + [2] * 7
  assert (np.delete(numbers, order) == quality_layers.MAX_LAYERS).all()
  # too few for so many
  assert quality_layers.assign_layers(np.array([4]), 5, 4).tolist() == [4, 4, 4, 4, 0]
  assert quality_layers.assign_layers(np.array([1, 0]), 2, 3).tolist() == [1, 0]

"""Rate-distortion optimization of a file's codes."""

import itertools

import numpy as np
import pytest

import codax
from codax import families
from codax.errors import CodaxError
from codax.splat import (
  defaults,
  encode,
  fit_config,
  fit_state,
  rdo,
  rdo_rate,
  rdo_scene,
  task,
)
from codax.splat.format import container, integer, positions
from codax.splat.render import Gaussians

KINDS = list(itertools.product(integer.COVARIANCES, integer.BLENDS, (1, 3)))


def make_payload(covariance='cholesky', blend='normalized', channels=3, count=40):
  """Makes an image of 24 x 20 pixels of random Gaussians."""
  rng = np.random.default_rng(5)
  size = (20, 24, channels)
  cells = np.stack([rng.integers(0, 24, count), rng.integers(0, 20, count)], 1)
  cells = cells[positions.order(cells, size[:2])]
  q_steps = integer.QSteps(9, 12 if covariance == 'cholesky' else 128, 28, 36, 9)
  shape = np.stack([
    rng.integers(3, 14, count), rng.integers(3, 14, count), rng.integers(-5, 6, count)
  ], 1)  # fmt: skip
  # few pixels are to be clipped
  color = rng.integers(-6, 20, (count, channels))
  color[:, 1:] //= 4
  color //= 1 if blend == 'normalized' else 8
  bits = integer.count_fine_bits(integer.whiten(covariance, q_steps, shape), 9)
  fine = rng.integers(0, 1 << bits)
  base = np.full(channels, 90, np.uint8)
  return integer.Payload(
    size, covariance, blend, q_steps, base, cells, fine, shape, color
  )


def make_image(payload):
  """Makes an image like the payload's, uint8 [H, W, C]."""
  rng = np.random.default_rng(6)
  near = payload._replace(
    color=payload.color + rng.integers(-2, 3, payload.color.shape)
  )
  noise = rng.normal(0, 6, payload.size)
  return np.clip(integer.render(near) + noise, 0, 255).astype(np.uint8)


def squared_error(payload, image):
  return int(((integer.render(payload).astype(int) - image) ** 2).sum())


def cost(payload, image, weight):
  return squared_error(payload, image) + weight * 8 * len(container.pack(payload)[0])


@pytest.mark.parametrize(('covariance', 'blend', 'channels'), KINDS)
def test_scene_has_the_decoders_pixels(covariance, blend, channels):
  payload = make_payload(covariance, blend, channels)
  image = make_image(payload)
  scene = rdo_scene.make_scene(payload, image)
  made = integer.render(payload)
  np.testing.assert_array_equal(scene.levels.transpose(1, 2, 0), made)
  assert scene.squared_error == squared_error(payload, image)
  error = np.clip(scene.pixels, 0, 255).transpose(1, 2, 0) - made
  assert np.abs(error).max() < 0.6  # rounding


def test_code_lengths_are_the_coders():
  payload = make_payload(count=200)
  codes = rdo_rate.join_channels(payload)
  links = rdo_rate.find_links(payload.cells)
  models = rdo_rate.fit_models(codes, payload.cells)
  found = rdo_rate.sum_bits(links, models, codes).sum(1)
  _, bits = container.pack(payload)
  np.testing.assert_allclose(found, [*bits.shape, *bits.color], rtol=1e-12)


def test_bits_of_changed_codes_are_those_of_all_codes_again():
  payload = make_payload(count=120)
  codes = rdo_rate.join_channels(payload)
  codes[4, 17] = 2046  # an escape, near the end of the range
  links = rdo_rate.find_links(payload.cells)
  models = rdo_rate.fit_models(codes, payload.cells)
  whole = rdo_rate.sum_bits(links, models, codes)
  offsets = np.array([0, -3, 1, 3])
  for one in (0, 17, 60, 119):
    found, own = rdo_rate.compare_codes(links, models, codes, one, offsets)
    np.testing.assert_allclose(own, whole[:, one])
    for channel, k in itertools.product(range(6), range(4)):
      changed = codes.copy()
      changed[channel, one] += offsets[k]
      if changed[channel, one] > 2047:
        assert found[channel, k] == np.inf
        continue
      again = rdo_rate.sum_bits(links, models, changed)
      assert found[channel, k] == pytest.approx((again - whole).sum(), abs=1e-9)


@pytest.mark.parametrize(('covariance', 'blend', 'channels'), KINDS)
def test_estimated_errors_are_near_those_of_decoded_moves(covariance, blend, channels):
  """The oracle renders the whole image again for every move."""
  payload = make_payload(covariance, blend, channels)
  image = make_image(payload)
  scene = rdo_scene.make_scene(payload, image)
  found, exact = [], []
  for one in (3, 20, 36):
    moves = rdo._make_moves(payload, one)
    estimate = rdo_scene.estimate(scene, one, moves.white, moves.where)
    for k in np.flatnonzero(moves.is_valid):
      moved = rdo_scene.copy_codes(payload)
      moved.shape[one], moved.fine[one] = moves.shape[k], moves.fine[k]
      moved.color[one, 0] += 1
      rgb = integer.to_rgb(moved.color, payload.q_steps) / 64
      step = rgb[one] - integer.to_rgb(payload.color, payload.q_steps)[one] / 64
      found.append(
        estimate.change[k] + 2 * estimate.slope[k] @ step
        + estimate.curvature[k] * (step**2).sum()
      )  # fmt: skip
      exact.append(squared_error(moved, image) - scene.squared_error)
      change = measure(scene, payload, moved, one)
      assert change.squared_error == exact[-1]
  assert np.corrcoef(found, exact)[0, 1] > 0.98


def measure(scene, before, after, one):
  """Returns the exact change of a move in its box."""
  white, where = [], []
  for payload in (before, after):
    white.append(integer.whiten(payload.covariance, payload.q_steps, payload.shape))
    where.append(integer.compute_centers(payload, white[-1]))
  white, where = (np.stack(x)[:, one] for x in (white, where))
  box = rdo_scene.find_box(white, where, before.size)
  weights = rdo_scene.weigh(white, where, box)
  return rdo_scene.measure(scene, box, *weights, before.color[one], after.color[one])


@pytest.mark.parametrize(('covariance', 'blend', 'channels'), KINDS)
def test_optimization_lowers_the_cost_of_the_file(covariance, blend, channels):
  payload = make_payload(covariance, blend, channels)
  image, before = make_image(payload), rdo_scene.copy_codes(payload)
  found = rdo.optimize(payload, image, 3, 1.0)
  for name in ('cells', 'fine', 'shape', 'color'):  # the argument is left alone
    np.testing.assert_array_equal(getattr(payload, name), getattr(before, name))
  weight = found.facts['weight']
  first, last = (cost(p, image, weight) for p in (payload, found.payload))
  assert last < 0.97 * first
  assert found.facts['squared_error'][1] == squared_error(found.payload, image)
  data = container.pack(found.payload)[0]
  assert found.facts['bytes'][1] == len(data)
  np.testing.assert_array_equal(families.decode(data), integer.render(found.payload))
  assert found.facts['moves'] > 10 and found.stopped is None


def test_optimum_of_one_gaussian_is_no_worse_than_any_single_move():
  """The oracle tries every single move of a file of one Gaussian."""
  payload = make_payload(channels=1, count=1)
  image = make_image(payload)
  found = rdo.optimize(payload, image, 20, 0.0).payload
  least = squared_error(found, image)
  for axis, step in itertools.product(range(3), (-3, -1, 1, 3)):
    moved = rdo_scene.copy_codes(found)
    moved.shape[0, axis] += step
    bits = [
      integer.count_fine_bits(integer.whiten('cholesky', p.q_steps, p.shape), 9)
      for p in (found, moved)
    ]
    if (bits[0] == bits[1]).all():
      assert squared_error(moved, image) >= least
  for step in (-3, -2, -1, 1, 2, 3):
    moved = found._replace(color=found.color + step)
    assert squared_error(moved, image) >= least


def test_superfluous_gaussians_are_left_out():
  payload = make_payload()
  twice = payload._replace(**{
    name: np.repeat(getattr(payload, name), 2, axis=0)
    for name in ('cells', 'fine', 'shape', 'color')
  })  # fmt: skip
  image = make_image(payload)
  found = rdo.optimize(twice, image, 2, 1.0)
  assert found.facts['deleted'] >= 1
  assert len(found.payload.cells) == 80 - found.facts['deleted']
  one = make_payload(count=1)
  assert len(rdo.optimize(one, image, 1, 100.0).payload.cells) == 1


def test_reason_ends_an_optimization_at_once():
  payload = make_payload()
  found = rdo.optimize(payload, make_image(payload), 3, 1.0, lambda: 'signal')
  assert found.stopped == 'signal' and found.facts['moves'] == 0
  assert found.payload is payload


def test_encoder_writes_the_optimized_file():
  payload = make_payload()
  image = make_image(payload)
  rng = np.random.default_rng(1)
  gaussians = Gaussians(
    rng.uniform(1, 19, (30, 2)).astype(np.float32),
    rng.uniform(0.3, 1.2, (30, 3)).astype(np.float32),
    rng.uniform(0.2, 0.6, (30, 3)).astype(np.float32),
    np.full(3, 0.4, np.float32),
  )
  recipe, facts = fit_config.FitConfig(), fit_state.FitFacts()
  plain = encode.write(image, gaussians, recipe, facts)
  better = encode.write(image, gaussians, recipe._replace(rdo_sweeps=1), facts)
  assert 'rdo' not in plain.details
  facts = better.details['rdo']
  assert facts['bytes'] == [
    container.parse(e.data) and len(e.data) for e in (plain, better)
  ]
  assert better.details['gaussians'] == 30 - facts['deleted']
  np.testing.assert_array_equal(families.decode(better.data), better.reconstruction)


@pytest.mark.parametrize(
  ('preset', 'extra', 'sweeps'),
  [(None, {}, 0), ('fast', {}, 0), ('medium', {}, 8), ('full', {}, 8),
   ('medium', {'layers': 2}, 0), ('medium', {'rdo': 0}, 0), ('fast', {'rdo': 3}, 3)],
)  # fmt: skip
def test_presets_choose_the_sweeps(preset, extra, sweeps):
  config = encode.make_config(codax.codec.Options(preset=preset, extra=extra))
  assert config.recipe.rdo_sweeps == sweeps
  if not extra:
    assert defaults.get(preset or '').recipe.rdo_sweeps == sweeps


def test_hostile_options_are_refused():
  options = codax.codec.Options(extra={'rdo': 2, 'layers': 2})
  with pytest.raises(CodaxError, match='layers has no rdo'):
    encode.make_config(options)
  for value in (-1, 65, 1.5):
    with pytest.raises(CodaxError, match='rdo'):
      families.get('splat', options=codax.codec.Options(extra={'rdo': value}))
  for changes in (
    {'rdo_sweeps': 65}, {'rdo_sweeps': -1},
    {'rdo_sweeps': 1, 'quality_layers': 2}, {'rdo_sweeps': 1, 'coding': 'vector'},
  ):  # fmt: skip
    config = defaults.get('')
    config.recipe.update(changes)
    with pytest.raises(CodaxError, match=r'config\.recipe\.rdo_sweeps'):
      task.parse_recipe(config.to_dict())

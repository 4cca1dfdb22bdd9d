"""Programs of few shapes: images of different sizes share them, and few are kept."""

import gc
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from codax.programs import KEPT_PADDED
from codax.splat import (
  binning,
  encode,
  fit,
  fit_config,
  qat_inputs,
  quantization,
  render,
  seeding,
  step,
  tiles,
)
from codax.splat.target import TiledTarget, make_target, tile_target

COUNT = 21
RECIPE = fit_config.FitConfig(initial_fraction=1.0)


def crop(height, width):
  return skimage.data.astronaut()[60 : 60 + height, 190 : 190 + width]


@pytest.fixture
def compiled():
  """Names of the programs that were compiled since the test began."""
  for each in (binning._bin_many, step.advance, step._render):
    each.programs.cache_clear()
  names = []

  def listen(event, seconds, **about):
    del seconds
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(about.get('fun_name'))

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize('n', [1, 63, 64, 65, 96, 97, 128, 1000, 123_457])
def test_ladder_has_few_numbers_and_none_is_far(n):
  found = tiles.round_to_ladder(n, 64, 2)
  assert n <= found < max(1.5 * n, 65)
  assert tiles.round_to_ladder(found, 64, 2) == found
  # 64, 96, 128, 192, 256, ...
  assert found & (found - 1) == 0 or (found // 3) & (found // 3 - 1) == 0


def image_space_loss(gaussians, image, lists):
  """The squared error of the assembled image, by definition."""
  size, recipe = image.shape[:2], RECIPE
  made = render.render_image(gaussians, lists, size, recipe.covariance, recipe.blend)
  return jnp.mean((quantization.to_pixels(made) - image.astype(np.float32) / 255) ** 2)


@pytest.mark.parametrize('size', [(16, 16), (33, 47), (100, 61)])
def test_padded_loss_and_gradients_are_those_of_the_image(size):
  """Against unpadded arrays of the same Gaussians, and against the whole image."""
  image = crop(*size)
  target = make_target(image)
  full = seeding.init_gaussians(target, COUNT, RECIPE, np.random.default_rng(0))
  padded, tiled = jax.tree.map(jnp.asarray, (full, tile_target(target)))
  (lists,), room = binning.bin_images([padded], [size], RECIPE, 1.5)
  count = int(np.prod(tiles.count_tiles(*size)))
  assert len(padded.xy) == 64 and room.tiles == len(tiled.ycbcr) == 64 > count

  own = padded._replace(**{k: getattr(padded, k)[:COUNT] for k in ('xy', 'shape')})
  own = own._replace(color=padded.color[:COUNT])
  exact_room = tiles.Capacity(room.pairs, room.chunks, count)
  exact = jax.jit(
    lambda g: binning.bin_to_tiles(g, size, exact_room, RECIPE, 1.5),
  )(own)
  cut = TiledTarget(tiled.size, tiled.ycbcr[:count])
  measure = jax.jit(
    jax.value_and_grad(lambda g, *a: step.compute_loss(g, *a, RECIPE)[0])
  )
  found, slopes = measure(padded, lists, tiled)
  others = (
    measure(own, exact, cut),
    jax.jit(jax.value_and_grad(lambda g: image_space_loss(g, image, exact)))(own),
  )
  for (loss, wanted), near in zip(others, (1e-5, 1e-4), strict=True):
    assert float(found) == pytest.approx(float(loss), rel=near)
    for name in ('xy', 'shape', 'color'):
      slope, want = np.asarray(getattr(slopes, name)), np.asarray(getattr(wanted, name))
      atol = near * np.abs(want).max()
      np.testing.assert_allclose(slope[:COUNT], want, rtol=near, atol=atol)
      assert not slope[COUNT:].any()


def test_steps_before_quantization_are_those_without_it():
  """The program that quantizes makes the same steps when that is off."""
  image = crop(48, 64)
  begun = lambda: fit.init_fit(make_target(image), COUNT, RECIPE, 0)
  one = begun()
  lists, _ = binning.bin_images([one.state.gaussians], [(48, 64)], RECIPE, 1.5)
  idle, steps = qat_inputs.make_idle([one]), (np.int32(100), np.int32(7))
  assert not idle[0].is_on and idle[0].rate_model is not None
  made = [
    step.advance((begun().state,), (one.tiled,), lists, *steps, RECIPE, qat)
    for qat in (None, idle)
  ]
  (plain,), (off,) = made[0][0], made[1][0]
  assert int(plain.step) == int(off.step) == 7
  np.testing.assert_allclose(made[0][1], made[1][1], rtol=1e-4)
  np.testing.assert_allclose(plain.gaussians.xy, off.gaussians.xy, atol=1e-3)
  # and quantization makes others
  on = step.advance(
    (begun().state,), (one.tiled,), lists, *steps, RECIPE, qat_inputs.make([one])
  )[0]
  assert np.abs(on[0].gaussians.shape - plain.gaussians.shape).max() > 1e-3


def test_images_of_other_sizes_compile_nothing(compiled):
  """Sizes of as many tiles or fewer, counts of as many slots, any quantization."""
  run = lambda size, count: encode.encode_image(
    crop(*size), encode.EncodeConfig(fit_config.FitConfig(), total=75, count=count)
  )
  run((48, 64), 20)
  first = len(compiled)
  assert sum('advance' in str(name) for name in compiled) == 1
  assert 3 <= first <= 12
  for size, count in (((50, 41), 33), ((64, 48), 60), ((17, 100), 9), ((80, 80), 40)):
    run(size, count)
  assert compiled[first:] == []


def test_images_of_different_sizes_share_a_bucket():
  images, total = [crop(48, 64), crop(40, 50)], 50
  both = fit.run_many(images, [20, 25], total, RECIPE, 0)
  for image, count, found in zip(images, (20, 25), both, strict=True):
    alone = fit.run(image, count, total, RECIPE, 0)
    assert found.facts.psnr_float == pytest.approx(alone.facts.psnr_float, abs=0.3)
    xy = found.gaussians.xy[seeding.active_indices(found.gaussians)]
    assert (xy < image.shape[1::-1]).all() and len(xy) == count


def measure_memory():
  """Returns the resident memory of this process in MiB."""
  gc.collect()
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return int(next(x for x in lines if x.startswith('VmRSS')).split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='Linux only')
def test_images_of_many_sizes_compile_few_programs_and_free_them(compiled):
  """A loop over images of twelve sizes, as a user's folder has them."""
  rng, counts, memory = np.random.default_rng(0), [], []
  for _ in range(12):
    image = crop(*rng.integers(96, 191, 2))
    before = len(compiled)
    encode.encode_image(image, encode.EncodeConfig(total=50))
    counts.append(len(compiled) - before)
    memory.append(measure_memory())
  assert sum(counts[6:]) <= 2 * counts[0], counts
  assert counts.count(0) >= 4, counts
  assert memory[-1] - memory[2] < 150, memory
  for each in (binning._bin_many, step.advance, step._render):
    assert each.programs.cache_info().currsize <= KEPT_PADDED

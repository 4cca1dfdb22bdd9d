"""Least-squares colors against NumPy's, and the rate model against files."""

import jax
import numpy as np
import pytest
import skimage.data

from codax.splat import (
  binning,
  fit,
  fit_config,
  quantization,
  rate_model,
  render,
  seeding,
  solve,
  step,
)
from codax.splat.format.container import pack
from codax.splat.target import make_target, tile_target

SIZE = (48, 64)


@pytest.fixture(scope='module')
def target():
  """float32 [48, 64, 3], of a photograph."""
  return skimage.data.astronaut()[60:108, 190:254].astype(np.float32) / 255


def begun(target, blend: str):
  """The Gaussians of a start, and the recipe."""
  chosen = fit_config.FitConfig(blend=blend, initial_fraction=1.0)
  rng = np.random.default_rng(3)
  image = np.round(255 * target).astype(np.uint8)
  return seeding.init_gaussians(make_target(image), 21, chosen, rng), chosen


def tiled(target):
  """The image as programs take it."""
  return tile_target(make_target(np.round(255 * target).astype(np.uint8)))


@pytest.mark.parametrize('blend', ['sum', 'normalized'])
def test_solved_colors_are_those_of_least_squares(target, blend):
  gaussians, chosen = begun(target, blend)
  own = quantization.to_ycbcr(target)
  (lists,), room = binning.bin_images([gaussians], [SIZE], chosen, 0.0)
  solved = solve.solve_colors(gaussians, tiled(target), lists, chosen, 200)

  @jax.jit
  def rendered(color, base):
    changed = gaussians._replace(color=color, base=base)
    lists = binning.bin_to_tiles(changed, SIZE, room, chosen, 0.0)
    return render.render_image(changed, lists, SIZE, chosen.covariance, blend)

  active = seeding.active_indices(gaussians)
  columns = []  # contribution of a color of 1 to the image, Gaussian by Gaussian
  for i in active:
    one = np.zeros(gaussians.color.shape, np.float32)
    one[i, 0] = 1
    columns.append(np.asarray(rendered(one, np.zeros(3, np.float32)))[..., 0].ravel())
  matrix = np.stack(columns, 1).astype(np.float64)
  nothing = np.asarray(rendered(0 * gaussians.color, gaussians.base), np.float64)
  # damping pulls colors a little to their old values
  stay = np.sqrt(solve.DAMPING) * np.eye(len(active))
  for c in range(3):
    rest = (own - nothing)[..., c].ravel()
    wanted = np.linalg.lstsq(
      np.concatenate([matrix, stay]),
      np.concatenate([rest, stay @ gaussians.color[active, c]]),
      rcond=None,
    )[0]
    np.testing.assert_allclose(solved.color[active, c], wanted, atol=2e-3)


def test_few_iterations_improve_the_image(target):
  gaussians, chosen = begun(target, 'normalized')
  (lists,), room = binning.bin_images([gaussians], [SIZE], chosen, 0.0)
  made = lambda g: step.render_pixels(g, SIZE, chosen, room)
  psnr = lambda g: fit.psnr(made(g), target)
  solved = solve.solve_colors(gaussians, tiled(target), lists, chosen, 8)
  assert psnr(solved) > psnr(gaussians) + 0.5
  away = np.setdiff1d(np.arange(len(gaussians.xy)), seeding.active_indices(gaussians))
  np.testing.assert_array_equal(solved.color[away], gaussians.color[away])
  np.testing.assert_array_equal(solved.xy, gaussians.xy)


@pytest.fixture(scope='module')
def fitted(target):
  image = np.round(255 * target).astype(np.uint8)
  chosen = fit_config.FitConfig(rate_weight=0.0, adaptive_steps=False)
  return fit.run(image, 60, 200, chosen, 0)[0], chosen


def test_rate_model_estimates_the_bits_of_the_file(target, fitted):
  gaussians, chosen = fitted
  size = target.shape
  payload = quantization.to_payload(chosen, gaussians, size)
  spent = pack(payload)[1]
  priced = rate_model.fit_rate_model(gaussians, chosen, size)
  assert float(priced.total) == pytest.approx(spent.total - spent.side, rel=0.05)
  # where codes leave their predictions they cost more, by what the file says
  units = quantization.make_units(chosen.covariance, chosen.q_steps, 3)
  exact = quantization.quantize(chosen.covariance, units, gaussians)
  estimate = jax.jit(
    lambda g: rate_model.estimate_bits(g, chosen.covariance, units, priced)
  )
  bits = lambda g: float(estimate(g))
  cost = lambda c: bits(exact._replace(color=c))
  last = quantization.sort_for_coding(gaussians, size)[-1]  # nobody's neighbour
  further = np.array(exact.color)
  further[last, 0] += 40 * units.color[0]
  more = np.array(further)
  more[last, 0] += 10 * units.color[0]
  slope = float(priced.slope[last, 3])
  assert cost(more) - cost(further) == pytest.approx(10 * slope, rel=0.02)


def test_inactive_gaussians_cost_nothing(target, fitted):
  gaussians, chosen = fitted
  priced = rate_model.fit_rate_model(gaussians, chosen, target.shape)
  away = np.setdiff1d(np.arange(len(gaussians.xy)), seeding.active_indices(gaussians))
  units = quantization.make_units(chosen.covariance, chosen.q_steps, 3)
  bits = lambda g: rate_model.estimate_bits(g, chosen.covariance, units, priced)
  slopes = jax.jit(jax.grad(bits))(gaussians)
  assert len(away) and not np.any(np.asarray(slopes.color)[away])
  assert not np.any(np.asarray(slopes.shape)[away])


def test_rate_weight_makes_files_smaller(target, fitted):
  free, _ = fitted
  image = np.round(255 * target).astype(np.uint8)
  chosen = fit_config.FitConfig(rate_weight=3.0, adaptive_steps=False)
  priced, _ = fit.run(image, 60, 200, chosen, 0)
  made = [
    pack(quantization.to_payload(chosen, g, target.shape))[1].total
    for g in (free, priced)
  ]
  assert made[1] < 0.95 * made[0]

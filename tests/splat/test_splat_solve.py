"""Least-squares colours against NumPy's, and prices against files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from codax.splat import (
  binning,
  fit,
  quantization,
  rate_model,
  recipe,
  render,
  seeding,
  solve,
  step,
)
from codax.splat.format.container import pack
from codax.splat.target import make_target

SIZE = (48, 64)


@pytest.fixture(scope='module')
def target():
  """float32 [48, 64, 3], of a photograph."""
  return skimage.data.astronaut()[60:108, 190:254].astype(np.float32) / 255


def begun(target, how: str):
  """The Gaussians of a start, and the recipe."""
  chosen = recipe.Recipe(how=how, first=1.0)
  rng = np.random.default_rng(3)
  image = np.round(255 * target).astype(np.uint8)
  return seeding.start(make_target(image), 21, chosen, rng), chosen


@pytest.mark.parametrize('how', ['sum', 'normalised'])
def test_colours_are_those_of_least_squares(target, how):
  gaussians, chosen = begun(target, how)
  own = quantization.to_luma(target)
  room = binning.room_for((gaussians,), SIZE, chosen, None)
  solved = solve.colours(gaussians, jnp.asarray(own), chosen, room, 200)

  @jax.jit
  def rendered(colour, base):
    changed = gaussians._replace(colour=colour, base=base)
    lists = binning.listed(changed, SIZE, room, chosen, 0.0)
    return render.picture(changed, lists, SIZE, chosen.kind, how)

  there = seeding.present(gaussians)
  columns = []  # what a colour of 1 adds to the picture, Gaussian by Gaussian
  for i in there:
    one = np.zeros(gaussians.colour.shape, np.float32)
    one[i, 0] = 1
    columns.append(np.asarray(rendered(one, np.zeros(3, np.float32)))[..., 0].ravel())
  matrix = np.stack(columns, 1).astype(np.float64)
  nothing = np.asarray(rendered(0 * gaussians.colour, gaussians.base), np.float64)
  # colours keep a little to where they were
  stay = np.sqrt(solve.STAY) * np.eye(len(there))
  for c in range(3):
    rest = (own - nothing)[..., c].ravel()
    wanted = np.linalg.lstsq(
      np.concatenate([matrix, stay]),
      np.concatenate([rest, stay @ gaussians.colour[there, c]]),
      rcond=None,
    )[0]
    np.testing.assert_allclose(solved.colour[there, c], wanted, atol=2e-3)


def test_few_iterations_bring_the_picture_nearer(target):
  gaussians, chosen = begun(target, 'normalised')
  room = binning.room_for((gaussians,), SIZE, chosen, None)
  own = jnp.asarray(quantization.to_luma(target))
  made = lambda g: np.asarray(step.pixels(g, SIZE, chosen, room))
  psnr = lambda g: fit.psnr(made(g), target)
  solved = solve.colours(gaussians, own, chosen, room, 8)
  assert psnr(solved) > psnr(gaussians) + 0.5
  away = np.setdiff1d(np.arange(len(gaussians.xy)), seeding.present(gaussians))
  np.testing.assert_array_equal(solved.colour[away], gaussians.colour[away])
  np.testing.assert_array_equal(solved.xy, gaussians.xy)


@pytest.fixture(scope='module')
def fitted(target):
  image = np.round(255 * target).astype(np.uint8)
  chosen = recipe.Recipe(rate=0.0, adapted=False)
  return fit.run(image, 60, 200, chosen, 0)[0], chosen


def test_prices_are_the_files_bits(target, fitted):
  gaussians, chosen = fitted
  size = target.shape
  picture = quantization.to_integers(chosen, gaussians, size)
  spent = pack(picture)[1]
  priced = rate_model.prices(gaussians, chosen, size)
  assert float(priced.total) == pytest.approx(spent.total - spent.side, rel=0.05)
  # where codes leave their predictions they cost more, by what the file says
  units = quantization.units(chosen.kind, chosen.steps, 3)
  exact = quantization.quantised(chosen.kind, units, gaussians)
  bits = lambda g: float(rate_model.bits(g, chosen.kind, units, priced))
  cost = lambda c: bits(exact._replace(colour=c))
  last = quantization.in_order(gaussians, size)[-1]  # nobody's neighbour
  further = np.array(exact.colour)
  further[last, 0] += 40 * units.colour[0]
  more = np.array(further)
  more[last, 0] += 10 * units.colour[0]
  slope = float(priced.slope[last, 3])
  assert cost(more) - cost(further) == pytest.approx(10 * slope, rel=0.02)


def test_absent_gaussians_cost_nothing(target, fitted):
  gaussians, chosen = fitted
  priced = rate_model.prices(gaussians, chosen, target.shape)
  away = np.setdiff1d(np.arange(len(gaussians.xy)), seeding.present(gaussians))
  units = quantization.units(chosen.kind, chosen.steps, 3)
  slopes = jax.grad(lambda g: rate_model.bits(g, chosen.kind, units, priced))(
    jax.tree.map(jnp.asarray, gaussians)
  )
  assert len(away) and not np.any(np.asarray(slopes.colour)[away])
  assert not np.any(np.asarray(slopes.shape)[away])


def test_the_rate_makes_files_smaller(target, fitted):
  free, _ = fitted
  image = np.round(255 * target).astype(np.uint8)
  chosen = recipe.Recipe(rate=3.0, adapted=False)
  priced, _ = fit.run(image, 60, 200, chosen, 0)
  made = [
    pack(quantization.to_integers(chosen, g, target.shape))[1].total
    for g in (free, priced)
  ]
  assert made[1] < 0.95 * made[0]

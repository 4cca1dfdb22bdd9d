"""The renderer against a float64 one that knows nothing of tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.splat import geometry, render, tiles

SIZE = (41, 52)
CAPACITY = tiles.Capacity(1024, 128, 16)


def scene(covariance, blend='sum', count=30, seed=0, channels=3):
  """Gaussians with centres in and around the image, float64."""
  rng = np.random.default_rng(seed)
  xy = rng.uniform(-5, 1.1, (count, 2)) + rng.uniform(0, 1, (count, 2)) * SIZE[::-1]
  shape = rng.uniform([0, 0, -1.5], [2, 2, 1.5], (count, 3))
  if covariance == 'rotation':
    shape = rng.uniform([0.2, -0.6, -4], [2, 0.6, 4], (count, 3))
  color = rng.normal(0, 1, (count, channels + (blend == 'alpha')))
  return xy, shape, color, rng.uniform(0, 1, channels)


def covariance_matrix(covariance, shape):
  """[2, 2], from the words of the definition."""
  first, second, third = shape
  if covariance == 'cholesky':
    factor = np.array([[np.exp(first), 0], [third * np.exp(second), np.exp(second)]])
  else:
    turn = np.array([[np.cos(third), -np.sin(third)], [np.sin(third), np.cos(third)]])
    factor = turn @ np.diag(np.exp([first + second, first - second]))
  return factor @ factor.T


def oracle(covariance, blend, xy, shape, color, base, size=SIZE):
  """float64 [H, W, C]: every Gaussian at every pixel."""
  y, x = np.mgrid[: size[0], : size[1]] + 0.5
  weights = []
  for center, own in zip(xy, shape, strict=True):
    precision = np.linalg.inv(covariance_matrix(covariance, own))
    d = np.stack([x - center[0], y - center[1]], -1)
    e = 0.5 * np.einsum('hwi,ij,hwj->hw', d, precision, d)
    weights.append(np.maximum(np.exp(-e) - 1 / 256, 0))
  w = np.stack(weights)
  if blend == 'alpha':
    out, left = 0, np.ones(size)
    for one, own in zip(w, color, strict=True):
      a = np.minimum(one / (1 + np.exp(-own[-1])), 0.999)
      out = out + (left * a)[..., None] * own[:-1]
      left = left * (1 - a)
    return out + left[..., None] * base
  total = np.einsum('nhw,nc->hwc', w, color)
  if blend == 'sum':
    return total + base
  return (total + base / 1024) / (w.sum(0)[..., None] + 1 / 1024)


def as_gaussians(parts):
  return render.Gaussians(*(jnp.asarray(x, jnp.float32) for x in parts))


@functools.partial(
  jax.jit, static_argnames=('covariance', 'blend', 'capacity', 'size', 'scale')
)
def rendered(gaussians, covariance, blend, capacity=CAPACITY, size=SIZE, scale=1.0):
  return render.render(gaussians, size, capacity, covariance, blend, scale)


@functools.partial(jax.jit, static_argnames='capacity')
def binned(gaussians, capacity=CAPACITY):
  deviations = geometry.compute_deviations('cholesky', gaussians.shape)
  return tiles.bin_gaussians(gaussians.xy, deviations, SIZE, capacity)


@pytest.mark.parametrize('blend', render.BLENDS)
@pytest.mark.parametrize('covariance', geometry.COVARIANCES)
def test_rendered_pixels_are_those_of_the_oracle(covariance, blend):
  parts = scene(covariance, blend)
  found, lists = rendered(as_gaussians(parts), covariance, blend)
  assert int(lists.lost) == 0
  np.testing.assert_allclose(
    found, oracle(covariance, blend, *parts), rtol=2e-4, atol=2e-4
  )


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_any_number_of_channels_is_rendered_as_by_the_oracle(channels):
  parts = scene('cholesky', channels=channels)
  found, _ = rendered(as_gaussians(parts), 'cholesky', 'sum')
  assert found.shape == (*SIZE, channels)
  np.testing.assert_allclose(
    found, oracle('cholesky', 'sum', *parts), rtol=2e-4, atol=2e-4
  )


@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('blend', render.BLENDS)
@pytest.mark.parametrize('covariance', geometry.COVARIANCES)
def test_gradients_of_every_parameter_are_finite_differences(
  covariance, blend, loop, monkeypatch
):
  """Against central differences of the oracle, on both paths."""
  monkeypatch.setattr(render, '_is_sequential', lambda: loop)
  parts = scene(covariance, blend, count=6, seed=1)
  size = (17, 20)
  parts = (parts[0] * 0.4, *parts[1:])
  pull = np.random.default_rng(2).normal(0, 1, (*size, 3))
  if not loop and blend == 'alpha':
    pytest.skip('one path alone')

  def value(*arrays):
    return float((oracle(covariance, blend, *arrays, size=size) * pull).sum())

  def loss(gaussians):
    out, _ = render.render(gaussians, size, CAPACITY, covariance, blend)
    return jnp.sum(out * pull)

  slopes = jax.jit(jax.grad(loss))(as_gaussians(parts))
  for field, slope in enumerate(slopes[:4]):
    expected = np.zeros(slope.shape)
    for index in np.ndindex(*slope.shape):
      ends = []
      for sign in (-1, 1):
        moved = [np.array(p) for p in parts]
        moved[field][index] += sign * 1e-4
        ends.append(value(*moved))
      expected[index] = (ends[1] - ends[0]) / 2e-4
    scale = np.abs(expected).max()
    np.testing.assert_allclose(slope, expected, rtol=5e-3, atol=4e-3 * scale)


def test_scaled_gaussians_render_a_larger_image():
  xy, shape, color, base = scene('cholesky')
  made = as_gaussians((xy, shape, color, base))
  twice = tuple(2 * n for n in SIZE)
  capacity = tiles.Capacity(4096, 512, 64)
  found, _ = rendered(made, 'cholesky', 'sum', capacity, twice, scale=2.0)
  larger = shape + np.log(2) * np.array([1, 1, 0])
  expected = oracle('cholesky', 'sum', 2 * xy, larger, color, base, twice)
  np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-4)


def test_tile_lists_hold_every_gaussian_that_touches_a_tile():
  parts = scene('cholesky', count=80, seed=3)
  made = as_gaussians(parts)
  lists = jax.device_get(binned(made))
  rows, columns = tiles.count_tiles(*SIZE)
  held = {tile: [] for tile in range(rows * columns)}
  for tile, members in zip(lists.tiles, lists.members, strict=True):
    if tile < rows * columns:
      held[int(tile)] += [int(m) for m in members if m < 80]
  count = 0
  for tile, members in held.items():
    assert members == sorted(set(members))
    row, column = divmod(tile, columns)
    for i in range(80):
      x, y = parts[0][i]
      reach = np.sqrt(
        2 * 8 * np.log(2) * np.diag(covariance_matrix('cholesky', parts[1][i]))
      )
      touches = (
        16 * column - reach[0] <= x < 16 * (column + 1) + reach[0]
        and 16 * row - reach[1] <= y < 16 * (row + 1) + reach[1]
      )
      assert touches == (i in members)
      count += touches
  assert count == int(lists.pairs) and int(lists.lost) == 0


@pytest.mark.parametrize(
  'capacity', [tiles.Capacity(64, 200, 16), tiles.Capacity(1024, 4, 16)]
)
def test_pairs_beyond_the_capacity_are_counted(capacity):
  made = as_gaussians(scene('cholesky', count=80, seed=3))
  lists, full = binned(made, capacity), binned(made)
  placed = int((lists.members < 80).sum())
  assert int(lists.lost) == int(full.pairs) - placed > 0
  assert int(lists.pairs) == int(full.pairs)


def test_images_under_vmap_are_those_rendered_alone():
  scenes = [as_gaussians(scene('cholesky', seed=s)) for s in (5, 6)]
  both = jax.tree.map(lambda *x: jnp.stack(x), *scenes)
  found = jax.vmap(lambda g: rendered(g, 'cholesky', 'normalized')[0])(both)
  for one, made in zip(found, scenes, strict=True):
    alone, _ = rendered(made, 'cholesky', 'normalized')
    np.testing.assert_allclose(one, alone, rtol=1e-4, atol=1e-4)

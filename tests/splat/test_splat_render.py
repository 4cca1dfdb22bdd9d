"""The renderer against a float64 one that knows nothing of tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.splat import geometry, render, tiles

SIZE = (41, 52)
ROOM = tiles.Capacity(1024, 128)


def scene(kind, how='sum', count=30, seed=0, channels=3):
  """Gaussians with centres in and around the picture, float64."""
  rng = np.random.default_rng(seed)
  xy = rng.uniform(-5, 1.1, (count, 2)) + rng.uniform(0, 1, (count, 2)) * SIZE[::-1]
  shape = rng.uniform([0, 0, -1.5], [2, 2, 1.5], (count, 3))
  if kind == 'rotation':
    shape = rng.uniform([0.2, -0.6, -4], [2, 0.6, 4], (count, 3))
  colour = rng.normal(0, 1, (count, channels + (how == 'alpha')))
  return xy, shape, colour, rng.uniform(0, 1, channels)


def covariance(kind, shape):
  """[2, 2], from the words of the definition."""
  first, second, third = shape
  if kind == 'cholesky':
    factor = np.array([[np.exp(first), 0], [third * np.exp(second), np.exp(second)]])
  else:
    turn = np.array([[np.cos(third), -np.sin(third)], [np.sin(third), np.cos(third)]])
    factor = turn @ np.diag(np.exp([first + second, first - second]))
  return factor @ factor.T


def oracle(kind, how, xy, shape, colour, base, size=SIZE):
  """float64 [H, W, C]: every Gaussian at every pixel."""
  y, x = np.mgrid[: size[0], : size[1]] + 0.5
  weights = []
  for centre, own in zip(xy, shape, strict=True):
    precision = np.linalg.inv(covariance(kind, own))
    d = np.stack([x - centre[0], y - centre[1]], -1)
    e = 0.5 * np.einsum('hwi,ij,hwj->hw', d, precision, d)
    weights.append(np.maximum(np.exp(-e) - 1 / 256, 0))
  w = np.stack(weights)
  if how == 'alpha':
    out, left = 0, np.ones(size)
    for one, own in zip(w, colour, strict=True):
      a = np.minimum(one / (1 + np.exp(-own[-1])), 0.999)
      out = out + (left * a)[..., None] * own[:-1]
      left = left * (1 - a)
    return out + left[..., None] * base
  total = np.einsum('nhw,nc->hwc', w, colour)
  if how == 'sum':
    return total + base
  return (total + base / 1024) / (w.sum(0)[..., None] + 1 / 1024)


def as_gaussians(parts):
  return render.Gaussians(*(jnp.asarray(x, jnp.float32) for x in parts))


@functools.partial(jax.jit, static_argnames=('kind', 'how', 'room', 'size'))
def rendered(gaussians, kind, how, room=ROOM, size=SIZE):
  return render.render(gaussians, size, room, kind, how)


@pytest.mark.parametrize('how', render.RENDERS)
@pytest.mark.parametrize('kind', geometry.KINDS)
def test_pixels(kind, how):
  parts = scene(kind, how)
  found, lists = rendered(as_gaussians(parts), kind, how)
  assert int(lists.lost) == 0
  np.testing.assert_allclose(found, oracle(kind, how, *parts), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_any_number_of_channels(channels):
  parts = scene('cholesky', channels=channels)
  found, _ = rendered(as_gaussians(parts), 'cholesky', 'sum')
  assert found.shape == (*SIZE, channels)
  np.testing.assert_allclose(
    found, oracle('cholesky', 'sum', *parts), rtol=2e-4, atol=2e-4
  )


@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('how', render.RENDERS)
@pytest.mark.parametrize('kind', geometry.KINDS)
def test_gradients_of_every_parameter(kind, how, loop, monkeypatch):
  """Against central differences of the oracle, on both paths."""
  monkeypatch.setattr(render, '_loop', lambda: loop)
  parts = scene(kind, how, count=6, seed=1)
  size = (17, 20)
  parts = (parts[0] * 0.4, *parts[1:])
  pull = np.random.default_rng(2).normal(0, 1, (*size, 3))
  if not loop and how == 'alpha':
    pytest.skip('one path alone')

  def value(*arrays):
    return float((oracle(kind, how, *arrays, size=size) * pull).sum())

  def loss(gaussians):
    out, _ = render.render(gaussians, size, ROOM, kind, how)
    return jnp.sum(out * pull)

  slopes = jax.grad(loss)(as_gaussians(parts))
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


def test_a_larger_picture_of_the_same_gaussians():
  xy, shape, colour, base = scene('cholesky')
  made = as_gaussians((xy, shape, colour, base))
  twice = tuple(2 * n for n in SIZE)
  room = tiles.Capacity(4096, 512)
  found, _ = render.render(made, twice, room, 'cholesky', 'sum', scale=2.0)
  larger = shape + np.log(2) * np.array([1, 1, 0])
  expected = oracle('cholesky', 'sum', 2 * xy, larger, colour, base, twice)
  np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-4)


def test_lists_hold_every_gaussian_that_touches_a_tile():
  parts = scene('cholesky', count=80, seed=3)
  made = as_gaussians(parts)
  deviations = geometry.deviations('cholesky', made.shape)
  lists = tiles.bins(made.xy, deviations, SIZE, ROOM)
  rows, columns = tiles.grid(*SIZE)
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
      reach = np.sqrt(2 * 8 * np.log(2) * np.diag(covariance('cholesky', parts[1][i])))
      touches = (
        16 * column - reach[0] <= x < 16 * (column + 1) + reach[0]
        and 16 * row - reach[1] <= y < 16 * (row + 1) + reach[1]
      )
      assert touches == (i in members)
      count += touches
  assert count == int(lists.pairs) and int(lists.lost) == 0


@pytest.mark.parametrize('room', [tiles.Capacity(64, 200), tiles.Capacity(1024, 4)])
def test_what_finds_no_room_is_counted(room):
  made = as_gaussians(scene('cholesky', count=80, seed=3))
  deviations = geometry.deviations('cholesky', made.shape)
  lists = tiles.bins(made.xy, deviations, SIZE, room)
  full = tiles.bins(made.xy, deviations, SIZE, ROOM)
  placed = int((lists.members < 80).sum())
  assert int(lists.lost) == int(full.pairs) - placed > 0
  assert int(lists.pairs) == int(full.pairs)


def test_pictures_under_vmap():
  scenes = [as_gaussians(scene('cholesky', seed=s)) for s in (5, 6)]
  both = jax.tree.map(lambda *x: jnp.stack(x), *scenes)
  found = jax.vmap(lambda g: rendered(g, 'cholesky', 'normalised')[0])(both)
  for one, made in zip(found, scenes, strict=True):
    alone, _ = rendered(made, 'cholesky', 'normalised')
    np.testing.assert_allclose(one, alone, rtol=1e-4, atol=1e-4)

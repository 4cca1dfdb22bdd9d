"""LPIPS against an independent float64 network of the same structure, small."""

import jax
import numpy as np
import pytest

from codax.errors import CodaxError
from codax.metrics import lpips

FIRES = (3, 4, 6, 7, 9, 10, 11, 12)


def make_arrays(seed=0):
  """Random weights: two channels squeezed, three and two expanded, four at first."""
  rng = np.random.default_rng(seed)
  arrays, channels = {}, 3

  def add(name, out, into, side):
    scale = 1.5 / np.sqrt(into * side * side)
    kernel = scale * rng.normal(size=(out, into, side, side))
    arrays[f'{name}.weight'] = np.float32(kernel)
    arrays[f'{name}.bias'] = np.float32(0.3 * rng.normal(size=out))

  add('features.0', 4, 3, 3)
  channels, widths = 4, [4]
  for i in FIRES:
    add(f'features.{i}.squeeze', 2, channels, 1)
    add(f'features.{i}.expand1x1', 3, 2, 1)
    add(f'features.{i}.expand3x3', 2, 2, 3)
    channels = 5
    if i not in (3, 6):
      widths.append(channels)
  for i, width in enumerate(widths):
    arrays[f'lin{i}'] = np.float32(rng.uniform(0, 1, width))
  return arrays


def conv(arrays, name, x, stride=1):
  """A correlation of [C, H, W] in float64, zeros around it for 3 x 3 at stride 1."""
  w = arrays[f'{name}.weight'].astype(np.float64)
  side, pad = w.shape[2], w.shape[2] // 2 if stride == 1 else 0
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
  rows = range(0, x.shape[1] - side + 1, stride)
  columns = range(0, x.shape[2] - side + 1, stride)
  out = [
    [np.tensordot(w, x[:, r : r + side, c : c + side], 3) for c in columns]
    for r in rows
  ]
  y = np.moveaxis(np.array(out), -1, 0)
  return np.maximum(y + arrays[f'{name}.bias'].astype(np.float64)[:, None, None], 0)


def pool(x):
  """Maxima of 3 x 3 at stride 2 on [C, H, W]; a window may hang over the end."""
  starts = lambda n: range(0, 2 * int(np.ceil((n - 3) / 2)) + 1, 2)
  return np.array(
    [
      [[m[r : r + 3, c : c + 3].max() for c in starts(x.shape[2])]
       for r in starts(x.shape[1])]
      for m in x
    ]
  )  # fmt: skip


def features(arrays, image):
  x = np.moveaxis(np.asarray(image, np.float64), -1, 0)
  x = x - np.array([-0.030, -0.088, -0.188])[:, None, None]
  x = x / np.array([0.458, 0.448, 0.450])[:, None, None]
  x = conv(arrays, 'features.0', x, stride=2)
  out = [x]
  for i in FIRES:
    if i in (3, 6, 9):
      x = pool(x)
    x = conv(arrays, f'features.{i}.squeeze', x)
    parts = (conv(arrays, f'features.{i}.{p}', x) for p in ('expand1x1', 'expand3x3'))
    x = np.concatenate(list(parts))
    if i not in (3, 6):
      out.append(x)
  return out


def oracle(arrays, a, b):
  total = 0.0
  for i, (x, y) in enumerate(zip(features(arrays, a), features(arrays, b))):
    unit = lambda z: z / (np.sqrt((z * z).sum(0, keepdims=True)) + 1e-10)
    d = (unit(x) - unit(y)) ** 2
    total += np.mean(np.tensordot(arrays[f'lin{i}'].astype(np.float64), d, 1))
  return total


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('lpips') / 'tiny.npz'
  np.savez(path, **make_arrays())
  return lpips.load(path, sha256=None)


@pytest.fixture(scope='module')
def pair():
  """Images whose sides leave whole windows and cut ones: 26 gives 12, 6, 3, 1."""
  rng = np.random.default_rng(1)
  return np.float32(rng.uniform(-1, 1, (2, 2, 26, 31, 3)))


@pytest.fixture(scope='module')
def values_and_slopes():
  """Compiled function (weights, a, b) -> distances and their sum's gradient by a."""

  def total(a, weights, b):
    distances = lpips.distance(weights, a, b)
    return distances.sum(), distances

  @jax.jit
  def both(weights, a, b):
    slope, distances = jax.grad(total, has_aux=True)(a, weights, b)
    return distances, slope

  return both


def test_distance_and_gradient_equal_those_of_a_float64_network(
  weights, pair, values_and_slopes
):
  a, b = pair
  expected = [oracle(make_arrays(), x, y) for x, y in zip(a, b)]
  assert min(expected) > 0.05
  got, slope = values_and_slopes(weights, a, b)
  np.testing.assert_allclose(got, expected, rtol=2e-5)
  np.testing.assert_allclose(values_and_slopes(weights, b, a)[0], got, rtol=1e-5)
  direction, h = np.random.default_rng(2).normal(size=a[0].shape), 1e-5
  ahead, behind = (
    oracle(make_arrays(), a[0] + sign * h * direction, b[0]) for sign in (1, -1)
  )
  along = (np.asarray(slope[0]) * direction).sum()
  assert along == pytest.approx((ahead - behind) / (2 * h), rel=1e-3)


def test_distance_of_equal_images_is_zero_with_a_finite_gradient(
  weights, pair, values_and_slopes
):
  a, b = pair
  distances, slope = values_and_slopes(weights, a, a)
  # places in the batch are rounded differently
  assert np.max(distances) < 1e-12 and np.isfinite(slope).all()
  # features that are all 0 have no direction, and must not make the gradient NaN
  dead = {k: v - 100 if k.endswith('.bias') else v for k, v in weights.items()}
  assert np.isfinite(values_and_slopes(dead, a, b)[1]).all()


def test_wrong_weights_are_one_line(tmp_path, weights, pair):
  with pytest.raises(CodaxError, match='LPIPS needs a file with its weights'):
    lpips.load('')
  with pytest.raises(CodaxError, match='none.npz: No such file'):
    lpips.load(tmp_path / 'none.npz')
  path = tmp_path / 'w.npz'
  path.write_bytes(b'PK\x03\x04 no archive')
  with pytest.raises(CodaxError, match='not a readable .npz'):
    lpips.load(path)
  np.save(tmp_path / 'one.npy', np.zeros(3))
  with pytest.raises(CodaxError, match='one array'):
    lpips.load(tmp_path / 'one.npy')
  good = make_arrays()
  np.savez(path, **good)
  with pytest.raises(CodaxError, match='other weights than LPIPS v0.1'):
    lpips.load(path)
  for name, value, text in (
    ('lin3', None, 'lin3 is missing'),
    ('features.9.squeeze.weight', None, 'squeeze.weight is missing'),
    ('lin3', good['lin3'][:2], r'lin3 is float32 \[2\], not float32 \[5\]'),
    ('lin3', good['lin3'].astype(np.float64), 'lin3 is float64'),
    ('lin3', good['lin3'] * np.float32(np.nan), 'lin3 is not finite'),
    ('features.3.squeeze.bias', np.float32(1), 'not .channels.'),
    ('other', np.zeros(2, np.float32), 'other is none of its arrays'),
    ('other', np.array([{}], object), 'not a readable .npz'),
  ):
    arrays = {k: v for k, v in good.items() if k != name}
    np.savez(path, **arrays, **({} if value is None else {name: value}))
    with pytest.raises(CodaxError, match=text) as error:
      lpips.load(path, sha256=None)
    assert '\n' not in str(error.value)
  with pytest.raises(CodaxError, match='17 pixels a side or more, not 31x16'):
    lpips.distance(weights, pair[0][:, :16], pair[1][:, :16])


def test_hash_follows_values_and_not_the_file():
  arrays = make_arrays()
  again = {k: arrays[k].astype('>f4') for k in reversed(list(arrays))}
  assert lpips.hash_arrays(again) == lpips.hash_arrays(arrays)
  again['lin0'] = again['lin0'] + np.float32(1)
  assert lpips.hash_arrays(again) != lpips.hash_arrays(arrays)

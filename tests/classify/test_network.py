"""Networks as functions: normalization, pooling, dropout against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import make_batch

from codax.classify import architecture, augment, network

CONFIG = architecture.get('digits')._replace(
  front_widths=(4, 4, 4), widths=(8, 6), grid=4, classes=3, dropout=0.0
)


def test_normalization_is_that_of_the_batch_and_then_of_the_averages():
  """NumPy's mean and deviation in training; running averages with momentum 0.9."""
  x = np.random.default_rng(0).normal(3, 2, (5, 4, 4, 2)).astype(np.float32)
  p = {'scale': jnp.array([2.0, 1.0]), 'bias': jnp.array([0.5, 0.0])}
  stats = {'mean': jnp.zeros(2), 'var': jnp.ones(2)}
  y, new = network._normalize(p, stats, x, True)
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  scale, bias = (np.asarray(p[key]) for key in ('scale', 'bias'))
  wanted = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  np.testing.assert_allclose(new['mean'], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(new['var'], 0.9 + 0.1 * var, rtol=1e-5)
  y, same = network._normalize(p, new, x, False)
  mean, var = (np.asarray(new[key]) for key in ('mean', 'var'))
  wanted = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  assert same is new


@pytest.mark.parametrize('size', [2, 3, 4, 7, 12])
def test_pooling_averages_areas_of_any_map(size):
  """Torch's adaptive pooling: area i is rows floor(i n / 4) to ceil((i + 1) n / 4)."""
  x = np.random.default_rng(0).normal(size=(2, size, size, 3))
  found = network._pool(jnp.asarray(x), 4)
  bounds = [(i * size // 4, -(-(i + 1) * size // 4)) for i in range(4)]
  wanted = [[x[:, a:b, c:d].mean((1, 2)) for c, d in bounds] for a, b in bounds]
  np.testing.assert_allclose(found, np.array(wanted).transpose(2, 0, 1, 3), atol=1e-6)


def test_dropout_drops_its_share_and_keeps_the_mean():
  x = jnp.ones((200, 200))
  y = np.asarray(network._drop(x, 0.25, jax.random.key(0)))
  assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
  assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
  assert network._drop(x, 0.25, None) is x


def test_images_do_not_see_each_other_once_trained():
  """By running statistics the logits of an image are the same in any batch."""
  batch = make_batch()
  made = network.init(jax.random.key(0), CONFIG, (8, 8, 3))
  predict = jax.jit(network.predict, static_argnums=1)
  whole = predict(made, CONFIG, batch['image'])
  np.testing.assert_allclose(
    predict(made, CONFIG, batch['image'][:4]), whole[:4], atol=1e-5
  )
  assert np.ptp(whole, axis=0).min() > 0


def test_inputs_of_every_layer_are_seen():
  made = network.init(jax.random.key(0), CONFIG, (8, 8, 3))
  out = network.apply(made, CONFIG, make_batch()['image'], jax.random.key(1))
  assert {k: v.shape for k, v in out.seen.items()} == {
    'kan_0': (12, 8),
    'kan_1': (12, 6),
  }
  # the second layer's inputs are normalized by the batch
  np.testing.assert_allclose(out.seen['kan_1'].mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(out.seen['kan_1'].std(0), 1, atol=1e-2)


def test_shifts_and_squares_are_as_large_as_asked():
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.integers(0, 256, (40, 9, 9, 3), np.uint8))
  assert augment.shift(images, jax.random.key(0), 0) is images
  moved = np.asarray(augment.shift(images, jax.random.key(0), 2))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='reflect')
  places = set()
  for image, one in zip(padded, moved):
    found = [
      (y, x) for y in range(5) for x in range(5)
      if np.array_equal(image[y : y + 9, x : x + 9], one)
    ]  # fmt: skip
    assert len(found) == 1
    places |= set(found)
  assert len(places) > 12 and max(max(p) for p in places) == 4
  assert augment.erase(images, jax.random.key(0), 0) is images
  erased = np.asarray(augment.erase(images, jax.random.key(0), 4))
  changed = (erased != np.asarray(images)).any(-1)
  assert (erased[changed] == 128).all()
  assert changed.reshape(40, -1).sum(1).max() <= 16 and changed.any()

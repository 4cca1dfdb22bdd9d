"""Sampling without replacement: every epoch visits every image once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codax.data import defaults, epochs, pipeline
from codax.errors import CodaxError


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw(seed, steps, batch_size, count):
  return jax.vmap(lambda step: epochs.draw(seed, step, batch_size, count))(steps)


def order(seed, batch_size, count, num_epochs):
  """Returns the images of the first epochs, [epochs, count]."""
  steps = jnp.arange(-(-num_epochs * count // batch_size), dtype=jnp.int32)
  found = np.asarray(draw(seed, steps, batch_size, count)).reshape(-1)
  return found[: num_epochs * count].reshape(num_epochs, count)


@settings(max_examples=12, deadline=None)
@given(
  st.integers(0, 2**32 - 1),
  st.sampled_from(
    [(1, 1), (1, 4), (2, 3), (5, 2), (7, 7), (16, 5), (17, 40), (100, 32)]
  ),
)
def test_every_epoch_visits_every_image_once(seed, sizes):
  count, batch_size = sizes
  for row in order(np.uint32(seed), batch_size, count, 3):
    np.testing.assert_array_equal(np.sort(row), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own():
  first, second = order(np.uint32(0), 32, 1000, 2)
  other = order(np.uint32(1), 32, 1000, 1)[0]
  for a, b in ((first, second), (first, other), (first, np.arange(1000))):
    # two random orders agree in one place on average
    assert (a == b).sum() < 10
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
  # neighbours in an epoch are no neighbours in the set
  assert np.abs(np.diff(first)).mean() == pytest.approx(1000 / 3, rel=0.1)


def test_places_of_late_steps_do_not_overflow():
  step, batch_size, count = 2**31 - 5, 4096, 50_000
  epoch, place = jax.jit(epochs.positions, static_argnums=(1, 2))(
    jnp.int32(step), batch_size, count
  )
  exact = step * batch_size + np.arange(batch_size, dtype=object)
  np.testing.assert_array_equal(place, (exact % count).astype(np.int64))
  np.testing.assert_array_equal(epoch, (exact // count).astype(np.int64))


def test_batch_beyond_32_bits_is_refused():
  with pytest.raises(CodaxError, match='takes batches of up to 21, not 22'):
    epochs.check_size(100_000_000, 22)


def folder_of_levels(tmp_path, count):
  """Writes one 8 x 8 image for each grey level 0 ... count - 1."""
  from PIL import Image

  for i in range(count):
    Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f'{i:03}.png')
  return {'name': 'folder', 'path': str(tmp_path), 'test_fraction': 0.0, 'crop': 8}


def test_pipeline_draws_each_image_once_an_epoch(tmp_path):
  data = folder_of_levels(tmp_path, 12)
  pipe = pipeline.make(data | {'epochs': True, 'batch_size': 8}, seed=3)
  assert pipe.has_epochs and not pipeline.make(data, seed=3).has_epochs
  sample = jax.jit(pipe.sample)
  batches = [sample(pipe.arrays, jax.random.key(7), i)['image'] for i in range(6)]
  levels = np.concatenate(batches)[:, 0, 0, 0].reshape(4, 12)
  np.testing.assert_array_equal(np.sort(levels), np.tile(np.arange(12), (4, 1)))
  assert len({tuple(row) for row in levels}) == 4
  # the same whatever the key of the crops is, so that a run goes on anywhere
  again = sample(pipe.arrays, jax.random.key(8), 4)['image']
  np.testing.assert_array_equal(again, batches[4])


def test_epochs_that_is_no_bool_is_refused():
  with pytest.raises(CodaxError, match='data.epochs'):
    pipeline.settings({**defaults.DEFAULTS, 'epochs': 3})

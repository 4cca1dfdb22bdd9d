"""Reduction over batches and steps, against averages written out in NumPy."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import toy_task
from absl.testing import parameterized

from codax.training import intervals, metrics_reduction

EMPTY = intervals.Interval()
PLAIN = toy_task.make(toy_task.config())._replace(summarize=None)


class CollectTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(((4, 4, 1),), ((1,),), ((7, 2),))
  def test_scalars_are_averaged_by_size_and_arrays_summed(self, sizes):
    rng = np.random.default_rng(0)
    losses = rng.uniform(1, 2, len(sizes)).astype(np.float32)
    counts = rng.integers(0, 9, (len(sizes), 2, 3)).astype(np.float32)
    collected = [
      self.variant(metrics_reduction.collect, static_argnums=1)(
        {'loss/a': jnp.asarray(loss), 'counts': jnp.asarray(count)}, size
      )
      for loss, count, size in zip(losses, counts, sizes, strict=True)
    ]
    out = metrics_reduction.merge(collected)
    assert out['loss/a'] == pytest.approx(np.average(losses, weights=sizes), rel=1e-6)
    np.testing.assert_array_equal(out['counts'], counts.sum(0))


def test_large_counts_are_summed_exactly():
  batch = metrics_reduction.collect({'n': jnp.full((1,), 2.0**24)}, 1)
  small = metrics_reduction.collect({'n': jnp.ones((1,))}, 1)
  assert metrics_reduction.merge([batch, small, small])['n'] == 2**24 + 2


def test_arrays_are_left_out_without_a_summary():
  metrics = {'loss': np.float32([1, 2, 6]), 'counts': np.ones((3, 5))}
  reduced = lambda task: intervals.reduce(task, intervals.add(EMPTY, metrics))
  assert reduced(PLAIN) == {'loss': 3.0}
  task = PLAIN._replace(summarize=lambda m: {'used': (m['counts'] == 3).sum()})
  assert reduced(task) == {'used': 5.0}

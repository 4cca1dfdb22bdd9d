"""The warm-up: which candidate goes on, and that it is one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, networks, photo

from codax.overfit import encode, train, warm_up
from codax.overfit.presets import Steps, TrainConfig

KEY = jax.random.key(0)
RECIPE = TrainConfig(optimizer='adam')  # quick to compile


def problem(count=2):
  images = np.stack([photo(16, 24, seed=i) for i in range(count)])
  return jnp.asarray(images, jnp.float32) / 255, np.full(count, 4e-3, np.float32)


def same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b))
  return all(np.array_equal(x, y) for x, y in leaves)


def test_one_candidate_is_the_usual_initial_state():
  targets, lmbdas = problem()
  found = warm_up.init(SMALL, RECIPE, targets, lmbdas, KEY)
  assert same(found, train.init(KEY, SMALL, RECIPE, targets))


@pytest.mark.slow
def test_each_problem_goes_on_with_its_best_candidate():
  """Against all candidates trained one by one, the noise being the same."""
  targets, lmbdas = problem()
  found = warm_up.init(SMALL, RECIPE, targets, lmbdas, KEY, None, 3, 8)
  fresh = train.init(KEY, SMALL, RECIPE, targets)
  assert int(found.step) == 0 and same(found.opt_state, fresh.opt_state)
  state = train.init(KEY, SMALL, RECIPE, jnp.concatenate([targets] * 3))
  losses = []
  for _ in range(8):
    state, metrics = train.dispatch(
      SMALL, RECIPE, Steps(32, 0), state, jnp.concatenate([targets] * 3),
      np.tile(lmbdas, 3), KEY, 1,
    )  # fmt: skip
    losses.append(metrics['loss'])
  mean = np.mean(losses[-5:], 0).reshape(3, 2)
  assert (mean.max(0) > 1.0001 * mean.min(0)).all()
  for p in range(2):
    at = 2 * int(np.argmin(mean[:, p])) + p
    for mine, theirs in zip(
      jax.tree.leaves(found.params), jax.tree.leaves(state.params)
    ):
      np.testing.assert_array_equal(mine[p], theirs[at])


@pytest.mark.slow
def test_first_candidate_begins_with_the_given_networks():
  """With no rate nothing moves, and what was given is best: it fits without error."""
  targets, lmbdas = jnp.full((1, 16, 24, 3), 0.3), np.array([4e-3])
  nets = networks(SMALL, targets.shape[1:], spread=0.0)
  nets['synthesis'] = {k: 0 * v for k, v in nets['synthesis'].items()}
  nets['synthesis']['b1'] = np.full(3, 0.3, np.float32)
  still = RECIPE._replace(learning_rate=0.0)
  found = warm_up.init(SMALL, still, targets, 0 * lmbdas, KEY, nets, 2, 2)
  for name, value in nets['synthesis'].items():
    np.testing.assert_array_equal(found.params['synthesis'][name][0], value)


def test_encode_with_a_warm_up_is_another_file():
  plan = encode.EncodeConfig(
    arch=SMALL, recipe=RECIPE, stage_steps=Steps(30, 5), candidates=3, warm_steps=10
  )
  image = photo(24, 32)
  found = encode.encode_image(image, plan)
  assert found.data == encode.encode_image(image, plan).data
  assert found.data != encode.encode_image(image, plan._replace(candidates=1)).data

"""Warm-up: several beginnings for a few steps each, the best of them goes on.

(Cool-Chic 5 has such a stage; where networks start from trained ones it has less to
choose from.) Candidates are problems of their own, all in one program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.overfit import train
from codax.overfit.format.arch import Arch

MAX_CANDIDATES = 64
_STRETCH = 4  # a warm-up is the first part of a stage 1 so many times as long
_JUDGED = 5  # the mean loss of so many steps, the last, decides: each has its own noise


def begin(
  arch: Arch,
  recipe: train.Recipe,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  start: Any = None,
  candidates: int = 1,
  steps: int = 50,
) -> train.State:
  """The state to train from: step 0, fresh moments, parameters of the best candidate.

  Args:
    arch: the shape.
    recipe: how to train.
    targets: float32 [P, H, W, C].
    lmbdas: [P].
    rng: key; candidates differ by what is drawn from it.
    start: networks (without P) that the first candidate begins with, or None; the
      others begin with random ones.
    candidates: how many; 1 is `train.init`.
    steps: of each, at least 1.
  """
  if candidates < 2:
    return train.init(rng, arch, recipe, targets, start)
  problems = len(targets)
  tiled = jnp.concatenate([targets] * candidates)
  prices = np.tile(np.asarray(lmbdas, np.float32), candidates)
  state = train.init(rng, arch, recipe, tiled)
  if start is not None:
    first = train.init(rng, arch, recipe, targets, start).params
    params = jax.tree.map(lambda a, b: a.at[:problems].set(b), state.params, first)
    state = state.replace(params=params)
  length, losses = train.Length(_STRETCH * steps, 0), []
  for _ in range(steps):
    state, metrics = train.dispatch(arch, recipe, length, state, tiled, prices, rng, 1)
    losses.append(np.asarray(metrics['loss']))
  mean = np.mean(losses[-_JUDGED:], 0).reshape(candidates, problems)
  # one that diverged is never chosen
  best = np.argmin(np.where(np.isfinite(mean), mean, np.inf), 0)
  at = best * problems + np.arange(problems)
  params = jax.tree.map(lambda x: x[at], state.params)
  moments = jax.vmap(lambda one: train.start_moments(recipe, one))(params)
  return train.begin(params, moments)


def check(candidates: int, steps: int) -> tuple[int, int]:
  """The two numbers; `CodaxError` if they are no warm-up."""
  if not 1 <= candidates <= MAX_CANDIDATES:
    raise CodaxError(f'candidates is {candidates}; valid: 1 to {MAX_CANDIDATES}')
  if steps < 1:
    raise CodaxError(f'warm_steps is {steps}; valid: 1 or more')
  return candidates, steps

"""Warm-up: trains several initializations for a few steps and keeps the best.

(Cool-Chic 5 has such a stage; with pretrained networks it gains less.) Candidates are
problems of their own, all in one program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit import train
from codax.overfit.format.arch import Arch
from codax.overfit.presets import Steps, TrainConfig

_STRETCH = 4  # the schedule is that of a stage 1 longer by this factor
_NUM_COMPARED = 5  # last steps whose mean loss decides; each has noise of its own


def init(
  arch: Arch,
  recipe: TrainConfig,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  networks: Any = None,
  candidates: int = 1,
  steps: int = 50,
) -> train.State:
  """Makes the state to train from: that of the best candidate, at step 0.

  Args:
    arch: architecture.
    recipe: settings.
    targets: float32 [P, H, W, C].
    lmbdas: weights of the rate, [P].
    rng: key; each candidate is another draw from it.
    networks: initial networks (without P) of the first candidate, or None; those of
      the others are random.
    candidates: number of candidates; 1 is `train.init`.
    steps: number of steps of each, 1 or more.

  Returns:
    The state, with the parameters of each problem's best candidate and a new
    optimizer state.
  """
  if candidates < 2:
    return train.init(rng, arch, recipe, targets, networks)
  problems = len(targets)
  tiled = jnp.concatenate([targets] * candidates)
  weights = np.tile(np.asarray(lmbdas, np.float32), candidates)
  state = train.init(rng, arch, recipe, tiled)
  if networks is not None:
    first = train.init(rng, arch, recipe, targets, networks).params
    params = jax.tree.map(lambda a, b: a.at[:problems].set(b), state.params, first)
    state = state.replace(params=params)
  stage_steps, losses = Steps(_STRETCH * steps, 0), []
  for _ in range(steps):
    state, metrics = train.dispatch(
      arch, recipe, stage_steps, state, tiled, weights, rng, 1
    )
    losses.append(np.asarray(metrics['loss']))
  mean = np.mean(losses[-_NUM_COMPARED:], 0).reshape(candidates, problems)
  # one that diverged is never chosen
  best = np.argmin(np.where(np.isfinite(mean), mean, np.inf), 0)
  at = best * problems + np.arange(problems)
  params = jax.tree.map(lambda x: x[at], state.params)
  opt_state = jax.vmap(lambda x: train.init_opt_state(recipe, x))(params)
  return train.init_state(params, opt_state, recipe)

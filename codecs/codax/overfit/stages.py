"""Schedules of the two stages, and the plateau rule of the second one.

The rule is C3's (Kim et al. 2023, appendix): the learning rate is constant until
`stage2_patience` steps in a row bring no lower loss; then it falls by a factor and
training goes on from the best parameters. It ends when the rate falls below a bound.
All of it is arithmetic on arrays: a loop on the device never waits for the host.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit.presets import TrainConfig

METRICS = ('loss', 'mse', 'bpp')
# Stands for an unknown loss: states hold finite numbers only.
_UNKNOWN = float(np.finfo(np.float32).max)


@flax.struct.dataclass
class Plateau:
  """State of the plateau rule; arrays lead with P.

  Attributes:
    lr: float32 [P], learning rate of stage 2.
    waited: int32 [P], number of steps in a row without progress.
    num_cuts: int32 [P], number of times that the rate fell.
    ended_at: int32 [P], step at which the rate fell below its bound; 0 before that.
    first_loss: float32 [P], loss of the last parameters of stage 1, latents rounded.
    best_step: int32 [P], number of steps before the best parameters.
    best_metrics: metrics of these, float32 [P] each.
    best: (params, opt_state) of these.
  """

  lr: jax.Array
  waited: jax.Array
  num_cuts: jax.Array
  ended_at: jax.Array
  first_loss: jax.Array
  best_step: jax.Array
  best_metrics: dict[str, jax.Array]
  best: Any


def schedule(
  recipe: TrainConfig,
  stage_steps: tuple[jax.Array, jax.Array],
  step: jax.Array,
  stage2_lr: jax.Array | None = None,
):
  """Computes the settings of a step.

  Args:
    recipe: settings.
    stage_steps: numbers of steps of the two stages.
    step: int32 scalar, number of steps made.
    stage2_lr: learning rate of stage 2, float32 [P]; None is the cosine of `recipe`.

  Returns:
    is_stage2, (learning rates of networks and of latents), temperature, noise; the
    last two are those of stage 1.
  """
  stage1, stage2 = stage_steps
  is_stage2 = step >= stage1
  progress = lambda at, whole: jnp.clip(at / jnp.maximum(whole, 1), 0.0, 1.0)
  share = progress(step, stage1)
  cosine = lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x))
  lr = recipe.learning_rate * cosine(share)
  if stage2_lr is None:
    stage2_lr = recipe.stage2_lr * cosine(progress(step - stage1, stage2))
  moves = recipe.stage2_latents == 'straight_through'
  lrs = (
    jnp.where(is_stage2, stage2_lr, lr),
    jnp.where(is_stage2, stage2_lr if moves else 0.0, lr),
  )
  along = lambda ends: ends[0] + share * (ends[1] - ends[0])
  return is_stage2, lrs, along(recipe.temperature), along(recipe.noise)


def init(recipe: TrainConfig, params: Any, opt_state: Any) -> Plateau | None:
  """Makes the state of the plateau rule; None for recipes without it."""
  if not recipe.stage2_patience:
    return None
  count = params['latents'].shape[0]
  zeros = lambda: jnp.zeros(count, jnp.int32)
  full = lambda value: jnp.full(count, value, jnp.float32)
  copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
  return Plateau(
    lr=full(recipe.stage2_lr),
    waited=zeros(),
    num_cuts=zeros(),
    ended_at=zeros(),
    first_loss=full(_UNKNOWN),
    best_step=zeros(),
    best_metrics={name: full(_UNKNOWN) for name in METRICS},
    # not the same buffers: programs are given both to use up
    best=copy((params, opt_state)),
  )


def follow(
  recipe: TrainConfig,
  stage_steps: tuple[jax.Array, jax.Array],
  before: Any,
  after: Any,
  metrics: dict[str, jax.Array],
) -> tuple[Any, dict[str, jax.Array]]:
  """Applies the plateau rule to a step.

  A loss belongs to the parameters before the step, so these are the ones that it makes
  the best. After the last step, and after the end of a problem, the parameters are the
  best ones.

  Args:
    recipe, stage_steps: see `schedule`.
    before, after: `train.State` around the step.
    metrics: metrics of the step, float32 [P] each.

  Returns:
    The corrected state and metrics.
  """
  old, at = before.plateau, before.step
  is_on = (at >= stage_steps[0]) & (old.ended_at == 0)
  is_first = is_on & (at == stage_steps[0])
  is_better = is_on & (metrics['loss'] < old.best_metrics['loss'])
  waited = jnp.where(is_on, jnp.where(is_better, 0, old.waited + 1), old.waited)
  is_cut = is_on & (waited >= recipe.stage2_patience)
  lr = jnp.where(is_cut, recipe.stage2_decay * old.lr, old.lr)
  ended_at = jnp.where(is_cut & (lr < recipe.stage2_min_lr), at + 1, old.ended_at)
  state = before.params, before.opt_state
  best_metrics = _pick(is_better, metrics, old.best_metrics)
  new = Plateau(
    lr=lr,
    waited=jnp.where(is_cut, 0, waited),
    num_cuts=old.num_cuts + is_cut,
    ended_at=ended_at,
    first_loss=jnp.where(is_first, metrics['loss'], old.first_loss),
    best_step=jnp.where(is_better, at, old.best_step),
    best_metrics=best_metrics,
    best=_pick(is_better, state, old.best),
  )
  is_last = (at >= stage_steps[0]) & (at + 1 >= stage_steps[0] + stage_steps[1])
  goes_back = is_cut | (ended_at > 0) | is_last
  made = after.params, after.opt_state
  params, opt_state = _pick(goes_back, new.best, made)
  metrics = _pick(old.ended_at > 0, best_metrics, metrics)
  return after.replace(params=params, opt_state=opt_state, plateau=new), metrics


def list_metrics(
  recipe: TrainConfig, stage_steps: tuple[jax.Array, jax.Array], state: Any
) -> dict[str, jax.Array]:
  """Computes settings of the step that `state` is before, as scalar metrics.

  Returns:
    lr (of the networks, mean over problems), temperature and noise; the latter are 0
    where a stage has none.
  """
  stage2_lr = None if state.plateau is None else state.plateau.lr
  is_stage2, lrs, temperature, noise = schedule(
    recipe, stage_steps, state.step, stage2_lr
  )
  moves = recipe.stage2_latents == 'straight_through'
  stage2_temperature = recipe.stage2_temperature if moves else 0.0
  return {
    'lr': jnp.mean(lrs[0]),
    'temperature': jnp.where(is_stage2, stage2_temperature, temperature),
    'noise': jnp.where(is_stage2, 0.0, noise),
  }


def _pick(condition: jax.Array, new: Any, old: Any) -> Any:
  """Chooses between trees of arrays for each problem, by bool [P]."""

  def pick(a, b):
    return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, new, old)


def describe(plateau: Any, index: int) -> dict[str, Any] | None:
  """Collects JSON-able facts about a problem's second stage.

  Args:
    plateau: `Plateau` on the host.
    index: index of the problem.

  Returns:
    best_loss_before and best_loss_after (of MSE + lambda * bpp of the latents, latents
    rounded), best_step, lr (the last learning rate), lr_cuts (their number), ended_at
    (step, or None) and end ('learning rate' or 'step limit'); None if stage 2 had no
    steps.
  """
  first, best = float(plateau.first_loss[index]), plateau.best_metrics['loss'][index]
  if first >= _UNKNOWN:
    return None
  ended_at = int(plateau.ended_at[index])
  return {
    'best_loss_before': first,
    'best_loss_after': float(best),
    'best_step': int(plateau.best_step[index]),
    'lr': float(plateau.lr[index]),
    'lr_cuts': int(plateau.num_cuts[index]),
    'ended_at': ended_at or None,
    'end': 'learning rate' if ended_at else 'step limit',
  }

"""Training that goes astray: where it begins, and how it is told at the end.

A problem is lost when something of it is no number any more, or when it stays worse
than a picture of one colour. Lost problems begin again with another seed (`encode`, for
one picture; `task`, for those of a group).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit import train

RESTARTS = 3
_WORSE, _SLACK = 1.5, 1e-3  # than the mean colour: by a factor, and an MSE
_UNDONE = 0.05  # of all steps: with more of them undone a problem is lost


def spread(target: np.ndarray) -> float:
  """MSE of the mean colour for a picture float [H, W, C] in [0, 1]."""
  return float(np.var(target, axis=(0, 1), dtype=np.float64).mean())


def astray(mse: float, target: np.ndarray) -> bool:
  """Whether an MSE is clearly worse than that of the mean colour."""
  return not mse <= _WORSE * spread(target) + _SLACK


def lost(mse: float, undone: int, total: int, target: np.ndarray) -> bool:
  """Whether training did not come to anything.

  Args:
    mse: of what it made, values in [0, 1].
    undone: steps that `guard` undid, of `total`.
    target: float [H, W, C] in [0, 1].
  """
  return astray(mse, target) or undone > _UNDONE * total


def guard(
  before: train.State, after: train.State, metrics: dict, targets: jax.Array
) -> tuple[train.State, dict[str, jax.Array]]:
  """A step without what it did to problems that are no numbers after it.

  Those keep what they had and count the step as undone; their metrics are those of the
  mean colour, which is what their file would fall back on. So one of many problems that
  diverges harms none of the others, and what it had learnt before is kept.

  Args:
    before, after: states of P problems around the step.
    metrics: of the step, [P] each, see `train.step`.
    targets: float [P, H, W, C].
  """
  moved = after.params, after.moments
  flat = lambda x: x.reshape(len(x), -1)
  sound = [jnp.isfinite(flat(x)).all(1) for x in jax.tree.leaves(moved)]
  ok = functools.reduce(jnp.logical_and, sound, jnp.isfinite(metrics['loss']))

  def pick(new, old):
    return jnp.where(ok.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  params, moments = jax.tree.map(pick, moved, (before.params, before.moments))
  mse = jnp.var(targets, axis=(1, 2)).mean(-1)
  colour = {'loss': mse, 'mse': mse, 'bpp': jnp.zeros_like(mse)}
  metrics = {name: pick(value, colour[name]) for name, value in metrics.items()}
  undone = before.undone + ~ok
  return train.State(after.step, params, moments, undone), metrics

"""Divergence of training: its signs, and protection of the state.

A problem has failed when it stays worse than an image of one color, or when many of its
steps led to values that are not finite. Failed problems begin again with another seed
(`encode` for one image, `task` for those of a bucket).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit import train

RESTARTS = 3
# Margin over the MSE of the mean color: a factor, and an MSE.
_FACTOR, _SLACK = 1.5, 1e-3
_MAX_SKIPPED = 0.05  # share of all steps; with more of them skipped a problem failed


def mean_color_mse(target: np.ndarray) -> float:
  """Computes the MSE of the mean color for an image float [H, W, C] in [0, 1]."""
  return float(np.var(target, axis=(0, 1), dtype=np.float64).mean())


def is_diverging(mse: float, target: np.ndarray) -> bool:
  """Returns whether an MSE is clearly worse than that of the mean color."""
  return not mse <= _FACTOR * mean_color_mse(target) + _SLACK


def has_failed(mse: float, skipped: int, total: int, target: np.ndarray) -> bool:
  """Returns whether a finished training is worth nothing.

  Args:
    mse: error of the image, values in [0, 1].
    skipped: number of steps that `skip_nonfinite` undid.
    total: number of all steps.
    target: float [H, W, C] in [0, 1].
  """
  return is_diverging(mse, target) or skipped > _MAX_SKIPPED * total


def skip_nonfinite(
  before: train.State, after: train.State, metrics: dict, targets: jax.Array
) -> tuple[train.State, dict[str, jax.Array]]:
  """Takes a step back for the problems whose state is not finite after it.

  They keep the state before it and count the step as skipped; their metrics are those
  of the mean color, which their file would fall back on. So a problem that diverges
  harms none of the others.

  Args:
    before, after: states of P problems around the step.
    metrics: metrics of the step, [P] each, see `train.step`.
    targets: float [P, H, W, C].

  Returns:
    The corrected state and metrics.
  """
  new = after.params, after.opt_state, after.plateau
  flat = lambda x: x.reshape(len(x), -1)
  finite = [jnp.isfinite(flat(x)).all(1) for x in jax.tree.leaves(new)]
  is_finite = functools.reduce(jnp.logical_and, finite, jnp.isfinite(metrics['loss']))

  def pick(new, old):
    return jnp.where(is_finite.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  old = before.params, before.opt_state, before.plateau
  params, opt_state, plateau = jax.tree.map(pick, new, old)
  mse = jnp.var(targets, axis=(1, 2)).mean(-1)
  color = {'loss': mse, 'mse': mse, 'bpp': jnp.zeros_like(mse)}
  metrics = {name: pick(value, color[name]) for name, value in metrics.items()}
  skipped = before.skipped + ~is_finite
  return train.State(after.step, params, opt_state, skipped, plateau), metrics

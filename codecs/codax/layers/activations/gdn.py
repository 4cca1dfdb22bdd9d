"""Generalized divisive normalization (Ballé, Laparra and Simoncelli 2016).

y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times the root for the inverse that
decoders use. What is learnt are 'beta' [C] and 'gamma' [C, C] as square roots, kept
above a bound, so that beta stays above `MIN_BETA` and gamma above 0 (Ballé et al. 2018,
appendix): beta = max(b, bound)^2 - `PEDESTAL`.
"""

from typing import Any

import numpy as np

from codax.layers.activations import base

MIN_BETA = 1e-6
PEDESTAL = 2.0**-36
INIT_GAMMA = 0.1  # on the diagonal; beta begins at 1


def make(inverse: bool = False) -> base.Activation:
  """Makes the activation; `inverse` multiplies by the root."""

  def init(channels):
    gamma = INIT_GAMMA * np.eye(channels, dtype=np.float32)
    return {
      'beta': np.sqrt(np.full(channels, 1 + PEDESTAL, np.float32)),
      'gamma': np.sqrt(gamma + np.float32(PEDESTAL)),
    }

  def formula(params, x, xp):
    beta = _bound(params['beta'], (MIN_BETA + PEDESTAL) ** 0.5, xp) ** 2 - PEDESTAL
    gamma = _bound(params['gamma'], PEDESTAL**0.5, xp) ** 2 - PEDESTAL
    squares = (x * x) @ gamma.T + beta.reshape((1,) * (x.ndim - 1) + beta.shape)
    return x * xp.sqrt(squares) if inverse else x / xp.sqrt(squares)

  name = 'igdn' if inverse else 'gdn'
  return base.Activation(name, 1, init, base.compute_in_float32(formula))


def _bound(value: Any, low: float, xp: Any) -> Any:
  """Computes max(value, low); below it the gradient passes only upwards."""
  if xp is np:
    return np.maximum(value, low)
  from codax.layers.activations import gradients

  return gradients.lower_bound(value, low)

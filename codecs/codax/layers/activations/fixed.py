"""Activations without parameters: ReLU, SiLU, GELU and the gated linear unit."""

import math
from typing import Any

from codax.layers.activations import base


def relu(params: base.Params, x: Any, xp: Any) -> Any:
  """Computes max(x, 0)."""
  del params
  if xp.__name__ == 'jax.numpy':
    import jax

    return jax.nn.relu(x)  # its gradient is 0 at 0
  return xp.maximum(x, 0)


def silu(params: base.Params, x: Any, xp: Any) -> Any:
  """Computes x sigmoid(x), also called swish."""
  del params
  return base.silu(x, xp)


def gelu(params: base.Params, x: Any, xp: Any) -> Any:
  """Computes the tanh form of GELU (Hendrycks and Gimpel 2016, section 2)."""
  del params
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + xp.tanh(inner))


def glu(params: base.Params, x: Any, xp: Any) -> Any:
  """Computes a sigmoid(b) of the halves [a | b] (Dauphin et al. 2017)."""
  del params
  value, gate = base.split_groups(x, 2)
  return value * base.sigmoid(gate, xp)


_FORMULAS = {'relu': (relu, 1), 'silu': (silu, 1), 'gelu': (gelu, 1), 'glu': (glu, 2)}


def make(name: str) -> base.Activation:
  """Makes the activation of a name in this module."""
  formula, expansion = _FORMULAS[name]
  apply = base.compute_in_float32(formula)
  return base.Activation(name, expansion, lambda channels: {}, apply)

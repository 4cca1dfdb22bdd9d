"""The contract of activations, and what their formulas share.

Formulas take the array module as `xp`, ``jax.numpy`` or ``numpy``: one text trains and
decodes. This package imports no JAX until a formula is called without `xp`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from codax.errors import unknown

Params = dict[str, Any]


class Activation(NamedTuple):
  """A nonlinearity of channels, the last axis.

  Attributes:
    name: key of the registry, with the options that differ from the defaults.
    expansion: number of input channels for each output channel, in contiguous groups:
      all channels of the first group, then all of the second.
    init: channels C -> dict of float32 arrays, the learnt parameters at their start;
      empty for a fixed function. Deterministic.
    apply: (params, x [..., expansion * C], xp=jax.numpy) -> y [..., C] of x's type.
  """

  name: str
  expansion: int
  init: Callable[[int], Params]
  apply: Callable[..., Any]


def check_choice(option: str, value: Any, valid: Any) -> Any:
  """Returns `valid[value]`.

  Raises:
    CodaxError: there is none.
  """
  if value not in valid:
    raise unknown(option, value, valid)
  return valid[value]


def array_module(xp: Any) -> Any:
  """Returns `xp`, or ``jax.numpy`` for None."""
  if xp is None:
    import jax.numpy as xp
  return xp


def compute_in_float32(formula: Callable[..., Any]) -> Callable[..., Any]:
  """Makes an `Activation.apply` of a formula (params, x, xp).

  Numbers of 16 bits are computed in 32 and rounded once; float64 stays.
  """

  def apply(params: Params, x: Any, xp: Any = None) -> Any:
    xp = array_module(xp)
    dtype = xp.promote_types(x.dtype, np.float32)
    params = {key: xp.asarray(value, dtype) for key, value in params.items()}
    return formula(params, x.astype(dtype), xp).astype(x.dtype)

  return apply


def split_groups(x: Any, count: int) -> list[Any]:
  """Splits channels into `count` contiguous groups.

  Raises:
    ValueError: the number of channels is no multiple of `count`.
  """
  channels, rest = divmod(x.shape[-1], count)
  if rest or not channels:
    raise ValueError(f'{x.shape[-1]} channels are not {count} groups')
  return [x[..., i * channels : (i + 1) * channels] for i in range(count)]


def over_positions(values: Any, x: Any) -> list[Any]:
  """Returns the rows of `values` [K, C], each with the rank of `x`."""
  shape = (1,) * (x.ndim - 1) + (values.shape[-1],)
  return [row.reshape(shape) for row in values]


def sigmoid(x: Any, xp: Any) -> Any:
  """Computes 1 / (1 + exp(-x)) without overflow."""
  if xp is np:
    return 0.5 * np.tanh(0.5 * x) + 0.5
  import jax

  return jax.nn.sigmoid(x)


def silu(x: Any, xp: Any) -> Any:
  """Computes x times its sigmoid."""
  return x * sigmoid(x, xp)

"""Activations by name (stand-in until the registry proper is merged)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax import errors


class Activation(NamedTuple):
  """An elementwise nonlinearity, possibly gated and with parameters.

  Attributes:
    name: name in the registry.
    expansion: number of input channels for each output channel.
    init: channels -> dict of float32 arrays.
    apply: (params, x, xp) -> y, [..., expansion * C] to [..., C].
  """

  name: str
  expansion: int
  init: Callable[[int], dict]
  apply: Callable[..., Any]


def _cubic(t, p0, p1, p2, p3):
  s = 1 - t
  return s * s * s * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t * t * t * p3


def _bezier_split(params, x, xp=jnp):
  t, *points = jnp.split(x, 5, axis=-1)
  return _cubic(jax.nn.sigmoid(t), *(jax.nn.silu(p) for p in points))


def _bezier(init_points):
  def init(channels):
    row = jnp.asarray(init_points, jnp.float32).reshape(4, 1)
    return {'points': jnp.tile(row, (1, channels))}

  def apply(params, x, xp=jnp):
    points = params['points'].astype(x.dtype)
    lead = (1,) * (x.ndim - 1)
    return _cubic(jax.nn.sigmoid(x), *(p.reshape(*lead, -1) for p in points))

  return Activation('bezier', 1, init, apply)


def get(name: str, **options: Any) -> Activation:
  """Returns the activation of this name."""
  plain = {'relu': jax.nn.relu, 'silu': jax.nn.silu, 'gelu': jax.nn.gelu}
  if name in plain:
    return Activation(name, 1, lambda c: {}, lambda p, x, xp=jnp: plain[name](x))
  if name == 'bezier_split':
    return Activation(name, 5, lambda c: {}, _bezier_split)
  if name == 'bezier':
    return _bezier(options.get('init', (-2.0, -0.5, 0.5, 2.0)))
  raise errors.unknown('activation', name, [*plain, 'bezier_split', 'bezier'])

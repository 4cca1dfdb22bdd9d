"""Activations: one contract (`base.Activation`), one registry, no JAX on import."""

import functools
import inspect
from typing import Any

from codax.errors import unknown
from codax.layers.activations import bezier, fixed, gdn, pade
from codax.layers.activations.base import Activation

REGISTRY = {
  'relu': functools.partial(fixed.make, 'relu'),
  'silu': functools.partial(fixed.make, 'silu'),
  'gelu': functools.partial(fixed.make, 'gelu'),
  'glu': functools.partial(fixed.make, 'glu'),
  'gdn': gdn.make,
  'bezier_split': bezier.make_split,
  'bezier': bezier.make,
  'pade': pade.make,
  'pade_split': pade.make_split,
}

__all__ = ['REGISTRY', 'Activation', 'get']


@functools.lru_cache
def get(name: str, **options: Any) -> Activation:
  """Makes the activation called `name`; the same one for the same arguments.

  Args:
    name: key of `REGISTRY`.
    **options: arguments of the function there, hashable.

  Raises:
    CodaxError: an unknown name, option or value.
  """
  if name not in REGISTRY:
    raise unknown('activation', name, REGISTRY)
  valid = inspect.signature(REGISTRY[name]).parameters
  for key in options:
    if key not in valid:
      raise unknown(f'option of the activation {name}', key, valid)
  return REGISTRY[name](**options)

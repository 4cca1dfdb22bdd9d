"""Quantizers: latents -> codes. One contract (`base`), one file each, one registry."""

import importlib
from collections.abc import Mapping
from typing import Any

from codax.errors import CodaxError, renamed, unknown
from codax.quantize import compose
from codax.quantize.base import Quantized, Quantizer
from codax.quantize.registry import REGISTRY

# Keys of earlier versions that composition has taken over, for every quantizer.
RENAMED = {
  'revive_below': 'quantizer.revival.below',
  'revive_to': 'quantizer.revival.to',
}

_MAX_CODES = 64  # codes at a position, of groups or of stages

__all__ = ['REGISTRY', 'RENAMED', 'Quantized', 'Quantizer', 'get']


def get(
  name: str,
  *,
  groups: int = 1,
  stages: int = 1,
  revival: Mapping[str, Any] | None = None,
  estimator: str | None = None,
  **values: Any,
) -> Quantizer:
  """Makes the quantizer called `name`, composed as configured.

  Args:
    name: key of `REGISTRY`.
    groups: number of slices of the channels with a quantizer each.
    stages: number of quantizers in a row, each of the residual of those before.
    revival: values of `compose.Revival` by name; None moves no codes.
    estimator: straight-through estimator; None is the quantizer's own.
    **values: values of the quantizer's `Config`.

  Raises:
    CodaxError: an unknown name or key, or a value out of range.
  """
  if name not in REGISTRY:
    raise unknown('quantizer', name, REGISTRY)
  for key in values:
    if key in RENAMED:
      raise renamed(f'quantizer.{key}', RENAMED[key])
  for key, value in (('groups', groups), ('stages', stages)):
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not (is_int and 1 <= value <= _MAX_CODES):
      raise CodaxError(
        f'quantizer.{key} = {value!r} must be a positive integer up to {_MAX_CODES}'
      )
  quantizer = importlib.import_module(REGISTRY[name]).make(**values)
  if revival is not None:
    config = compose.check_revival(revival)
    quantizer = compose.with_revival(quantizer, *config)
  quantizer = compose.residual(compose.grouped(quantizer, groups), stages)
  if estimator is not None:
    quantizer = compose.with_estimator(quantizer, estimator)
  return quantizer

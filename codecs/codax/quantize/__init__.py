"""Quantisers: latents -> codes. One contract (`base`), one file each, one registry."""

import importlib
from typing import Any

from codax.errors import unknown
from codax.quantize.base import Quantized, Quantizer

REGISTRY = {
  'blahut_arimoto': 'codax.quantize.blahut_arimoto',
  'ba_reference': 'codax.quantize.ba_reference',
  'vq_ema': 'codax.quantize.vq_ema',
}

__all__ = ['REGISTRY', 'Quantized', 'Quantizer', 'get']


def get(name: str, **knobs: Any) -> Quantizer:
  """The quantiser called `name`, see `REGISTRY`; knobs are those of its Config."""
  if name not in REGISTRY:
    raise unknown('quantizer', name, REGISTRY)
  return importlib.import_module(REGISTRY[name]).make(**knobs)

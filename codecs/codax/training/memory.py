"""Memory of a training: how much it is, and what to lower if it runs out."""

import contextlib
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from codax.errors import CodaxError

_MARKS = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory')


@contextlib.contextmanager
def explain(config: Mapping[str, Any]) -> Iterator[None]:
  """Turns errors of memory into a `CodaxError` that names the keys to change.

  Args:
    config: the whole configuration.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as e:
    text = ' '.join(str(e).split())
    if not isinstance(e, MemoryError) and not any(mark in text for mark in _MARKS):
      raise
    raise CodaxError(f'{_advise(config)} ({text[:160]})') from e


def peak_mib() -> float:
  """Returns the most memory that was in use so far, in MiB.

  Of the first device where it counts that; else of this process, with all of its
  libraries.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] / 2**20
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most / (2**20 if sys.platform == 'darwin' else 2**10)


def _advise(config: Mapping[str, Any]) -> str:
  """Returns what happened and the keys that help."""
  data = config.get('data') or {}
  sizes = [f'{key} = {data[key]}' for key in ('batch_size', 'crop') if key in data]
  advice = f'lower data.{" or data.".join(sizes)}' if sizes else 'lower the batch size'
  if 'accumulate' in config:
    advice += f', raise accumulate = {config["accumulate"]}'
  if (config.get('model') or {}).get('remat') is False:
    advice += ', or set model.remat = True'
  return f'the batch does not fit into memory: {advice}'

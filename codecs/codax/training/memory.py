"""Memory of a training: how much it is, and what to lower if it runs out."""

import contextlib
import resource
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from codax import devices

_MIB = 2**20


def explain(config: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
  """Turns errors of memory into a `CodaxError` that names the keys to change.

  Args:
    config: the whole configuration.
  """
  return devices.explain_memory(lambda: _advise(config))


def peak_mib() -> float:
  """Returns the most memory that was in use so far, in MiB.

  Of the first device where it counts that; else of this process, with all of its
  libraries.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] / _MIB
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most / (_MIB if sys.platform == 'darwin' else 2**10)


class ProgramMemory(NamedTuple):
  """Memory of a compiled program, in MiB.

  Attributes:
    arguments: arrays that it is called with.
    outputs: results that take the place of no argument.
    temporaries: everything between, at the most at a time.
  """

  arguments: float
  outputs: float
  temporaries: float

  @property
  def total(self) -> float:
    """Returns the sum, without the code of the program itself."""
    return sum(self)


def measure_program(compiled: Any) -> ProgramMemory:
  """Measures the memory of a program by XLA's own count, without running it.

  Args:
    compiled: the result of ``jax.jit(f).lower(...).compile()``.
  """
  analysis = compiled.memory_analysis()
  size = lambda name: getattr(analysis, f'{name}_size_in_bytes', 0) / _MIB
  outputs = size('output') - size('alias')
  return ProgramMemory(size('argument'), outputs, size('temp'))


def _advise(config: Mapping[str, Any]) -> str:
  """Returns what happened and the keys that help."""
  data = config.get('data') or {}
  if 'max_batch' in config:  # a codec that trains on each image
    return _advise_per_image(config['max_batch'], data.get('crop', 0))
  sizes = [f'{key} = {data[key]}' for key in ('batch_size', 'crop') if key in data]
  advice = f'lower data.{" or data.".join(sizes)}' if sizes else 'lower the batch size'
  if 'accumulate' in config:
    advice += f', raise accumulate = {config["accumulate"]}'
  if (config.get('model') or {}).get('remat') is False:
    advice += ', or set model.remat = True'
  return f'the batch does not fit into memory: {advice}'


def _advise_per_image(max_batch: int, crop: int) -> str:
  """Returns what happened to a bucket of images and the keys that help."""
  smaller = f'lower data.crop = {crop}' if crop else 'set data.crop, or shrink images'
  if max_batch == 1:
    return f'the image does not fit into memory: {smaller}'
  every = ' (0 is all of a size)' if max_batch == 0 else ''
  return (
    'the images of a bucket do not fit into memory together: '
    f'lower max_batch = {max_batch}{every}, or {smaller}'
  )

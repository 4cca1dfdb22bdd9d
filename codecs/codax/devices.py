"""The start of JAX, in one place: devices, 32-bit numbers, forked processes, memory.

Every command and every library call that uses JAX comes through here first, so that a
mistake in the environment is one line and not a traceback from the middle of the work.
Importing this module does not import JAX.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import codax
from codax.errors import CodaxError

_MAX_TEXT = 300  # letters of JAX's own words
_MAX_MEMORY_TEXT = 160  # the same where memory ran out: sizes come first
_NO_MEMORY = ('RESOURCE_EXHAUSTED', 'Out of memory', 'out of memory')

# Settings of JAX that change results or break programs, as all of codax expects them,
# whatever variables such as JAX_ENABLE_X64 say: files depend on inputs and seed alone.
_SETTINGS = {
  'enable_x64': False,
  'numpy_dtype_promotion': 'standard',
  'default_prng_impl': 'threefry2x32',
}


class NoDevice(CodaxError):
  """JAX cannot be used here, whatever the input is."""


def start() -> list[Any]:
  """Starts JAX if need be.

  Returns:
    All devices of all processes.

  Raises:
    NoDevice: no backend starts, for example JAX_PLATFORMS=cuda without a GPU, or this
      process was forked from one in which JAX runs, whose threads it lacks.
  """
  if codax._is_forked_from_jax:
    raise NoDevice(
      'this process was forked from one in which JAX runs, and would wait forever: '
      "start processes by 'spawn' (docs/troubleshooting.md, Forked processes)"
    )
  try:
    import jax
  except Exception as e:  # it reads its environment variables while it is imported
    raise NoDevice(f'JAX does not import: {_shorten(e)}') from e
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as e:
    asked = os.environ.get('JAX_PLATFORMS')
    if not asked:
      raise NoDevice(f'JAX finds no device: {_shorten(e)}') from e
    text = _shorten(e)
    raise NoDevice(
      f'JAX finds no device with JAX_PLATFORMS={asked}{text and ": " + text}; '
      'unset it, or JAX_PLATFORMS=cpu runs everywhere'
    ) from e


@contextlib.contextmanager
def use() -> Iterator[None]:
  """Starts JAX, and lets the body compute in 32 bits whatever JAX_ENABLE_X64 says.

  Files are the same with such variables and without, see `_SETTINGS`. The caller's
  settings are restored afterwards; other threads never see others.
  """
  start()
  import jax

  with contextlib.ExitStack() as stack:
    for name, value in _SETTINGS.items():
      if getattr(jax.config, f'jax_{name}') != value:
        stack.enter_context(getattr(jax, name)(value))
    yield


def use_in_process() -> list[Any]:
  """Starts JAX as `use` does, for the whole process, for commands.

  Returns:
    All devices of all processes.
  """
  found = start()
  import jax

  for name, value in _SETTINGS.items():
    jax.config.update(f'jax_{name}', value)
  return found


@contextlib.contextmanager
def explain_memory(advise: Callable[[], str]) -> Iterator[None]:
  """Turns errors of memory, of a device or of Python, into one line.

  Args:
    advise: function that returns what does not fit, and what to lower.

  Raises:
    CodaxError: memory ran out in the body.
  """
  try:
    yield
  except (MemoryError, RuntimeError) as e:
    if not is_out_of_memory(e):
      raise
    text = _shorten(e, _MAX_MEMORY_TEXT)
    raise CodaxError(advise() + (f' ({text})' if text else '')) from e


def is_out_of_memory(error: BaseException) -> bool:
  """Tells whether an error says that memory ran out."""
  if isinstance(error, MemoryError):
    return True
  jax = sys.modules.get('jax')  # without it the error is not one of its own
  is_of_jax = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
  return is_of_jax and any(mark in str(error) for mark in _NO_MEMORY)


def is_accelerated() -> bool:
  """Tells whether JAX runs in this process on something else than the CPU."""
  bridge = sys.modules.get('jax._src.xla_bridge')
  if not getattr(bridge, '_backends', None):
    return False
  import jax

  return jax.default_backend() != 'cpu'


def _shorten(error: BaseException, most: int = _MAX_TEXT) -> str:
  """Returns the beginning of an error's text as one line."""
  text = ' '.join(str(error).split())
  return text if len(text) <= most else text[:most] + ' ...'

"""The start of JAX, in one place: devices, 32-bit numbers and forked processes.

Every command and every library call that uses JAX comes through here first, so that a
mistake in the environment is one line and not a traceback from the middle of the work.
Importing this module does not import JAX.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import codax
from codax.errors import CodaxError

_MAX_TEXT = 300  # letters of JAX's own words


def start() -> list[Any]:
  """Starts JAX if need be.

  Returns:
    All devices of all processes.

  Raises:
    CodaxError: no backend starts, for example JAX_PLATFORMS=cuda without a GPU, or this
      process was forked from one in which JAX runs, whose threads it lacks.
  """
  if codax._is_forked_from_jax:
    raise CodaxError(
      'this process was forked from one in which JAX runs, and would wait forever: '
      "start processes by 'spawn' (docs/troubleshooting.md, Forked processes)"
    )
  try:
    import jax
  except Exception as e:  # it reads its environment variables while it is imported
    raise CodaxError(f'JAX does not import: {_shorten(e)}') from e
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as e:
    asked = os.environ.get('JAX_PLATFORMS')
    if not asked:
      raise CodaxError(f'JAX finds no device: {_shorten(e)}') from e
    text = _shorten(e)
    raise CodaxError(
      f'JAX finds no device with JAX_PLATFORMS={asked}{text and ": " + text}; '
      'unset it, or JAX_PLATFORMS=cpu runs everywhere'
    ) from e


@contextlib.contextmanager
def use() -> Iterator[None]:
  """Starts JAX, and lets the body compute in 32 bits whatever JAX_ENABLE_X64 says.

  Files are the same with the variable and without. The caller's setting is restored
  afterwards; other threads never see another one.
  """
  start()
  import jax

  if not jax.config.jax_enable_x64:
    yield
    return
  with jax.enable_x64(False):
    yield


def use_in_process() -> list[Any]:
  """Starts JAX as `use` does, for the whole process, for commands.

  Returns:
    All devices of all processes.
  """
  found = start()
  import jax

  jax.config.update('jax_enable_x64', False)
  return found


def _shorten(error: BaseException) -> str:
  """Returns the beginning of an error's text as one line."""
  text = ' '.join(str(error).split())
  return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + ' ...'

"""codax: learned image codecs in JAX whose numbers are file sizes.

  data = codax.encode(pixels)          # uint8 [H, W, C] -> bytes
  pixels = codax.decode(data)          # uint8 [H, W, C]

Importing this package imports nothing else: JAX comes with the first codec that needs
it. `import codax.pillow_plugin` lets Pillow open `.cdx` files; it is not done from here
because importing one library should not change another.
"""

import os as _os
import sys as _sys

__version__ = '0.1.0'

__all__ = ['CodaxError', 'decode', 'encode']

_HOME = {
  'CodaxError': 'codax.errors',
  'decode': 'codax.families',
  'encode': 'codax.families',
}


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import importlib

  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
  return sorted({*globals(), *_HOME})


# Whether this process was forked from one in which JAX ran, see `codax.devices`. Noted
# from the first import on: a data loader may import the rest in its forked workers.
_is_forked_from_jax = False


def _note_fork() -> None:
  """Notes in a forked child whether JAX ran in its parent."""
  global _is_forked_from_jax
  bridge = _sys.modules.get('jax._src.xla_bridge')
  _is_forked_from_jax |= bool(getattr(bridge, '_backends', None))


if hasattr(_os, 'register_at_fork'):
  _os.register_at_fork(after_in_child=_note_fork)

"""Provenance of a measurement: code, versions and machine."""

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ('codax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'pillow')
PACKAGES += ('constriction',)

SOURCE = ('commit', 'versions', 'hardware')  # where a measurement comes from


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that results can depend on."""
  numbers = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      numbers[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      numbers[name] = 'not installed'
  return numbers


def commit() -> str | None:
  """Returns the commit of this code, with '+' if it has been changed since.

  Outside a checkout it is None.
  """
  git = ['git', '-C', str(Path(__file__).parent)]
  try:
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    head = run([*git, 'rev-parse', 'HEAD']).stdout.strip()
    changed = run([*git, 'status', '--porcelain', '--untracked-files=no']).stdout
  except (OSError, subprocess.CalledProcessError):
    return None
  return head + ('+' if changed.strip() else '')


def hardware() -> dict[str, Any]:
  """Describes the machine of this process, without its name.

  Returns:
    'system', 'machine', 'cores' (those that this process may use), 'cpu' where the
    system tells its name, and, if anything has imported JAX, 'platform' and 'devices'
    (how many of each kind).
  """
  info: dict[str, Any] = {'system': platform.system(), 'machine': platform.machine()}
  if hasattr(os, 'sched_getaffinity'):
    info['cores'] = len(os.sched_getaffinity(0))
  else:
    info['cores'] = os.cpu_count()
  cpuinfo = Path('/proc/cpuinfo')
  if cpuinfo.is_file():
    lines = cpuinfo.read_text(errors='replace').splitlines()
    names = [line.split(':', 1)[1].strip() for line in lines if 'model name' in line]
    info |= {'cpu': names[0]} if names else {}
  if 'jax' in sys.modules:  # a baseline needs none, and starting it takes the device
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    info['platform'] = jax.default_backend()
    info['devices'] = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
  return info


def source() -> dict[str, Any]:
  """Returns all three, as results have them."""
  return dict(zip(SOURCE, (commit(), versions(), hardware()), strict=True))


def said_once(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Moves the `source` of measurements out of their rows, where it is the same.

  Args:
    rows: measurements with the keys of `SOURCE`; left only where they differ from the
      last row.

  Returns:
    The `source` of the last row.
  """
  common = {key: rows[-1][key] for key in SOURCE}
  for row in rows:
    for key, value in common.items():
      if row[key] == value:
        del row[key]
  return common

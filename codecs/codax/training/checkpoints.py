"""Checkpoints that notice damage: Orbax arrays under a SHA-256 manifest.

Orbax writes a step to a temporary folder and renames it when it is complete, but it
loads a flipped bit without a word. So after the rename every file is hashed and the
hashes are written, in one atomic step, to ``codax_manifest.json`` beside them. A step
without that file was never finished; a step whose files do not match it is damaged.
Neither is ever used: loading names it and takes the step before.

Layout: ``DIRECTORY/<step>/``. The state is stored as a flat dict of its leaves, and the
manifest holds their names, shapes and types, so a model that has changed since is told
from a damaged file.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from codax import files
from codax.errors import CodaxError
from codax.training import mesh as mesh_lib
from codax.training.optim import path_name

MANIFEST = 'codax_manifest.json'
_VERSION = 1


def save(directory: Path, step: int, state: Any, keep: int | None) -> None:
  """Saves a state and removes all but the newest `keep` steps.

  Args:
    directory: folder of all steps; made if missing.
    step: number of steps made.
    state: pytree of arrays.
    keep: number of steps that stay, at least 1; None is all.

  Raises:
    CodaxError: no space or no permission; earlier steps stay.
  """
  directory = Path(directory).absolute()
  path = directory / str(step)
  leaves, description = _flatten(state)
  try:
    if jax.process_index() == 0:
      directory.mkdir(parents=True, exist_ok=True)
      _check_space(directory, leaves)
      for leftover in (path, *directory.glob('*.orbax-checkpoint-tmp*')):
        _remove(leftover)
    mesh_lib.barrier(f'save_start_{step}')
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, leaves)
    mesh_lib.barrier(f'save_written_{step}')
    if jax.process_index() == 0:
      content = {'version': _VERSION, 'step': step, 'leaves': description}
      content['files'] = _hashes(path)
      content['sha256'] = _digest(content)
      files.write_text(path / MANIFEST, json.dumps(content, indent=1) + '\n')
      discard(directory, steps(directory)[: -keep if keep else 0])
  except (OSError, ValueError, RuntimeError) as e:
    text = ' '.join(str(e).split())
    if not isinstance(e, OSError) and not _says_os_error(text):
      raise  # a mistake in the program, not a full disk
    raise CodaxError(f'cannot save the checkpoint {path}: {text[:300]}') from e


def steps(directory: Path) -> list[int]:
  """Returns the steps that were finished, damaged or not, in ascending order."""
  directory = Path(directory)
  if not directory.is_dir():
    return []
  folders = [p for p in directory.iterdir() if p.name.isascii() and p.name.isdigit()]
  return sorted(int(p.name) for p in folders if (p / MANIFEST).is_file())


def _find_unfinished(directory: Path) -> list[Path]:
  """Returns the steps that were cut short, or have lost their manifest."""
  finished = {str(step) for step in steps(directory)}
  folders = directory.iterdir() if directory.is_dir() else ()
  return sorted(
    path for path in folders if path.name.isdecimal() and path.name not in finished
  )


def damage(directory: Path, step: int) -> str | None:
  """Returns a phrase that names the damaged file of a step; None if it is whole."""
  return _inspect(Path(directory) / str(step), step)[0]


def newest(directory: Path) -> int | None:
  """Returns the newest step that is whole, None if there is none.

  Newer steps that are damaged are named in a warning each. All processes of a
  multi-host run get the same answer.
  """
  good = -1
  if jax.process_index() == 0:
    for name in _find_unfinished(Path(directory)):
      logging.warning('checkpoint %s is not complete: it is passed over', name)
    for step in reversed(steps(directory)):
      reason = damage(directory, step)
      if reason is None:
        good = step
        break
      logging.warning(
        'checkpoint %s is damaged (%s): using the one before',
        Path(directory) / str(step),
        reason,
      )
  if jax.process_count() > 1:
    good = int(multihost_utils.broadcast_one_to_all(np.int32(good)))
  return None if good < 0 else good


def load(directory: Path, step: int, target: Any, mesh: Any) -> Any:
  """Loads a step, bit for bit, on the devices of this process.

  Args:
    directory: folder of all steps.
    step: result of `newest`.
    target: structure of the state: a pytree of arrays or `jax.ShapeDtypeStruct`.
    mesh: data mesh; the state is replicated on it.

  Raises:
    CodaxError: the step is damaged, or was made by another model.
  """
  path = Path(directory).absolute() / str(step)
  reason, manifest = _inspect(path, step)
  if reason is not None:
    raise CodaxError(f'checkpoint {path} is damaged ({reason})')
  wanted, description = _flatten(target, abstract=True)
  _check_same(path, manifest['leaves'], description)
  sharding = mesh_lib.replicated(mesh)
  wanted = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    for name, x in wanted.items()
  }
  with ocp.StandardCheckpointer() as checkpointer:
    leaves = checkpointer.restore(path, wanted)
  structure = jax.tree.structure(target)
  return jax.tree.unflatten(
    structure,
    [
      leaves[name] if name in leaves else _empty(text, sharding)
      for name, text in description.items()
    ],
  )


def load_arrays(directory: Path, step: int) -> dict[str, np.ndarray]:
  """Loads a step whose state is a flat dict, with the structure that it was saved with.

  Args:
    directory: folder with all steps.
    step: result of `newest`.

  Returns:
    NumPy arrays by name.

  Raises:
    CodaxError: the step is damaged.
  """
  path = Path(directory).absolute() / str(step)
  reason, manifest = _inspect(path, step)
  if reason is not None:
    raise CodaxError(f'checkpoint {path} is damaged ({reason})')
  wanted = {}
  for name, text in manifest['leaves'].items():
    dtype, shape = text.split('[')
    wanted[name] = jax.ShapeDtypeStruct(json.loads('[' + shape), dtype)
  found = load(directory, step, wanted, mesh_lib.make(1))
  return {name: np.asarray(value) for name, value in found.items()}


def discard(directory: Path, unneeded: Iterable[int]) -> None:
  """Removes steps; the first process does that."""
  if jax.process_index() == 0:
    for step in unneeded:
      _remove(Path(directory) / str(step))


def discard_after(directory: Path, step: int) -> None:
  """Removes every step after `step` (damaged, or never finished)."""
  directory = Path(directory)
  if jax.process_index() == 0 and directory.is_dir():
    for path in directory.iterdir():
      name = path.name.split('.')[0]
      if name.isascii() and name.isdigit() and (int(name) > step or '.' in path.name):
        _remove(path)
  mesh_lib.barrier(f'discard_{step}')


def _flatten(state: Any, abstract: bool = False) -> tuple[dict, dict[str, str]]:
  """Returns leaves by name, and the type of each as 'float32[3,4]'.

  Empty leaves have a type only: Orbax has no form for them.
  """
  leaves, description = {}, {}
  for key, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
    name = path_name(key).replace('/', '.') or 'state'
    if name in description:
      raise ValueError(f'two leaves of the state are named {name}')
    leaf = leaf if abstract else jax.numpy.asarray(leaf)
    description[name] = f'{leaf.dtype.name}{list(leaf.shape)}'.replace(' ', '')
    if 0 not in leaf.shape:
      leaves[name] = leaf
  return leaves, description


def _empty(text: str, sharding: Any) -> jax.Array:
  """Returns the zero-size array that `_flatten` described."""
  dtype, shape = text.split('[')
  return jax.device_put(jax.numpy.zeros(json.loads('[' + shape), dtype), sharding)


def _inspect(path: Path, step: int) -> tuple[str | None, dict]:
  """Returns a phrase that names the damage (None if whole) and the manifest."""
  try:
    manifest = json.loads((path / MANIFEST).read_bytes())
    seal = manifest.pop('sha256')
    if seal != _digest(manifest) or manifest['step'] != step:
      return f'{MANIFEST} does not match its own hash', {}
    recorded = manifest['files']
    entries = list(recorded.items())
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return f'{MANIFEST} cannot be read', {}
  for name, entry in entries:
    try:
      if _hash(path / name) != entry:
        return f'{name} does not match its hash', {}
    except OSError as e:
      return f'{name}: {e.strerror}', {}
  return None, manifest


def _hashes(path: Path) -> dict[str, str]:
  """Returns the SHA-256 of every file of a step, by its relative path."""
  paths = sorted(p for p in path.rglob('*') if p.is_file())
  return {p.relative_to(path).as_posix(): _hash(p) for p in paths}


def _hash(path: Path) -> str:
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _digest(content: dict) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_same(path: Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
  """Names the first leaf in which the stored and the wanted state differ."""
  for name in [*wanted, *stored]:
    if stored.get(name) != wanted.get(name):
      raise CodaxError(
        f'checkpoint {path} is of another model: {name} is '
        f'{stored.get(name, "missing")} there and {wanted.get(name, "missing")} here; '
        'use another --workdir'
      )


def _check_space(directory: Path, leaves: dict) -> None:
  """Raises OSError at once if the disk has no space for a state."""
  needed = sum(x.size * x.dtype.itemsize for x in leaves.values()) + 2**16
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise OSError(28, f'no space: {needed} bytes needed, {free} free')


def _says_os_error(text: str) -> bool:
  """Returns whether tensorstore's error text is about the disk."""
  text = text.lower()
  signs = ('no space', 'enospc', 'quota', 'permission denied', 'read-only', 'too large')
  return any(sign in text for sign in signs)


def _remove(path: Path) -> None:
  """Removes a step; its manifest first, so that half a step never counts as one."""
  if path.is_dir():
    if not (path / MANIFEST).is_dir():  # damage: a folder in its place
      (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)

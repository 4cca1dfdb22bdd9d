"""Networks of a run as a safetensors file, and trainings that begin from one.

A file holds the parameters of a state, float32, under their paths without the first
parts that only say where training keeps them ('encoder/Conv_0/kernel'), averaged where
the run averages them. Its metadata names family, step and configuration. Optimizer,
averages and all else that training keeps are not in it: a training that begins from
such a file (``config.init_from``) has step 0 and its own learning rates. A run's
``bundle.safetensors`` serves as well; what else a decoder needs is passed over.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from absl import logging

from codax import bundle as bundles
from codax import files
from codax.errors import CodaxError
from codax.training import checkpoints, settings
from codax.training.optim import path_name

CHECKPOINTS = 'checkpoints'
_FORMAT = 'codax-networks-1'
_PARAMS, _AVERAGE, _WEIGHT = 'params/', 'average/total/', 'average/weight'


class Networks(NamedTuple):
  """Contents of a file.

  Attributes:
    arrays: float32 arrays by name, all of them finite.
    path: the file, for messages.
    is_bundle: True for a bundle, which may hold a part in another form.
  """

  arrays: dict[str, np.ndarray]
  path: str
  is_bundle: bool = False


def save(workdir: str | os.PathLike, path: str | os.PathLike) -> int:
  """Writes the networks of a run's newest checkpoint.

  Args:
    workdir: work directory of a run, under way or complete.
    path: file to write.

  Returns:
    The step of the checkpoint.

  Raises:
    CodaxError: the directory holds no checkpoint that is whole, or none with
      parameters.
    OSError: no space, no permission.
  """
  workdir = Path(workdir).expanduser()
  config = _read_config(workdir)
  step = checkpoints.newest(workdir / CHECKPOINTS)
  if step is None:
    raise CodaxError(f'{workdir} holds no checkpoint that is whole')
  state = checkpoints.load_arrays(workdir / CHECKPOINTS, step)
  # checkpoints have dots in the place of slashes
  arrays = collect({name.replace('.', '/'): x for name, x in state.items()})
  if not arrays:
    raise CodaxError(f'{workdir}: its checkpoint of step {step} holds no parameters')
  text = json.dumps(config, sort_keys=True)
  metadata = {'format': _FORMAT, 'family': str(config.get('family', ''))}
  metadata |= {'step': str(step), 'config': text}
  files.write_bytes(path, safetensors.numpy.save(arrays, metadata))
  return step


def _read_config(workdir: Path) -> dict[str, Any]:
  """Reads the configuration of a run."""
  try:
    return files.read_json(workdir / settings.FILE_NAME)
  except FileNotFoundError as e:
    raise CodaxError(
      f'{workdir} is not a run directory: it holds no {settings.FILE_NAME}'
    ) from e


def collect(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Collects the parameters of a state, averaged where there is an average of them.

  Args:
    state: arrays by path, 'params/encoder/kernel'; a running average has the same
      paths, or ends of them, under 'average/total', and 'average/weight'.

  Returns:
    float32 arrays by path, without 'params/' and what of it an average leaves out.
  """
  weight = float(state.get(_WEIGHT, 0.0))
  totals = {k.removeprefix(_AVERAGE): k for k in state if k.startswith(_AVERAGE)}
  arrays = {}
  for name, value in state.items():
    if not name.startswith(_PARAMS):
      continue
    name = name.removeprefix(_PARAMS)
    short = next((x for x in _ends(name) if x in totals), None)
    if short is not None and weight > 0:
      value = np.asarray(state[totals[short]], np.float64) / weight
    arrays[short or name] = np.ascontiguousarray(value, np.float32)
  return arrays


def _ends(name: str) -> list[str]:
  """Returns a path and its ends: 'a/b/c', 'b/c', 'c'."""
  parts = name.split('/')
  return ['/'.join(parts[i:]) for i in range(len(parts))]


def load(path: str | os.PathLike, family: str = '') -> Networks:
  """Reads the arrays of a file of networks or of a bundle.

  Args:
    path: the file.
    family: family that it has to be of; '' takes any.

  Raises:
    CodaxError: no such file, another kind of file, damage, or another family.
  """
  path = Path(path).expanduser()
  try:
    data = path.read_bytes()
  except OSError as e:
    raise CodaxError(f'config.init_from: {path}: {e.strerror}') from e
  try:
    metadata = bundles.read_metadata(data)
    arrays = safetensors.numpy.load(data)
  # Damage can surface anywhere in two parsers; all of it means the same to a user.
  except Exception as e:
    raise CodaxError(f'{path} is not a readable safetensors file: {e}') from e
  if metadata.get('format') == bundles.FORMAT:
    owner = bundles.load(path).family
  elif metadata.get('format') == _FORMAT:
    owner = metadata.get('family', '')
  else:
    raise CodaxError(f'{path} is a safetensors file, but not of networks of codax')
  if family and owner and owner != family:
    raise CodaxError(f'{path} holds networks of family {owner!r}, not {family!r}')
  is_float = lambda x: x.dtype.kind == 'f'
  arrays = {k: np.float32(x) for k, x in arrays.items() if is_float(x)}
  if not arrays:
    raise CodaxError(f'{path} holds no networks')
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      raise CodaxError(f'{path}: {name} is not finite')
  return Networks(arrays, str(path), metadata['format'] == bundles.FORMAT)


def insert(params: Any, networks: Networks) -> Any:
  """Puts the arrays of a file in the place of parameters.

  A parameter takes the array of its path, or of an end of it. Of each part (first name
  of the paths) a file has all parameters or none; parts that it does not have stay, and
  so do those that a bundle has in another form.

  Args:
    params: pytree of parameters.
    networks: result of `load`.

  Returns:
    The pytree, with NumPy arrays of the parameters' types where the file has some.

  Raises:
    CodaxError: no parameter is in the file, a part is incomplete, or a shape differs.
  """
  arrays, path = networks.arrays, networks.path
  found, missing = {}, {}
  for key, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = path_name(key)
    part = name.split('/')[0]
    array = next((arrays[x] for x in _ends(name) if '/' in x and x in arrays), None)
    array = arrays.get(name, array)
    if array is None:
      missing.setdefault(part, name)
      continue
    if array.shape != leaf.shape:
      raise CodaxError(
        f'{path}: {name} is {list(array.shape)} there and {list(leaf.shape)} here'
      )
    found.setdefault(part, {})[name] = array.astype(leaf.dtype)
  if networks.is_bundle:
    found = {part: x for part, x in found.items() if part not in missing}
  if not found:
    raise CodaxError(f'{path} holds none of the parameters of this model')
  for part in found:
    if part in missing:
      raise CodaxError(f'{path} has other networks: {missing[part]} is not in it')
  stay = ', '.join(sorted(missing)) or 'nothing'
  logging.info('%s: %s; at its initial values: %s', path, ', '.join(found), stay)
  every = {name: x for part in found.values() for name, x in part.items()}
  pick = lambda key, leaf: every.get(path_name(key), leaf)
  return jax.tree_util.tree_map_with_path(pick, params)


def load_initial(config: Mapping[str, Any]) -> Networks | None:
  """Reads the networks of ``config.init_from``; None if it names no file.

  Raises:
    CodaxError: see `load`.
  """
  path = config.get('init_from', '')
  return load(path, str(config.get('family', ''))) if path else None


def initialize(state: Any, networks: Networks | None, put: Any) -> Any:
  """Returns a first state with the networks of a file, if there are any.

  Args:
    state: state of step 0, with `params`.
    networks: result of `load_initial`.
    put: function that puts a pytree of arrays on the devices.

  Raises:
    CodaxError: see `insert`, or a state without parameters.
  """
  if networks is None:
    return state
  params = getattr(state, 'params', None)
  if not params:
    raise CodaxError('config.init_from: this family keeps no parameters in its state')
  return state.replace(params=put(insert(params, networks)))

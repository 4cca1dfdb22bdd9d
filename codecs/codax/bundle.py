"""Bundles: all that the decoder of a trained codec needs, in one file.

A bundle holds the weights and integer tables as safetensors arrays, and the family
name, the configuration and the final metrics as JSON in the same file's metadata. Its
id is the SHA-256 of all of that, in a canonical order that does not depend on how the
file was written. A ``.cdx`` file names the first eight bytes of the id, so a file can
never be decoded with other weights than those it was made with.

This module needs NumPy and safetensors only.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from codax import files
from codax.bitstream import BitstreamError
from codax.errors import CodaxError

FILE_NAME = 'bundle.safetensors'
# Names, shapes, configuration and metrics; parsing takes some 30 times as much memory.
MAX_HEADER = 2**22
FORMAT = 'codax-bundle-1'
_INDEX = re.compile(r'\[(\d+)\]')


class Bundle(NamedTuple):
  """A trained codec.

  Attributes:
    family: name in the codec registry.
    config: JSON-able dict, configuration of the experiment.
    arrays: name ('a/b/c') -> array, little-endian and contiguous.
    metrics: JSON-able dict of final metrics.
    id: 32 bytes, SHA-256 of the four fields above.
  """

  family: str
  config: dict
  arrays: dict[str, np.ndarray]
  metrics: dict
  id: bytes


def make(
  family: str, config: Mapping, arrays: Mapping[str, Any], metrics: Mapping
) -> Bundle:
  """Makes a bundle and its id.

  Args:
    family: name in the codec registry.
    config: a dict or ConfigDict of JSON-able values (tuples become lists).
    arrays: name -> NumPy or JAX array; see `flatten`.
    metrics: a dict of JSON-able values; NumPy and JAX scalars become numbers.

  Raises:
    CodaxError: a value that JSON or safetensors cannot hold.
  """
  config = _plain('config', config.to_dict() if hasattr(config, 'to_dict') else config)
  metrics = _plain('metrics', metrics)
  arrays = {name: _canonical(name, arrays[name]) for name in sorted(arrays)}
  return Bundle(family, config, arrays, metrics, _id(family, config, arrays, metrics))


def save(bundle: Bundle, path: str | os.PathLike) -> None:
  """Writes the bundle to `path`, whole or not at all."""
  text = {'family': bundle.family, 'config': bundle.config, 'metrics': bundle.metrics}
  metadata = {'format': FORMAT, 'id': bundle.id.hex()}
  metadata['json'] = json.dumps(text, sort_keys=True, allow_nan=False)
  data = safetensors.numpy.save(dict(bundle.arrays), metadata)
  if int.from_bytes(data[:8], 'little') > MAX_HEADER:
    raise CodaxError(
      f'the names, configuration and metrics of a bundle take up to {MAX_HEADER} bytes'
    )
  files.write_bytes(path, data)


def load(path: str | os.PathLike) -> Bundle:
  """Reads a bundle and verifies its id.

  Args:
    path: a bundle file, or a run directory that holds one.

  Raises:
    CodaxError: no such file, not a bundle, or contents that do not match the id.
  """
  if not isinstance(path, str | os.PathLike):
    raise CodaxError(
      'a model is a run directory, a bundle file or a loaded bundle, not '
      f'{type(path).__name__}'
    )
  path = Path(path).expanduser()
  if path.is_dir():
    if not (path / FILE_NAME).is_file():
      raise CodaxError(
        f'{path} holds no {FILE_NAME}: it is not a run directory, or its training '
        'has not finished'
      )
    path = path / FILE_NAME
  if not path.is_file():
    raise CodaxError(f'no such bundle or run directory: {path}')
  data = path.read_bytes()
  try:
    metadata = read_metadata(data)
    if metadata.get('format') != FORMAT:
      raise CodaxError(f'{path} is a safetensors file but not a codax bundle')
    text = json.loads(metadata['json'])
    family, config, metrics = text['family'], text['config'], text['metrics']
    arrays = safetensors.numpy.load(data)
    arrays = {name: _canonical(name, arrays[name]) for name in sorted(arrays)}
    identity = _id(family, config, arrays, metrics)
  except CodaxError:
    raise
  # Damage can surface anywhere in two parsers; all of it means the same to a user.
  except Exception as e:
    raise CodaxError(f'{path} is not a readable bundle: {e}') from e
  if metadata.get('id') != identity.hex():
    raise CodaxError(
      f'{path} is damaged: its contents have id {identity.hex()[:16]}, '
      f'it says {str(metadata.get("id"))[:16]}'
    )
  return Bundle(family, config, arrays, metrics, identity)


def check_id(bundle: Bundle | bytes, file_id8: bytes | None) -> None:
  """Checks that a file was made with this bundle.

  Args:
    bundle: the bundle about to be used, or its id.
    file_id8: the 8 bytes in the file's header, None if it has none.

  Raises:
    BitstreamError: naming both ids.
  """
  identity = bundle.id if isinstance(bundle, Bundle) else bundle
  if file_id8 is None:
    raise BitstreamError('the file names no bundle, though its codec needs one')
  if bytes(file_id8) != identity[:8]:
    raise BitstreamError(
      f'the file was made with bundle {bytes(file_id8).hex()}, '
      f'not with this one ({identity[:8].hex()})'
    )


def flatten(tree: Any, prefix: str = '') -> dict[str, np.ndarray]:
  """Flattens nested dicts and lists of arrays to {'a/b/[0]': array}.

  Args:
    tree: nested dicts (string keys without '/'), lists and tuples of arrays.
    prefix: text before every name, with a '/' between.

  Returns:
    Names to NumPy arrays. Empty dicts and lists leave no trace.
  """
  if isinstance(tree, Mapping):
    items = list(tree.items())
    for key, _ in items:
      if not isinstance(key, str) or '/' in key or not key or _INDEX.fullmatch(key):
        raise ValueError(f'{key!r} cannot be part of an array name')
  elif isinstance(tree, list | tuple):
    items = [(f'[{i}]', value) for i, value in enumerate(tree)]
  else:
    return {prefix: np.asarray(tree)}
  flat = {}
  for key, value in items:
    flat.update(flatten(value, f'{prefix}/{key}' if prefix else key))
  return flat


def unflatten(arrays: Mapping[str, Any], prefix: str = '') -> Any:
  """Returns the inverse of `flatten`, tuples having become lists.

  Args:
    arrays: names to arrays.
    prefix: first part of names; only those under ``prefix + '/'`` are taken, all if
      it is empty.

  Raises:
    CodaxError: the names do not form a tree.
  """
  if prefix in arrays:
    return arrays[prefix]
  start = prefix + '/' if prefix else ''
  tree: dict = {}
  for name, value in arrays.items():
    if not name.startswith(start):
      continue
    node = tree
    *parents, last = name[len(start) :].split('/')
    for key in parents:
      node = node.setdefault(key, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last in node or not last:
      raise CodaxError(f'array {name!r} is in the place of another')
    node[last] = value
  return _lists(tree)


def _lists(tree: Any) -> Any:
  """Turns dicts whose keys are '[0]', '[1]', ... into lists."""
  if not isinstance(tree, dict):
    return tree
  names = [f'[{i}]' for i in range(len(tree))]
  if tree and set(names) == set(tree):
    return [_lists(tree[name]) for name in names]
  return {key: _lists(value) for key, value in tree.items()}


def _plain(what: str, value: Any) -> Any:
  """Returns `value` as JSON would give it back: a bundle made equals one loaded."""

  def number(x: Any) -> Any:
    if hasattr(x, 'tolist'):
      return x.tolist()
    raise TypeError(f'{type(x).__name__} has no JSON form')

  try:
    return json.loads(json.dumps(value, default=number, allow_nan=False))
  except (TypeError, ValueError) as e:
    raise CodaxError(f'the {what} of a bundle must be JSON-able: {e}') from e


def _canonical(name: str, value: Any) -> np.ndarray:
  """Returns a contiguous little-endian array of a dtype that safetensors holds."""
  array = np.asarray(value)
  if array.dtype.kind not in 'biuf' or array.dtype.itemsize > 8:
    raise CodaxError(
      f'array {name!r} has dtype {array.dtype}; a bundle holds bool, integers and '
      'float16, float32 and float64'
    )
  if array.dtype.byteorder == '>' or (array.dtype.byteorder == '=' and not _LITTLE):
    array = array.astype(array.dtype.newbyteorder('<'))
  return np.ascontiguousarray(array).reshape(array.shape)  # a scalar stays one


_LITTLE = np.dtype('<i4').isnative


def _id(family: str, config: Any, arrays: Mapping, metrics: Any) -> bytes:
  """Hashes a header that fixes every length, then the arrays in name order."""
  names = sorted(arrays)
  shapes = [[n, arrays[n].dtype.name, list(arrays[n].shape)] for n in names]
  head = [FORMAT, family, config, metrics, shapes]
  text = json.dumps(head, sort_keys=True, separators=(',', ':'), allow_nan=False)
  digest = hashlib.sha256(len(text).to_bytes(8, 'little') + text.encode('ascii'))
  for name in names:
    digest.update(arrays[name].tobytes())
  return digest.digest()


def read_metadata(data: bytes) -> dict[str, str]:
  """Returns the JSON metadata in the header of a safetensors file.

  Raises:
    ValueError: the header is longer than the file, or than `MAX_HEADER`.
  """
  length = int.from_bytes(data[:8], 'little')
  if length > len(data) - 8:
    raise ValueError('its header is longer than the file')
  if length > MAX_HEADER:
    raise ValueError(f'its header has {length} bytes; valid: up to {MAX_HEADER}')
  return json.loads(data[8 : 8 + length]).get('__metadata__', {})

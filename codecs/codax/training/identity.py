"""Identity of a run's data: a resumed run has to see the images it began with.

``data.json`` in the work directory holds the number of training images, hashes of their
names and file sizes, and a hash of the very pixels where they are held on the device,
else of the files, as well as that of the held-out batches. A folder to which an image
was added, or in which one was edited, is another data set; one that was moved is not.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from codax import files
from codax.errors import CodaxError

FILE_NAME = 'data.json'
# Entries of `describe` as messages call them.
_MEANING = {
  'images': 'number of training images',
  'names': 'names of the training images',
  'sizes': 'file sizes of the training images',
  'shape': 'shape of the training images',
  'files': 'contents of the training images',
  'origin': 'version of the data set',
  'content': 'pixels of the training images',
  'held_out': 'held-out images',
  'outside': 'image outside the training set',
}


def describe(pipeline: Any, eval_batches: list[dict]) -> dict[str, Any]:
  """Returns the identity of the data, a JSON-able dict.

  Args:
    pipeline: argument of the loop; `source.fingerprint` is used if there is a source.
    eval_batches: dicts of NumPy arrays, the held-out data.
  """
  source, is_resident = getattr(pipeline, 'source', None), pipeline.arrays is not None
  out = {} if source is None else dict(source.fingerprint(contents=not is_resident))
  if is_resident:
    out['content'] = hash_arrays(pipeline.arrays)
  out['held_out'] = hash_arrays(eval_batches)
  return out


def hash_arrays(tree: Any) -> str:
  """Returns the SHA-256 of a pytree of arrays: names, dtypes, shapes and bytes."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    array = np.ascontiguousarray(leaf)
    text = f'{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape};'
    digest.update(text.encode())
    digest.update(array.data.cast('B') if array.size else b'')
  return digest.hexdigest()


def save(identity: Mapping[str, Any], workdir: Path) -> None:
  """Writes an identity to ``data.json``."""
  text = json.dumps(dict(identity), indent=1, sort_keys=True)
  files.write_text(Path(workdir) / FILE_NAME, text + '\n')


def check_same(
  identity: Mapping[str, Any], workdir: Path, only_source: bool = False
) -> None:
  """Checks the data of a run that is to go on.

  A run of an earlier version has no ``data.json``: it is taken at its word.

  Args:
    identity: result of `describe`.
    workdir: work directory of the run.
    only_source: whether `identity` is that of a source's fingerprint without contents.

  Raises:
    CodaxError: the run began with other data, or ``data.json`` is damaged.
  """
  try:
    old = files.read_json(Path(workdir) / FILE_NAME)
  except FileNotFoundError:
    return
  except CodaxError as e:
    raise CodaxError(f'{e}; use another --workdir') from e
  if 'held_out' not in old:
    raise CodaxError(
      f'{Path(workdir) / FILE_NAME} is damaged: it describes no data; use another '
      '--workdir'
    )
  new = json.loads(json.dumps(dict(identity)))
  # earlier versions had fewer entries
  keys = [key for key in _MEANING if key in old and (key in new or not only_source)]
  changed = [key for key in keys if old[key] != new.get(key)]
  if changed:
    text = ', '.join(_MEANING[key] for key in changed)
    counts = ''
    if 'images' in changed:
      counts = f' ({old.get("images")} there, {new.get("images")} here)'
    raise CodaxError(
      f'{workdir} holds a run on other data: the {text} changed{counts}; '
      'use another --workdir'
    )

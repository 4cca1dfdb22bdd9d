"""Results as JSON files, each of a declared kind and schema.

Whoever reads results asks for their kind and never guesses it from their keys. Files of
an older schema are brought up to this one by `upgrade`; files of a newer one, of an
unknown kind or damaged ones are an error that names the file. 'checksum' in a file is
the SHA-256 of all else in it; files without it, written by hand or long ago, are taken
at their word.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from codax import files
from codax.errors import CodaxError, unknown
from codax.reports import upgrade

SCHEMA = 1
KINDS = (
  'held_out',  # files of held-out images, at the end of a training run
  'comparison',  # images x codecs (launch/evaluate.py)
  'sweep',  # a grid of runs (launch/sweep.py), with its statistics
  'study',  # a one-off study (launch/studies)
  'train_times',  # launch/bench.py train
  'step_times',  # launch/bench.py images
  'decode_times',  # launch/bench.py decode
  'activation_times',  # launch/bench.py activations
  'layer_times',  # launch/bench.py kan
  'memory',  # launch/studies/memory.py
  'published',  # rate-distortion points that others have published
)

_SEAL = 'checksum'
_BY_HAND = 'published'  # the kind that people edit


class Damaged(CodaxError):
  """A file that does not hold results."""


def save(path: str | Path, kind: str, content: Mapping[str, Any]) -> None:
  """Writes results, whole or not at all.

  Args:
    path: JSON file.
    kind: one of `KINDS`.
    content: JSON-able; infinities become strings and NaN becomes null.
  """
  if kind not in KINDS:
    raise unknown('kind of results', kind, KINDS)
  content = {k: v for k, v in content.items() if k not in ('kind', 'schema', 'name')}
  content = _strict({'kind': kind, 'schema': SCHEMA, **content})
  if kind == _BY_HAND:
    files.write_text(path, files.json_text(content))
  else:
    write_sealed(path, content)


def check_output(path: str, inputs: Iterable[str] = ()) -> str:
  """Checks before long work that results can be written, and overwrite no input.

  Args:
    path: JSON file to be; its folder is made.
    inputs: files that the work reads.

  Returns:
    The path with a leading ``~`` expanded.

  Raises:
    CodaxError: another suffix, as of an image named by mistake, or one of `inputs`.
    OSError: no space, no permission; names the path.
  """
  path = os.path.expanduser(path)
  if Path(path).suffix != '.json':
    raise CodaxError(f'{path} is not the name of a .json file, as results are')
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  files.try_writing(path)
  if os.path.exists(path) and any(os.path.samefile(path, one) for one in inputs):
    raise CodaxError(f'{path} is one of the inputs: choose another name')
  return path


def write_sealed(path: str | Path, content: Mapping[str, Any]) -> None:
  """Writes JSON with its own hash, whole or not at all."""
  as_read = json.loads(files.json_text(dict(content)))
  files.write_text(path, files.json_text({**as_read, _SEAL: _seal(as_read)}))


def read_sealed(path: str | Path) -> dict[str, Any]:
  """Reads JSON of `write_sealed`, or without a hash.

  Raises:
    Damaged: the file is no JSON object, or does not match its hash; names it.
    OSError: the file cannot be read.
  """
  try:
    content = files.read_json(path)
  except CodaxError as e:
    raise Damaged(str(e)) from e
  seal = content.pop(_SEAL, None)
  if seal not in (None, _seal(content)):
    raise Damaged(f'{path} is damaged: it does not match its own checksum')
  return content


def _seal(content: Mapping[str, Any]) -> str:
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  return f'sha256:{digest.hexdigest()}'


def load(path: str | Path, kind: str | None = None) -> dict[str, Any]:
  """Reads results, brought up to this schema.

  Args:
    path: JSON file.
    kind: the only kind that will do; any of `KINDS` if None.

  Returns:
    The content, with the file's name, without suffix, under 'name'.

  Raises:
    Damaged: the file is not JSON, or holds no results.
    CodaxError: unknown or another kind, or a newer schema. One line with the path.
    OSError: the file cannot be read.
  """
  path = Path(path)
  content = read_sealed(path)
  try:
    content = upgrade.upgrade(content, path.stem)
  except (KeyError, TypeError, ValueError, AttributeError) as e:
    raise Damaged(f'{path} holds no results ({e!r})') from e
  if content['kind'] not in KINDS:
    raise CodaxError(f'{path}: {unknown("kind of results", content["kind"], KINDS)}')
  if not isinstance(content['schema'], int) or content['schema'] > SCHEMA:
    raise CodaxError(
      f'{path}: results of schema {content["schema"]}, and this codax reads up to '
      f'{SCHEMA}: update codax'
    )
  if kind is not None and content['kind'] != kind:
    raise CodaxError(f'{path}: results of kind {content["kind"]!r}, not {kind!r}')
  return {**content, 'name': path.stem}


def load_all(folder: Path) -> list[dict[str, Any]]:
  """Reads every results file of a folder and of its folder ``published``, by name."""
  paths = sorted([*folder.glob('*.json'), *folder.glob('published/*.json')])
  return [load(path) for path in paths]


def load_if_same_request(
  path: Path, where: Path, wanted: Mapping[str, Any], under: str | None = None
) -> dict[str, Any] | None:
  """Reads a finished measurement, if it was made from the same request.

  Args:
    path: JSON file of the measurement.
    where: folder or file that the error names.
    wanted: the request, by key.
    under: key of the request in the file; None if its keys are at the top.

  Returns:
    The content; None if there is none yet, or a damaged one, which a warning says.

  Raises:
    CodaxError: the measurement was made from another request.
    OSError: the file cannot be read.
  """
  try:
    content = read_sealed(path)
    asked = content if under is None else content[under]
    found = {key: asked[key] for key in wanted}
  except FileNotFoundError:
    return None
  except (Damaged, KeyError, TypeError) as e:
    reason = e if isinstance(e, Damaged) else f'{path} is damaged: it has no request'
    logging.warning('%s; it is made again', reason)
    return None
  for key, value in wanted.items():
    if found[key] != value:
      raise CodaxError(
        f'{where} holds a run with {key} = {found[key]}, not {value}: choose another '
        '--out, or remove it'
      )
  return content


def _strict(value: Any) -> Any:
  """Replaces NaN, which JSON does not have, by None."""
  if isinstance(value, Mapping):
    return {key: _strict(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_strict(x) for x in value]
  return None if isinstance(value, float) and math.isnan(value) else value

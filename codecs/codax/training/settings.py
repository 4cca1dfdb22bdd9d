"""The keys of a configuration that the training loop itself reads, and their checks."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codax import config as configs
from codax import errors, files
from codax.config import MAX_FLOAT, MAX_INT, check_present, check_range
from codax.errors import CodaxError

FILE_NAME = 'config.json'

# Keys that may differ when a run goes on: later metrics do not depend on them.
_MAY_CHANGE = frozenset(
  'max_seconds checkpoint_every keep_checkpoints keep_images writers'
  ' profile_steps data.skip_bad'.split()
)
# Places of images: they may differ if a file in the work directory identifies these.
_PLACES = frozenset({'data.path', 'data.data_dir'})
_IDENTITIES = ('data.json', 'images.json')
_MAX_SEED = 2**32 - 1  # JAX's keys take no more: larger seeds would be cut silently
# Bounds of numbers, both included; (1, MAX_INT) of the others.
_RANGES = {
  'seed': (0, _MAX_SEED),
  'eval_every': (0, MAX_INT),
  'max_seconds': (0, MAX_FLOAT),
  'report_images': (0, MAX_INT),
  'outside_every': (0, MAX_INT),
  'outside_size': (32, MAX_INT),
  'patience': (0, MAX_INT),
}


# Keys of earlier versions and their names today.
RENAMED = {'keep_pictures': 'keep_images', 'report_pictures': 'report_images'}


class Settings(NamedTuple):
  """Keys of ``config`` that the loop reads; see `read`.

  Attributes:
    seed: seed of all random numbers, 0 to 2**32 - 1.
    total_steps: number of steps of the whole training, 1 or more.
    steps_per_call: number of steps in one dispatch. Logging, evaluation and saving
      come after whole dispatches only; the last one may be shorter.
    log_every: steps between lines of training metrics; the line comes with the first
      dispatch that ends at or after a multiple and holds the means since the line
      before.
    eval_every: steps between evaluations, likewise, and one at the end; 0 is the end
      only.
    checkpoint_every: steps between checkpoints, likewise.
    keep_checkpoints: number of checkpoints that stay.
    keep_images: number of mosaics that stay.
    max_seconds: seconds of this process until it saves and stops; 0 is no limit.
    writers: boards beside metrics.jsonl, names from `boards.NAMES`.
    profile_steps: (first step, number of steps) to trace with JAX's profiler; none
      for a number of 0.
    report_images: number of held-out images that become files at the end of training.
    init_from: file of networks that training begins with, see `networks`; '' is none.
    outside_image: image that is reconstructed under way, a file or the name of an
      embedded photograph that is not trained on, see `outside`; '' is none.
    outside_every: steps between its reconstructions, as with `log_every`; 0 is
      whenever the run evaluates.
    outside_size: greatest number of pixels a side of it; larger ones are reduced.
    patience: evaluations in a row without a better score, after which training is
      complete, with the best state instead of the last; 0 is no end but the last step.
  """

  seed: int
  total_steps: int
  steps_per_call: int = 1
  log_every: int = 100
  eval_every: int = 0
  checkpoint_every: int = 1000
  keep_checkpoints: int = 2
  keep_images: int = 8
  max_seconds: float = 0.0
  writers: tuple[str, ...] = ('tensorboard',)
  profile_steps: tuple[int, int] = (0, 0)
  report_images: int = 24
  init_from: str = ''
  outside_image: str = ''
  outside_every: int = 0
  outside_size: int = 256
  patience: int = 0


_DEFAULTS = Settings._field_defaults


def defaults(**changes: Any) -> dict[str, Any]:
  """Returns every key that `read` takes and its value, for a family's configuration.

  Args:
    **changes: values that differ, `total_steps` among them.
  """
  return Settings(**{'seed': 0, **changes})._asdict()


def read(config: Mapping[str, Any]) -> Settings:
  """Takes the loop's keys out of a configuration.

  Raises:
    CodaxError: a key without default is missing, or a number is out of range.
  """
  for key, new in RENAMED.items():
    if key in config:
      raise errors.renamed(key, new)
  values = {k: config[k] for k in Settings._fields if k in config}
  check_present(config, (k for k in Settings._fields if k not in _DEFAULTS))
  settings = Settings(**values)
  for key in ('init_from', 'outside_image'):
    if not isinstance(getattr(settings, key), str):
      raise CodaxError(f'config.{key} is {values[key]!r}; valid: a name in quotes')
  for key in Settings._fields:
    if key not in ('writers', 'profile_steps', 'init_from', 'outside_image'):
      low, high = _RANGES.get(key, (1, MAX_INT))
      check_range(
        f'config.{key}', getattr(settings, key), low, high,
        is_integer=key != 'max_seconds',
      )  # fmt: skip
  return settings._replace(
    writers=board_names(settings.writers), profile_steps=_window(settings.profile_steps)
  )


def check_keys(config: Mapping[str, Any], own: Iterable[str]) -> None:
  """Checks the keys of a configuration that are in no section.

  Args:
    config: the whole configuration.
    own: keys of the family; those of the loop and its command are valid anyway.

  Raises:
    CodaxError: a key is renamed, or not valid; names the nearest.
  """
  valid = {*own, *Settings._fields, 'family', 'data'}
  configs.check_keys(config, valid, 'config', RENAMED)


def board_names(value: Any) -> tuple[str, ...]:
  """Returns ``config.writers`` as a tuple; a single name may stand alone."""
  names = (value,) if isinstance(value, str) else value or ()
  if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
    raise CodaxError(f'config.writers is {value!r}; valid: a tuple of names')
  return tuple(name for name in names if name)


def _window(value: Any) -> tuple[int, int]:
  """Returns the checked ``config.profile_steps``."""
  steps = tuple(value) if isinstance(value, tuple | list) else ()
  is_valid = len(steps) == 2 and all(
    isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in steps
  )
  if not is_valid:
    raise CodaxError(
      f'config.profile_steps is {value!r}; valid: (first step, number of steps), '
      'two integers of 0 or more'
    )
  return steps


def crossed(before: int, after: int, every: int) -> bool:
  """Returns whether a multiple of `every` lies in (before, after]."""
  return every > 0 and after // every > before // every


def plain(config: Any) -> dict[str, Any]:
  """Returns a configuration as JSON gives it back (tuples become lists)."""
  config = config.to_dict() if hasattr(config, 'to_dict') else config
  try:
    return json.loads(json.dumps(config))
  except TypeError as e:
    raise CodaxError(f'the configuration must be JSON-able: {e}') from e


def save(config: Any, workdir: Path) -> None:
  """Writes the whole configuration to ``config.json``."""
  text = json.dumps(plain(config), indent=2, sort_keys=True)
  files.write_text(Path(workdir) / FILE_NAME, text + '\n')


def check_same(config: Any, workdir: Path) -> None:
  """Checks a configuration against that of the run which is to go on.

  A folder of images that was moved is no change: the images are checked beside, see
  `identity.check_same` and `per_image.result.check_images`.

  Raises:
    CodaxError: the work directory belongs to another configuration.
  """
  path = Path(workdir) / FILE_NAME
  new = plain(config)
  try:
    old = files.read_json(path)
  except FileNotFoundError:
    return  # it was removed by hand; the checkpoint still has to fit the model
  except CodaxError as e:
    raise CodaxError(f'{e}; use another --workdir') from e
  has_identity = any((Path(workdir) / name).is_file() for name in _IDENTITIES)
  may_change = _MAY_CHANGE | (_PLACES if has_identity else set())
  changed = [
    key
    for key in sorted(_paths(old) | _paths(new))
    if _at(old, key) != _at(new, key) and key not in may_change
  ]
  if changed:
    shown = ', '.join(
      f'{key} ({_show(_at(old, key))} there, {_show(_at(new, key))} here)'
      for key in changed[:5]
    )
    more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
    raise CodaxError(
      f'{workdir} holds a run of another configuration: {shown}{more}; '
      'use another --workdir'
    )


_ABSENT = object()
# Keys that earlier versions did not have, and what these did.
_LATER = {
  key: _DEFAULTS[key]
  for key in ('init_from', 'outside_image', 'outside_every', 'outside_size', 'patience')
} | {
  'data.val_fraction': 0.0,
  'data.epochs': False,
  'quantize_from': 0.0,
  'quantize_when': 'share',
}


def _paths(tree: Any, prefix: str = '') -> set[str]:
  """Returns the dotted paths of all leaves."""
  if not isinstance(tree, dict) or not tree:
    return {prefix} if prefix else set()
  return set().union(
    *(_paths(v, f'{prefix}.{k}' if prefix else k) for k, v in tree.items())
  )


def _at(tree: Any, path: str) -> Any:
  """Returns the value at a path; earlier versions lack some keys of the loop."""
  for key in path.split('.'):
    if not isinstance(tree, dict) or key not in tree:
      return _LATER.get(path, _ABSENT)
    tree = tree[key]
  return tree


def _show(value: Any) -> str:
  return 'absent' if value is _ABSENT else json.dumps(value)

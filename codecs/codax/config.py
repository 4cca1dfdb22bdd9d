"""Turns a section of a configuration into a checked record.

One declarative function for every family and every part::

  class Schedule(NamedTuple):
    steps: int = 1000
    blend: str = 'normalized'

  parse(config.schedule, Schedule, 'config.schedule',
        choices={'blend': ('normalized', 'sum')}, ranges={'steps': (1, 2**31 - 1)},
        renamed={'how': 'blend'})

Unknown keys are refused with the nearest valid one, renamed keys with their new name,
values by type, range and choice; each error is one line that names the key in full.
"""

import difflib
import math
import numbers
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from codax import errors
from codax.errors import CodaxError, unknown

Record = TypeVar('Record', bound=tuple)

# (low, high), both included; None leaves a side open.
Range = tuple[float | None, float | None]
MAX_INT = 2**31 - 1  # counts of steps and sizes are int32 inside programs
MAX_FLOAT = 1e9  # far beyond any number of a configuration that has a meaning


def parse(
  section: Mapping[str, Any],
  record: Callable[..., Record],
  path: str,
  *,
  choices: Mapping[str, Iterable[Any]] = {},
  ranges: Mapping[str, Range] = {},
  renamed: Mapping[str, str] = {},
  nested: Mapping[str, Callable[[Any, str], Any]] = {},
  ignored: Collection[str] = (),
) -> Record:
  """Makes a record of a section of a configuration.

  A value must have the type of the field's default: a bool, an int (whole floats are
  none), a float (ints are fine), a str, or a tuple (lists are fine; one number or
  string stands for a tuple of it). Fields whose default is None take anything that
  `nested` or `ranges` lets through. Numbers must be finite.

  Args:
    section: a mapping or ConfigDict.
    record: a NamedTuple class; fields with defaults may be absent.
    path: dotted name of the section, for messages, for example 'config.recipe'.
    choices: valid values by field; of each entry, where the field is a tuple.
    ranges: bounds by field, both included; of each entry, where the field is a tuple.
    renamed: new names by old ones.
    nested: ``(value, path) -> value`` by field, for sections within the section.
    ignored: keys of the section that are not the record's.

  Returns:
    The record.

  Raises:
    CodaxError: an unknown, renamed or missing key, or a value that is not valid.
  """
  given = {key: value for key, value in section.items() if key not in ignored}
  check_keys(given, record._fields, path, renamed)
  missing = [f for f in record._fields if f not in given]
  missing = [f for f in missing if f not in record._field_defaults]
  if missing:
    raise CodaxError(f'{path}.{missing[0]} is missing')
  plain = {key: value for key, value in given.items() if key not in nested}
  checked = check_values(
    plain, record._field_defaults, path, ranges=ranges, choices=choices
  )
  for key in given.keys() & nested.keys():
    checked[key] = nested[key](given[key], f'{path}.{key}')
  return record(**checked)


def check_values(
  values: Mapping[str, Any],
  defaults: Mapping[str, Any],
  path: str,
  *,
  ranges: Mapping[str, Range] = {},
  choices: Mapping[str, Iterable[Any]] = {},
) -> dict[str, Any]:
  """Checks values by the types of their defaults, ranges and choices.

  Args:
    values: values by key.
    defaults: defaults by key, see `parse`.
    path: dotted name of the section, for messages.
    ranges, choices: see `parse`. Whole numbers without a range fit 32 bits.

  Returns:
    The values, lists turned into tuples and ints where a float is wanted into floats.

  Raises:
    CodaxError: a value is not valid.
  """
  checked = {}
  for key, value in values.items():
    where, default = f'{path}.{key}', defaults.get(key)
    value = _as_type_of(default, value, where)
    entries = value if isinstance(value, tuple) else (value,)
    for entry in entries:
      if key in choices and entry not in choices[key]:
        raise unknown(where, entry, map(str, choices[key]))
      if key in ranges and entry is not None:
        _check_bounds(where, entry, *ranges[key])
      if _is_int(default) and ranges.get(key, (None, None))[1] is None:
        _check_bounds(where, entry, -MAX_INT, MAX_INT)
    checked[key] = value
  return checked


def check_keys(
  keys: Iterable[str], valid: Iterable[str], path: str, renamed: Mapping[str, str] = {}
) -> None:
  """Checks the keys of a section.

  Raises:
    CodaxError: a key has a new name, or is not valid; names the nearest.
  """
  valid = list(valid)
  for key in keys:
    if key in renamed:
      short = f'{path}.'.removeprefix('config.')
      raise errors.renamed(short + key, short + renamed[key])
    if key not in valid:
      name = f'{path}.{key}'.removeprefix('config.')
      prefix = path.removeprefix('config').lstrip('.')
      raise unknown(
        'config key', name, [f'{prefix}.{v}' if prefix else v for v in valid]
      )


def check_range(
  where: str,
  value: Any,
  low: float | None = None,
  high: float | None = None,
  *,
  is_integer: bool = False,
) -> None:
  """Checks that a value is a finite number within bounds, both included.

  Args:
    where: dotted name of the key, for the message.
    value: any value.
    low, high: bounds; None leaves a side open.
    is_integer: whether the number has to be an int.

  Raises:
    CodaxError: it is not; says what is valid.
  """
  if is_integer and not (isinstance(value, int) and is_number(value)):
    raise CodaxError(
      f'{where} is {value!r}; valid: {_describe_bounds(low, high)}, a whole number'
    )
  _check_bounds(where, value, low, high)


def _check_bounds(
  where: str, value: Any, low: float | None, high: float | None
) -> None:
  """Raises `CodaxError` unless a value is a finite number within bounds."""
  above = low is None or (is_number(value) and value >= low)
  below = high is None or (is_number(value) and value <= high)
  if not (is_number(value) and above and below):
    raise CodaxError(f'{where} is {value!r}; valid: {_describe_bounds(low, high)}')


def _is_int(default: Any) -> bool:
  """Tells whether a field holds ints; True and False are none."""
  return isinstance(default, int) and not isinstance(default, bool)


def is_number(value: Any) -> bool:
  """Tells whether a value is a finite int or float, NumPy's included.

  True and False are none, nor are numbers that no float can hold.
  """
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


def check_present(config: Mapping[str, Any], keys: Iterable[str]) -> None:
  """Checks that a configuration has some keys, sections for example.

  Raises:
    CodaxError: one is missing; names the nearest that is there.
  """
  for key in keys:
    if key not in config:
      near = difflib.get_close_matches(key, list(config), n=1)
      hint = f'; did you mean {key!r} by {near[0]!r}?' if near else ''
      raise CodaxError(f'config.{key} is missing{hint}')


def blame_file(path: str | Path, error: BaseException, function: str) -> CodaxError:
  """Makes one line of what a Python file raised that a user wrote, with its place.

  Args:
    path: the file, a configuration for example.
    error: error of running the file or its function.
    function: name of the function that the file is to have.

  Returns:
    The error, to be raised by the caller; a `CodaxError` that the file raised as it is.
  """
  links, link = [], error
  while link is not None:
    links.append(link)
    link = link.__cause__ or link.__context__
  for link in reversed(links):  # the first to be raised
    text = ' '.join(str(link).split())
    if isinstance(link, CodaxError):
      return link
    if isinstance(link, SyntaxError):
      place = f'{link.filename or path}, line {link.lineno}' if link.lineno else path
      return CodaxError(f'{place}: SyntaxError: {link.msg}')
    frames = traceback.extract_tb(link.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == Path(path).name]
    if lines:
      return CodaxError(f'{path}, line {lines[-1]}: {type(link).__name__}: {text}')
  if f'no attribute {function!r}' in text:
    return CodaxError(f'{path} has no function {function}()')
  return CodaxError(f'{path}: {type(links[0]).__name__}: {text}')


def renamed_in(renamed: Mapping[str, str], section: str) -> dict[str, str]:
  """Selects the renamed keys of one section.

  Args:
    renamed: new names by old ones, dotted, below ``config``.
    section: name of the section, for example 'recipe'.

  Returns:
    New names by old ones within the section.
  """
  prefix = section + '.'
  return {
    old.removeprefix(prefix): new.removeprefix(prefix)
    for old, new in renamed.items()
    if old.startswith(prefix)
  }


def _describe_bounds(low: float | None, high: float | None) -> str:
  if low is None and high is None:
    return 'finite numbers'
  if high is None:
    return f'{low} or more'
  return f'{high} or less' if low is None else f'{low} to {high}'


_KINDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  str: 'a name in quotes',
  tuple: 'a tuple',
}


def _as_type_of(default: Any, value: Any, where: str) -> Any:
  """Returns a value as the type of a default; `CodaxError` if it has another."""
  if isinstance(default, tuple) and not hasattr(default, '_fields'):
    if isinstance(value, tuple | list):
      return tuple(value)
    if isinstance(value, str) or is_number(value):
      return (value,)
  elif default is None:
    return value
  elif isinstance(default, bool):
    if isinstance(value, bool):
      return value
  elif isinstance(default, int):
    if isinstance(value, int) and not isinstance(value, bool):
      return value
  elif isinstance(default, float):
    if is_number(value):
      if abs(value) > MAX_FLOAT:
        raise CodaxError(f'{where} is {value!r}; valid: a number up to {MAX_FLOAT:g}')
      return float(value)
  elif isinstance(value, type(default)):
    return value
  kind = next((text for k, text in _KINDS.items() if isinstance(default, k)), 'other')
  raise CodaxError(f'{where} is {value!r}; valid: {kind}')

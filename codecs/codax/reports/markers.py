"""Tables and numbers in Markdown, made anew from kept results.

A table stands between ``<!-- table: NAME [PATTERN ...] -->`` and ``<!-- end -->``, each
on a line of its own; NAME is one of `TABLES`, and patterns are names of results. A
number in prose is written

  <!-- value: RESULT.KEY [FORMAT] -->+10.2 %<!-- end -->

KEY is one of `published.values` or a path into the result's JSON: keys with dots
between, and of a list of settings or images the name of one. FORMAT is a number's
format, with a unit after it if there is one: '.1f dB'.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codax.errors import CodaxError, unknown
from codax.reports import published, series, sweep_tables, tables
from codax.reports.layout import format_value
from codax.reports.tables import Results

TABLES: dict[str, Callable[..., str]] = {
  'runs': tables.runs,
  'points': tables.points,
  'against': tables.against,
  'comparison': tables.comparison,
  'curves': sweep_tables.curves,
  'series': series.table,
  'ablation': sweep_tables.ablation,
  'gains': sweep_tables.gains,
  'trainings': sweep_tables.trainings,
  'accuracies': sweep_tables.accuracies,
  'study': sweep_tables.study,
  'step_times': sweep_tables.step_times,
  'decode_times': sweep_tables.decode_times,
  'activation_times': sweep_tables.activation_times,
  'layer_times': sweep_tables.layer_times,
  'memory': sweep_tables.memory,
  'published': published.table,
  'published_sizes': published.published_sizes,
  'headline': published.headline,
}
_TABLE = re.compile(r'(<!-- table: ([^\n]+?) -->\n).*?(<!-- end -->)', re.DOTALL)
_VALUE = re.compile(r'(<!-- value: ([^\n]+?) -->).*?(<!-- end -->)', re.DOTALL)
_FORMAT = re.compile(r'([+,]*(?:\.\d+)?[fg%]|)(.*)')
_PERCENT = ' %'  # unit of BD-rates
_NAMES = ('setting', 'image')  # keys by which an item of a list is found


def fill(text: str, results: Results, aliases: Mapping[str, str] | None = None) -> str:
  """Makes every table and every value of a text anew.

  Args:
    text: Markdown.
    results: every result, see `store.load_all`.
    aliases: other names of tables: name -> table with its patterns.

  Raises:
    CodaxError: an unknown table, result or key.
  """
  aliases = aliases or {}

  def table(match: re.Match) -> str:
    name, *patterns = aliases.get(match[2], match[2]).split()
    if name not in TABLES:
      raise unknown('table', name, [*TABLES, *aliases])
    return match[1] + TABLES[name](results, *patterns) + match[3]

  def value(match: re.Match) -> str:
    return match[1] + value_text(match[2], results) + match[3]

  return _VALUE.sub(value, _TABLE.sub(table, text))


def value_text(query: str, results: Results) -> str:
  """Formats one number: see the top of this module.

  Args:
    query: 'RESULT.KEY [FORMAT]'.
    results: every result.

  Raises:
    CodaxError: no such result or key, or no number there.
  """
  path, _, rest = query.strip().partition(' ')
  form, unit = _FORMAT.fullmatch(rest.strip()).groups()
  by_name = {result['name']: result for result in results}
  # names may have dots: the longest that fits counts
  name = max((n for n in by_name if path.startswith(f'{n}.')), key=len, default=None)
  if name is None:
    raise unknown('result', path.partition('.')[0], by_name)
  key = path.removeprefix(f'{name}.')
  derived = published.values(results, name)
  if key in derived:
    number, usual = derived[key]
    unit = unit or (_PERCENT if key.startswith('bd_rate') else ' dB')
    return format_value(number, form or usual) + unit
  found = _find(by_name[name], key.split('.'))
  if isinstance(found, Mapping) and 'mean' not in found or isinstance(found, list):
    raise CodaxError(f'{name}.{key} is no number')
  if found is None:
    raise unknown(f'value of {name}', key, [*derived, *by_name[name]])
  if not form and not isinstance(found, str | int):
    form = '.4g'
  return format_value(found, form) + unit


def files_with_markers(root: Path) -> list[Path]:
  """Lists the Markdown files whose markers are filled: README.md and docs/."""
  return [root / 'README.md', *sorted((root / 'docs').rglob('*.md'))]


def _find(value: Any, parts: Sequence[str]) -> Any:
  """Follows a path; None if it leads nowhere. Keys may have dots in them."""
  if not parts:
    return value
  if isinstance(value, list):
    value = {
      str(item[name]): item
      for item in value
      if isinstance(item, Mapping)
      for name in _NAMES
      if name in item
    }
  if isinstance(value, Mapping):
    for n in range(1, len(parts) + 1):
      key = '.'.join(parts[:n])
      if key in value:
        found = _find(value[key], parts[n:])
        if found is not None:
          return found
  return None

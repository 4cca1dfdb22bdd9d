"""Rows laid out as Markdown and as plain text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

DASH = '–'


class Column(NamedTuple):
  """One column of a table.

  Attributes:
    head: heading, with the unit.
    value: key of a row, or a function that gives the value of a row.
    form: format of a number, such as '.2f'; '' for text, which stands to the left.
    scale: factor of a number in the table, such as 100 for percent.
  """

  head: str
  value: str | Callable[[Any], Any]
  form: str = ''
  scale: float = 1.0


def markdown_table(
  columns: Sequence[Column], rows: Iterable[Any], *, is_padded: bool = False
) -> str:
  """Lays rows out as a Markdown table.

  Args:
    columns: the columns, first to last.
    rows: NamedTuples (`measure.Row`, `measure.Mean`) or mappings.
    is_padded: whether cells are padded so that the table reads well as plain text.

  Returns:
    Text that ends with a line break.
  """
  heads = [column.head for column in columns]
  lines = [heads, *([cell(row, column) for column in columns] for row in rows)]
  widths = _widths(lines) if is_padded else [0] * len(columns)
  rule = [
    '-' * max(width, 3) if not column.form else '-' * max(width - 1, 2) + ':'
    for column, width in zip(columns, widths, strict=True)
  ]
  padded = [_padded(line, columns, widths) for line in lines]
  return ''.join(f'| {" | ".join(line)} |\n' for line in [padded[0], rule, *padded[1:]])


def text_line(columns: Sequence[Column], widths: Sequence[int], row: Any = None) -> str:
  """Lays a row out as a line of plain text.

  Args:
    columns: the columns, first to last.
    widths: least width of each column, in characters.
    row: see `markdown_table`; None gives the headings.
  """
  # ASCII, for terminals that know no dash
  cells = [c.head if row is None else cell(row, c) for c in columns]
  cells = ['nan' if text == DASH else text for text in cells]
  return '  '.join(_padded(cells, columns, widths))


def cell(row: Any, column: Column) -> str:
  """Formats the value of one column of a row; a dash stands for an unknown one."""
  value = get(row, column.value) if isinstance(column.value, str) else column.value(row)
  return format_value(value, column.form, column.scale)


def filled(columns: Sequence[Column], rows: Sequence[Any]) -> list[Column]:
  """Lists the columns that have a value in some row."""
  return [c for c in columns if any(cell(row, c) != DASH for row in rows)]


def get(row: Any, key: str) -> Any:
  """Looks a value up: an item of a mapping, a field of a row, or one of its extras."""
  if isinstance(row, Mapping):
    return row.get(key)
  return getattr(row, key) if key in row._fields else row.extras.get(key)


def format_value(value: Any, form: str, scale: float = 1.0) -> str:
  """Formats a number, a mean with its standard error, or text.

  Args:
    value: number, text, None, or {'mean', 'error'} as `statistics.mean_and_error` has.
    form: format of a number; '' shows the value as it is.
    scale: factor of a number.

  Returns:
    '1.23', '1.23 ± 0.04', the text, or a dash for None and NaN.
  """
  if isinstance(value, Mapping):
    text = format_value(value['mean'], form, scale)
    if value['mean'] is None or value.get('error') is None:
      return text
    return f'{text} ± {format(scale * value["error"], form.replace("+", ""))}'
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return DASH
  if isinstance(value, str) or not form:
    return str(value)
  return format(scale * value, form)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
  return [max(map(len, cells)) for cells in zip(*lines, strict=True)]


def _padded(
  cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]
) -> list[str]:
  """Pads text to the right and numbers to the left."""
  return [
    text.rjust(width) if column.form else text.ljust(width)
    for text, column, width in zip(cells, columns, widths, strict=True)
  ]

"""Tables as Markdown and as plain text."""

import math

from codax.reports.layout import Column, format_value, markdown_table, text_line
from codax.reports.measure import Row

COLUMNS = (
  Column('name', 'image'),
  Column('dB', 'psnr', '.1f'),
  Column('x, %', 'x', '.0f', 100),
)
ROWS = [
  Row('a', 'c', 'p', 10, 0.5, 30.26, extras={'x': 0.5}),
  {'image': 'long name', 'psnr': {'mean': 1.25, 'error': 0.5}, 'x': None},
]


def test_markdown_is_compact_or_padded():
  assert markdown_table(COLUMNS, ROWS) == (
    '| name | dB | x, % |\n| --- | --: | --: |\n'
    '| a | 30.3 | 50 |\n| long name | 1.2 ± 0.5 | – |\n'
  )
  assert markdown_table(COLUMNS, ROWS, is_padded=True) == (
    '| name      |        dB | x, % |\n'
    '| --------- | --------: | ---: |\n'
    '| a         |      30.3 |   50 |\n'
    '| long name | 1.2 ± 0.5 |    – |\n'
  )


def test_plain_text_is_ascii():
  assert text_line(COLUMNS, (6, 5, 5)) == 'name       dB   x, %'
  assert text_line(COLUMNS, (6, 5, 5), ROWS[0]) == 'a        30.3     50'
  assert text_line(COLUMNS[::2], (6, 5), ROWS[1]) == 'long name    nan'


def test_values_are_numbers_means_and_words():
  assert format_value(0.123, '+.1f', 100) == '+12.3'
  assert format_value({'mean': -0.5, 'error': 0.25}, '+.2f') == '-0.50 ± 0.25'
  assert format_value({'mean': 0.5, 'error': None}, '+.2f') == '+0.50'
  assert format_value({'mean': None, 'error': None}, '.2f') == '–'
  assert format_value(math.nan, '.2f') == format_value(None, '') == '–'
  assert format_value('word', '.2f') == 'word' and format_value(3, '') == '3'

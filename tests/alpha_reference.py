"""A second reader of the alpha section, written from docs/format/alpha.md alone.

Nothing is imported from codax. Plain integers, one step of the page at a time.
"""

import zlib

from color_reference import sections


def read_alpha(data):
  """Reads the rows of alpha of a sound file, lists of integers; None without any."""
  payload = sections(data).get(3)
  return None if payload is None else unpack(payload, *size_of(data))


def size_of(data):
  """(height, width) of a file."""
  sides, at = [], 7
  for _ in range(2):
    value = 0
    while True:
      value = 128 * value + data[at] % 128
      at += 1
      if data[at - 1] < 128:
        break
    sides.append(value)
  return sides


def unpack(payload, height, width):
  """The rows of alpha in a payload."""
  assert payload and payload[0] <= 3 and height * width <= 1032 * len(payload)
  inflate = zlib.decompressobj(wbits=-15)
  data = inflate.decompress(payload[1:])
  assert inflate.eof and not inflate.unused_data and len(data) == height * width
  rows = [list(data[width * y : width * (y + 1)]) for y in range(height)]
  if payload[0] >= 2:
    for y in range(1, height):
      for x in range(width):
        rows[y][x] = (rows[y][x] + rows[y - 1][x]) % 256
  if payload[0] % 2 == 1:
    for row in rows:
      for x in range(1, width):
        row[x] = (row[x] + row[x - 1]) % 256
  assert any(value != 255 for row in rows for value in row)
  return rows

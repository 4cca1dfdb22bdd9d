"""A second reader of the color sections, written from docs/format/color.md alone.

Nothing is imported from codax. Plain integers, one step of the page at a time.
"""

import re
import zlib
from pathlib import Path

PAGE = Path(__file__).parents[2] / 'docs/format/color.md'


def dictionary():
  """The preset dictionary, out of the page."""
  text = PAGE.read_text()
  block = re.search(r'<!-- dictionary -->\n```\n(.*?)```', text, re.DOTALL)[1]
  return bytes.fromhex(block)


def sections(data):
  """{kind: payload} of a sound file."""
  at = 7
  _, at = varint(data, at)
  _, at = varint(data, at)
  at += 2 + 8 * data[at + 1]
  found = {}
  while at < len(data) - 4:
    kind = data[at]
    size, at = varint(data, at + 1)
    found[kind] = data[at : at + size]
    at += size
  return found


def varint(data, at):
  value = 0
  while True:
    value = 128 * value + data[at] % 128
    at += 1
    if data[at - 1] < 128:
      return value, at


def profile(payload):
  """The ICC profile in a section 84."""
  count, at = varint(payload, 0)
  tables, end = [], 0
  for _ in range(count):
    gap, at = varint(payload, at)
    words, at = varint(payload, at)
    tables.append((end + gap, words))
    end += gap + 2 * words
  inflate = zlib.decompressobj(wbits=-15, zdict=dictionary())
  data = bytearray(inflate.decompress(payload[at:]))
  assert inflate.eof and not inflate.unused_data and len(data) <= 4194304
  for start, words in tables:
    high, low = data[start : start + words], data[start + words : start + 2 * words]
    slope = word = 0
    for i in range(words):
      code = 256 * high[i] + low[i]
      slope += code // 2 if code % 2 == 0 else -(code + 1) // 2
      word = (word + slope) % 65536
      data[start + 2 * i : start + 2 * i + 2] = bytes([word // 256, word % 256])
  return bytes(data)


def describe(data):
  """What a file says about colors: ('code', bytes), ('icc', bytes) or None."""
  found = sections(data)
  kinds = {0x81, 0x83, 0x84} & set(found)
  assert len(kinds) <= 1
  if 0x83 in kinds:
    return 'code', found[0x83]
  if 0x81 in kinds:
    return 'icc', found[0x81]
  return ('icc', profile(found[0x84])) if kinds else None

"""Compresses ICC profiles: second differences of tables, DEFLATE with a dictionary.

docs/format/container.md defines both; the decoding half and the dictionary are frozen.
"""

import base64
import struct
import zlib

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError

MAX_BYTES = 2**22  # of an expanded profile
MAX_TABLES = 64
_RAW_DEFLATE = -15
# The bytes before the words of a table, by the type of a tag.
_TABLE_HEADERS = {b'curv': 12, b'vcgt': 18, b'ndin': 62}
_LEAST_WORDS = 8
# A profile of sRGB, as this package made it when the format was made. Frozen.
DICTIONARY = base64.b64decode(
  'AAAB+AAAAAAEQAAAbW50clJHQiBYWVogB+oAAQABAAAAAAAAYWNzcAAAAAAAAAAAAAAAAAAAAAAAAAAA'
  'AAAAAAAAAAAAAPbWAAEAAAAA0y0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
  'AAAAAAAAAAAAAAALZGVzYwAAAQgAAAAkY3BydAAAASwAAAAid3RwdAAAAVAAAAAUY2hhZAAAAWQAAAAs'
  'clhZWgAAAZAAAAAUZ1hZWgAAAaQAAAAUYlhZWgAAAbgAAAAUclRSQwAAAcwAAAAgZ1RSQwAAAcwAAAAg'
  'YlRSQwAAAcwAAAAgY2ljcAAAAewAAAAMbWx1YwAAAAAAAAABAAAADGVuVVMAAAAIAAAAHABzAFIARwBC'
  'bWx1YwAAAAAAAAABAAAADGVuVVMAAAAGAAAAHABDAEMAMAAAWFlaIAAAAAAAAPbWAAEAAAAA0y1zZjMy'
  'AAAAAAABDEIAAAXe///zJQAAB5MAAP2Q///7of///aIAAAPcAADAblhZWiAAAAAAAABvoAAAOPUAAAOQ'
  'WFlaIAAAAAAAAGKXAAC3hwAAGNlYWVogAAAAAAAAJJ8AAA+EAAC2w3BhcmEAAAAAAAMAAAACZmYAAPKn'
  'AAANWQAAE9AAAApbY2ljcAAAAAABDQAB'
)


def compress(icc: bytes) -> bytes | None:
  """Compresses a profile; None for one that is too large.

  Args:
    icc: sound profile.
  """
  if len(icc) > MAX_BYTES:
    return None
  tables = _find_tables(icc)
  return min(_pack(icc, tables), _pack(icc, []), key=len)


def expand(payload: bytes) -> bytes:
  """Expands a profile.

  Raises:
    BitstreamError: anything unsound. At most `MAX_BYTES` are expanded.
  """
  reader = bitstream.Reader(payload, 'section icc_compressed')
  tables, end = [], 0
  for _ in range(reader.varint(MAX_TABLES)):
    start = end + reader.varint(MAX_BYTES)
    end = start + 2 * reader.varint(MAX_BYTES)
    tables.append((start, end))
  data = _inflate(reader.rest())
  if end > len(data):
    raise BitstreamError('section icc_compressed has a table behind its end')
  out = bytearray(data)
  for start, end in tables:
    high, low = np.frombuffer(data[start:end], np.uint8).reshape(2, -1).astype(int)
    folded = 256 * high + low
    second = np.where(folded & 1, -(folded + 1) // 2, folded // 2)
    words = np.cumsum(np.cumsum(second) & 0xFFFF) & 0xFFFF
    out[start:end] = words.astype('>u2').tobytes()
  return bytes(out)


def _inflate(data: bytes) -> bytes:
  """Expands a DEFLATE stream that ends where its bytes do."""
  inflater = zlib.decompressobj(_RAW_DEFLATE, zdict=DICTIONARY)
  try:
    out = inflater.decompress(data, MAX_BYTES + 1)
  except zlib.error as e:
    raise BitstreamError('section icc_compressed is damaged') from e
  if len(out) > MAX_BYTES:
    raise BitstreamError(f'section icc_compressed expands to over {MAX_BYTES} bytes')
  if not inflater.eof:
    raise BitstreamError('section icc_compressed is cut short')
  if inflater.unused_data:
    raise BitstreamError('section icc_compressed has bytes behind its end')
  return out


def _pack(icc: bytes, tables: list[tuple[int, int]]) -> bytes:
  """Writes the payload with these tables, (start, end) in bytes."""
  head, data, before = bitstream.put_varint(len(tables)), bytearray(icc), 0
  for start, end in tables:
    words = np.frombuffer(icc[start:end], '>u2').astype(int)
    second = (np.diff(words, 2, prepend=[0, 0]) + 0x8000 & 0xFFFF) - 0x8000
    folded = np.where(second < 0, -2 * second - 1, 2 * second)
    data[start:end] = np.stack([folded >> 8, folded & 0xFF]).astype(np.uint8).tobytes()
    head += bitstream.put_varint(start - before)
    head += bitstream.put_varint((end - start) // 2)
    before = end
  packed = []
  for memory in (9, 8):
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, memory, 0, DICTIONARY)
    packed.append(deflater.compress(bytes(data)) + deflater.flush())
  return head + min(packed, key=len)


def _find_tables(icc: bytes) -> list[tuple[int, int]]:
  """Finds the tables of 16-bit words that lie apart, (start, end) in bytes."""
  places = set()
  for at in range(132, 132 + 12 * int.from_bytes(icc[128:132]), 12):
    offset, size = struct.unpack('>II', icc[at + 4 : at + 12])
    header = _TABLE_HEADERS.get(icc[offset : offset + 4])
    if header is not None and size >= header + 2 * _LEAST_WORDS:
      places.add((offset + header, offset + header + (size - header) // 2 * 2))
  tables = []
  for start, end in sorted(places):
    if (not tables or start >= tables[-1][1]) and len(tables) < MAX_TABLES:
      tables.append((start, end))
  return tables

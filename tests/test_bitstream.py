"""The container against its page, a second writer in this file, and damage."""

import re
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax import bitstream
from codax.bitstream import BitstreamError, Header, Limits, Section

FORMAT = Path(__file__).parents[1] / 'docs/format/container.md'

headers = st.builds(
  Header,
  family=st.integers(1, 255),
  profile=st.integers(0, 255),
  height=st.integers(1, 4000),
  width=st.integers(1, 65535),
  channels=st.sampled_from([1, 3, 4]),
  flags=st.just(0),
  bundle_id=st.none() | st.binary(min_size=8, max_size=8),
)
kinds = st.integers(1, 255).filter(lambda k: k != 0x80)
section_lists = st.dictionaries(kinds, st.binary(max_size=300), max_size=6).map(
  lambda d: [Section(k, v) for k, v in d.items()]
)


def sealed(body):
  """Bytes after the magic and the version, made into a file with a right checksum."""
  body = b'\xc3DX\n\x01' + body
  return body + zlib.crc32(body).to_bytes(4, 'big')


HEAD = bytes([1, 0, 2, 3, 1, 0])  # family 1, profile 0, 2 x 3 grey, no flags


def test_varint_examples_of_the_format_page():
  rows = re.findall(r'\| (\d+) \| `([0-9a-f ]+)` \|', FORMAT.read_text())
  assert len(rows) >= 5
  for value, form in rows:
    assert bitstream.put_varint(int(value)) == bytes.fromhex(form)


def test_file_example_of_the_format_page():
  line = next(s for s in FORMAT.read_text().splitlines() if s.startswith('c3 44'))
  header, sections = bitstream.read(bytes.fromhex(line))
  assert header == Header(1, 0, 2, 300, 1)
  assert sections == (Section(1, b'\xaa\xbb'),)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=5))
def test_varint_round_trip(value, tail):
  form = bitstream.put_varint(value)
  assert bitstream.get_varint(b'xy' + form + tail, 2) == (value, 2 + len(form))
  digits = [b & 0x7F for b in form]
  assert sum(d << 7 * i for i, d in enumerate(reversed(digits))) == value
  assert all(b >= 0x80 for b in form[:-1]) and form[-1] < 0x80


@given(st.binary(min_size=1, max_size=11))
def test_varint_has_one_form_only(data):
  try:
    value, end = bitstream.get_varint(data)
  except BitstreamError:
    return
  assert bitstream.put_varint(value) == data[:end]


@pytest.mark.parametrize('form', ['', '81', '80 00', '80 80 01', 'ff' * 9 + '7f'])
def test_varint_refused(form):
  with pytest.raises(BitstreamError):
    bitstream.get_varint(bytes.fromhex(form))


def test_varint_limits():
  assert bitstream.get_varint(b'\x81\x00', limit=128) == (128, 2)
  with pytest.raises(BitstreamError, match='limit of 127'):
    bitstream.get_varint(b'\x81\x00', limit=127)
  assert len(bitstream.put_varint(2**63 - 1)) == 9
  for value in (-1, 2**63):
    with pytest.raises(BitstreamError):
      bitstream.put_varint(value)


def test_reader():
  reader = bitstream.Reader(b'\x05\x82\x2cabc', 'payload')
  assert (reader.u8(), reader.varint(300), reader.bytes(2)) == (5, 300, b'ab')
  with pytest.raises(BitstreamError, match='payload has 1 bytes too many'):
    reader.end()
  with pytest.raises(BitstreamError, match='payload is cut short'):
    reader.bytes(2)
  with pytest.raises(BitstreamError):
    reader.bytes(-1)
  assert reader.left == 1 and reader.rest() == b'c' and reader.rest() == b''
  reader.end()
  with pytest.raises(BitstreamError):
    reader.u8()


@given(headers, section_lists)
def test_round_trip(header, sections):
  data = bitstream.write(header, sections)
  ordered = tuple(sorted(sections))
  assert bitstream.read(data, known=None) == (header, ordered)
  critical = frozenset(s.kind for s in sections if s.kind < 0x80)
  assert bitstream.read(data, known=critical) == (header, ordered)
  assert bitstream.peek(data) == header
  assert bitstream.read(bytearray(data), known=None)[0] == header


def test_layout_by_hand():
  header = Header(7, 9, 512, 768, 3, 0, b'\x00\x01\x02\x03\x04\x05\x06\xff')
  body = bytes.fromhex('07 09 84 00 86 00 03 01 00010203040506ff')
  body += b'\x01\x03abc' + b'\x82\x01\x06'
  sections = [Section(0x82, b'\x06'), Section(1, b'abc')]
  assert bitstream.write(header, sections) == sealed(body)


def test_overhead():
  worst = Header(255, 255, 4095, 65535, 3)
  assert len(bitstream.write(worst, [Section(1, bytes(300))])) - 300 <= 24
  long = bytes(2**21)  # a length of four bytes, the longest that is allowed
  assert len(bitstream.write(worst, [Section(1, long)])) - len(long) <= 24
  named = worst._replace(bundle_id=bytes(8))
  assert len(bitstream.write(named, [Section(1, bytes(300))])) - 300 <= 32
  assert bitstream.MAGIC[0] >= 0x80 and len(bitstream.MAGIC) == 4
  with pytest.raises(UnicodeDecodeError):
    bitstream.MAGIC.decode('utf-8')


def small_file():
  header = Header(1, 2, 20, 300, 3, 0, bytes(range(8)))
  return bitstream.write(header, [Section(1, b'payload'), Section(0x82, b'\x06')])


def test_every_changed_byte_is_an_error():
  data = small_file()
  for i in range(len(data)):
    for change in range(1, 256):
      bad = bytearray(data)
      bad[i] ^= change
      for parse in (bitstream.read, bitstream.peek):
        with pytest.raises(BitstreamError):
          parse(bytes(bad))


def test_every_truncation_and_extension_is_an_error():
  data = small_file()
  bad = [data[:i] for i in range(len(data))] + [data[i:] for i in range(1, len(data))]
  bad += [data + bytes([b]) for b in range(256)] + [data + data, b'\x00' + data]
  for one in bad:
    with pytest.raises(BitstreamError):
      bitstream.read(one)
    with pytest.raises(BitstreamError):
      bitstream.peek(one)


def test_text_conversions_are_seen_in_the_magic():
  data = small_file()
  for bad in (data.replace(b'\n', b'\r\n'), bytes(b & 0x7F for b in data)):
    assert not bitstream.is_cdx(bad)


@pytest.mark.parametrize(
  'body, message',
  [
    (b'', 'cut short'),
    (HEAD[:-1], 'cut short'),
    (b'\x00' + HEAD[1:], 'family'),
    (bytes([1, 0, 0, 3, 1, 0]), 'height must be 1'),
    (bytes([1, 0, 2, 0, 1, 0]), 'width must be 1'),
    (bytes([1, 0, 0x84, 0x80, 0, 3, 1, 0]), 'limit of 65535'),
    (bytes([1, 0, 0x80, 2, 3, 1, 0]), 'leading zero'),
    (bytes([1, 0]) + b'\x83\xff\x7f' * 2 + bytes([1, 0]), 'pixels'),
    (bytes([1, 0, 2, 3, 2, 0]), 'channels'),
    (bytes([1, 0, 2, 3, 0, 0]), 'channels'),
    (bytes([1, 0, 2, 3, 1, 2]), 'reserved'),
    (bytes([1, 0, 2, 3, 1, 0x80]), 'reserved'),
    (bytes([1, 0, 2, 3, 1, 1]) + bytes(7), 'cut short'),
    (HEAD + b'\x01', 'cut short'),
    (HEAD + b'\x01\x02a', 'cut short'),
    (HEAD + b'\x01\x80\x01a', 'leading zero'),
    (HEAD + b'\x01\xff\xff\xff\x7f', 'cut short'),
    (HEAD + b'\x01\x81\x80\x80\x80\x00', 'limit'),
    (HEAD + b'\x00\x00', 'kind 0 is not valid'),
    (HEAD + b'\x80\x00', 'kind 128 is not valid'),
    (HEAD + b'\x01\x00\x01\x00', 'twice'),
    (HEAD + b'\x82\x01\x01\x01\x01a', 'order'),
    (HEAD + b'\x30\x00', 'unknown critical section'),
    (HEAD + b'\x01\x00' + b'junk', 'cut short|critical'),
  ],
)
def test_sealed_but_wrong(body, message):
  with pytest.raises(BitstreamError, match=message) as e:
    bitstream.read(sealed(body))
  assert '\n' not in str(e.value)


def test_versions_and_other_files():
  newer = bytearray(small_file())
  newer[4] = 2
  with pytest.raises(BitstreamError, match='version 2'):
    bitstream.read(bytes(newer))
  for other in (b'', b'\xc3', b'\x89PNG\r\n\x1a\n' + bytes(20)):
    with pytest.raises(BitstreamError, match='not a .cdx file'):
      bitstream.peek(other)


@given(st.binary(max_size=40), st.booleans())
def test_sealed_noise_is_an_error_or_canonical(noise, with_head):
  data = sealed(HEAD + noise if with_head else noise)
  try:
    header, sections = bitstream.read(data, known=None)
  except BitstreamError:
    return
  assert bitstream.write(header, sections) == data


def test_critical_and_ancillary():
  data = bitstream.write(Header(1, 0, 2, 3, 1), [Section(1, b'a'), Section(0xF0, b'b')])
  assert len(bitstream.read(data)[1]) == 2  # unknown ancillary: no error
  with pytest.raises(BitstreamError, match='critical'):
    bitstream.read(data, known=frozenset())
  with pytest.raises(BitstreamError, match='critical'):
    bitstream.read(data, known=frozenset({2}))


def test_limits():
  data = bitstream.write(Header(1, 0, 20, 30, 1), [Section(1, b'abc'), Section(2, b'')])
  both = frozenset({1, 2})
  exact = Limits(max_side=30, max_pixels=600, max_sections=2, max_payload=3)
  assert bitstream.read(data, limits=exact, known=both)
  for field in Limits._fields:
    tight = exact._replace(**{field: getattr(exact, field) - 1})
    with pytest.raises(BitstreamError):
      bitstream.read(data, limits=tight, known=both)
    with pytest.raises(BitstreamError):
      bitstream.write(*bitstream.read(data, known=both), limits=tight)


def test_hostile_numbers_allocate_nothing():
  bad = [
    sealed(HEAD + b'\x01\xff\xff\xff\x7f'),  # a payload of 256 MiB, not there
    sealed(bytes([1, 0]) + b'\x83\xff\x7f' * 2 + bytes([3, 0])),  # 4 gigapixels
    sealed(HEAD + b'\x81\x00' * 50_000),
  ]
  tracemalloc.start()
  for data in bad:
    with pytest.raises(BitstreamError):
      bitstream.read(data, known=None)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 500_000


@pytest.mark.parametrize(
  'change',
  [
    {'family': 0},
    {'family': 256},
    {'profile': -1},
    {'height': 0},
    {'width': 65536},
    {'height': 65535, 'width': 65535},
    {'channels': 2},
    {'flags': 1},
    {'flags': 4},
    {'bundle_id': b'short'},
  ],
)
def test_writer_refuses(change):
  with pytest.raises(BitstreamError):
    bitstream.write(Header(1, 0, 2, 3, 1)._replace(**change), [])


@pytest.mark.parametrize('numbers', [[0], [128], [256], [-1], [1, 1], range(1, 67)])
def test_writer_refuses_kinds(numbers):
  with pytest.raises(BitstreamError):
    bitstream.write(Header(1, 0, 2, 3, 1), [Section(k, b'') for k in numbers])


def test_add_sections():
  plain = bitstream.write(Header(1, 0, 2, 3, 1), [Section(1, b'codes')])
  extra = [Section(bitstream.ORIENTATION, b'\x06'), Section(bitstream.ICC, b'icc')]
  more = bitstream.add_sections(plain, extra)
  header, sections = bitstream.read(more)
  assert header == bitstream.peek(plain)
  assert bitstream.find(sections, 1) == b'codes'
  assert bitstream.find(sections, bitstream.ICC) == b'icc'
  assert bitstream.find(sections, 2) is None
  assert bitstream.orientation(sections) == 6
  assert bitstream.orientation(bitstream.read(plain)[1]) == 1
  assert bitstream.add_sections(plain, []) == plain
  with pytest.raises(BitstreamError, match='twice'):
    bitstream.add_sections(more, extra[:1])
  with pytest.raises(BitstreamError, match='critical'):
    bitstream.add_sections(plain, [Section(2, b'')])
  with pytest.raises(BitstreamError):
    bitstream.add_sections(plain[:-1], extra)


@pytest.mark.parametrize('payload', [b'', b'\x00', b'\x09', b'\x01\x01'])
def test_bad_orientation(payload):
  with pytest.raises(BitstreamError, match='orientation'):
    bitstream.orientation([Section(bitstream.ORIENTATION, payload)])

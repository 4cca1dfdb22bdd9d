"""Color spaces in files: sizes, round trips, a second reader, and hostile files."""

import hashlib
import random
import tracemalloc
import zlib

import color_reference as reference
import hostile
import icc_samples as samples
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax import bitstream, families
from codax.bitstream import BitstreamError, Header, Section
from codax.color import compression, profiles, recognition, sections, spaces
from codax.color.spaces import ColorSpace

MONITOR = samples.rgb(samples.GENERIC, curve=samples.table(1024, lambda x: x**1.9))


def file_with(color, channels=3):
  header = Header(200, 0, 5, 4, channels)
  made = [Section(1, b'codes'), *sections.make_sections(color)]
  return bitstream.write(header, made)


@pytest.mark.parametrize(
  'profile, channels, cost',
  [
    (samples.lcms_srgb(), 3, 0),
    (samples.rgb(), 3, 0),
    (samples.grey(), 1, 0),
    (samples.display_p3(), 3, 4),
    (samples.rgb(samples.ADOBE_RGB, 2.2), 3, 3),
    (samples.rgb(samples.PROPHOTO, 1.8, white=samples.D50), 3, 3),
    (samples.grey(2.2), 1, 4),
    (samples.rgb(samples.GENERIC, 1.8), 3, 200),
    (samples.grey(curve=samples.table(256, lambda x: x**1.75)), 1, 200),
    (MONITOR, 3, 400),
  ],
)
def test_bytes_of_a_color_space_in_a_file(profile, channels, cost):
  plain = len(file_with(ColorSpace(), channels))
  more = len(file_with(sections.identify(profile, channels), channels)) - plain
  assert more == cost if cost < 10 else 100 < more <= cost
  assert more < len(profile)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_color_space_written_is_read_by_this_and_a_second_reader(channels):
  profile = samples.grey(1.9) if channels == 1 else MONITOR
  spaces_ = [ColorSpace(code) for code in recognition.CANDIDATES]
  spaces_ += [ColorSpace(b'\x09\x10\0'), ColorSpace(b'\xc8\xc9'), ColorSpace(b'\x63')]
  for color in [*spaces_, ColorSpace(icc=profile)]:
    data = file_with(color, channels)
    _, parts = bitstream.read(data)
    assert sections.read_sections(parts, channels) == (color, ())
    told = reference.describe(data)
    if color.icc is not None:
      assert told == ('icc', profile)
    else:
      assert told == (('code', color.code) if color.code else None)


def test_older_readers_skip_the_sections():
  """The rule that any version has held: kinds with the high bit are no error."""
  for color in (ColorSpace(spaces.DISPLAY_P3), ColorSpace(icc=MONITOR)):
    header, parts = bitstream.read(file_with(color), known=frozenset({1}))
    assert parts[1].kind & 0x80 and bitstream.find(parts, 1) == b'codes'


def test_raw_profiles_of_older_files_are_carried_as_they_are():
  for profile in (samples.lcms_srgb(), MONITOR, samples.lut(b'RGB ')):
    found = sections.read_sections([Section(bitstream.ICC, profile)], 3)
    assert found == (ColorSpace(icc=profile), ())


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize(
  'profile, channels',
  [
    (b'profile', 3), (samples.rgb()[:-1], 3), (samples.rgb(), 1), (samples.grey(), 3),
    (samples.lut(), 3), (bytes(500), 3),
  ],
)  # fmt: skip
def test_profile_that_does_not_fit_is_dropped_with_a_note(profile, channels, pack):
  made = Section(bitstream.ICC, profile)
  if pack:
    deflater = zlib.compressobj(9, 8, -15, zdict=compression.DICTIONARY)
    packed = b'\0' + deflater.compress(profile) + deflater.flush()
    made = Section(bitstream.ICC_COMPRESSED, packed)
  color, notes = sections.read_sections([made], channels)
  assert color == ColorSpace()
  assert len(notes) == 1 and notes[0].startswith('the ICC profile was dropped: it')


@pytest.mark.parametrize(
  'payload',
  [b'', b'\0', b'\1\2\0\0', b'\2\2', b'\0\1', b'\1\0', b'\3\1', b'\1\3', b'\2\x0d',
   b'\1\x0d', b'\1\4\1', b'\1\4\xff'],
)  # fmt: skip
def test_code_that_the_format_does_not_allow_is_refused(payload):
  data = bitstream.write(
    Header(3, 0, 5, 4, 3), [Section(1, b''), Section(0x83, payload)]
  )
  with pytest.raises(BitstreamError, match='section color'):
    sections.read_sections(bitstream.read(data)[1], 3)
  with pytest.raises(BitstreamError, match='section color'):
    families.describe(data)


def test_two_color_sections_are_refused():
  packed = Section(0x84, compression.compress(MONITOR))
  code, raw = Section(0x83, b'\1'), Section(0x81, MONITOR)
  for pair in ([raw, code], [raw, packed], [code, packed]):
    with pytest.raises(BitstreamError, match='file has both section'):
      sections.read_sections(pair, 3)


# --- Compression ----------------------------------------------------------------------


def test_dictionary_is_frozen_and_on_the_page():
  assert reference.dictionary() == compression.DICTIONARY
  digest = hashlib.sha256(compression.DICTIONARY).hexdigest()
  assert digest.startswith(DIGEST) and DIGEST in reference.PAGE.read_text()


DIGEST = 'e8ac2aa69a95e2ff'


@given(st.binary(max_size=400))
def test_any_bytes_survive_compression(data):
  # whatever follows the header of a profile: the finder of tables must not fall over
  icc = samples.rgb(gamma=1.9)[:128] + bytes(4) + data
  assert compression.expand(compression.compress(icc)) == icc


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=300))
def test_any_table_survives_compression(values):
  icc = samples.grey(curve=samples.curv(values))
  packed = compression.compress(icc)
  assert compression.expand(packed) == icc
  assert reference.profile(packed) == icc


def test_smooth_tables_become_a_fifth():
  plain = zlib.compress(MONITOR, 9)
  assert len(compression.compress(MONITOR)) < min(len(MONITOR) / 6, len(plain) / 3)


def test_profile_over_the_limit_is_stored_as_it_is():
  filler = np.random.default_rng(0).bytes(compression.MAX_BYTES)
  large = samples.rgb(gamma=1.9, more={b'data': b'data' + filler})
  assert compression.compress(large) is None
  made = sections.make_sections(ColorSpace(icc=large))
  assert made == [Section(bitstream.ICC, large)]
  assert sections.read_sections(made, 3) == (ColorSpace(icc=large), ())


def deflate(data, dictionary=compression.DICTIONARY):
  deflater = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
  return deflater.compress(data) + deflater.flush()


HOSTILE = {
  'nothing': (b'', 'cut short'),
  'no stream': (b'\0', 'cut short'),
  'stream cut short': (b'\0' + deflate(MONITOR)[:-1], 'cut short'),
  'bytes behind the stream': (b'\0' + deflate(MONITOR) + b'\0', 'behind its end'),
  'two streams': (b'\0' + 2 * deflate(b'x'), 'behind its end'),
  'no deflate': (b'\0' + b'\xff' * 50, 'damaged'),
  'zlib wrapper': (b'\0' + zlib.compress(MONITOR), 'damaged|cut short'),
  'far reference': (b'\0' + deflate(MONITOR, bytes(32768))[:-1], 'damaged|cut short'),
  'too many tables': (b'\x41' + 65 * b'\0\1' + deflate(bytes(500)), 'limit of 64'),
  'table behind the end': (b'\1\0\x81\x00' + deflate(bytes(255)), 'behind its end'),
  'table far behind the end': (
    b'\1\x82\x80\x80\x00\x82\x80\x80\x00' + deflate(b''), 'behind its end|limit',
  ),
  'tables cut short': (b'\2\0\1', 'cut short'),
  'table with a leading zero': (b'\1\x80\1\1' + deflate(b'abc'), 'leading zero'),
  'bomb': (b'\0' + deflate(bytes(2**22 + 1)), 'expands to over'),
  'large bomb': (b'\0' + deflate(bytes(2**28)), 'expands to over'),
}  # fmt: skip


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_compressed_profile_is_refused_in_bounds(name):
  payload, message = HOSTILE[name]
  tracemalloc.start()
  try:
    with pytest.raises(BitstreamError, match=message):
      compression.expand(payload)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 3 * compression.MAX_BYTES


def test_damaged_compressed_profile_is_an_error_or_bytes():
  rng = random.Random(0)
  packed = compression.compress(MONITOR)
  errors = 0
  for _ in range(500):
    data = bytearray(packed)
    for _ in range(rng.choice((1, 1, 2, 5))):
      data[rng.randrange(len(data))] = rng.randrange(256)
    try:
      assert len(compression.expand(bytes(data))) <= compression.MAX_BYTES
      color, notes = sections.read_sections([Section(0x84, bytes(data))], 3)
      assert (color.icc is None) == bool(notes)
    except BitstreamError:
      errors += 1
  assert errors > 50


# --- Facts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
  'color, channels, name',
  [
    (ColorSpace(), 3, 'sRGB'),
    (ColorSpace(), 1, 'grey, sRGB curve'),
    (ColorSpace(spaces.DISPLAY_P3), 3, 'Display P3'),
    (ColorSpace(icc=MONITOR), 3, f'ICC profile "a test" ({len(MONITOR)} bytes)'),
    (
      ColorSpace(icc=samples.rgb()), 3,
      f'sRGB, as an ICC profile ({len(samples.rgb())} bytes)',
    ),
  ],
)  # fmt: skip
def test_facts_of_a_file_name_its_color_space(color, channels, name):
  assert families.describe(file_with(color, channels))['color_space'] == name


def test_facts_of_a_file_say_what_is_wrong_with_its_profile():
  made = [Section(1, b''), Section(bitstream.ICC, MONITOR[:-9])]
  facts = families.describe(bitstream.write(Header(200, 0, 5, 4, 3), made))
  assert facts['color_space'].startswith('sRGB, the ICC profile was dropped: it is cut')


def test_profiles_are_made_once():
  assert profiles.make_profile(b'\1', 3) is profiles.make_profile(b'\1', 3)


def test_mutations_of_files_with_color_sections_are_an_error_or_an_image():
  """Each is decoded and described; most mutations reach the sections."""
  judge = hostile.Judge('splat')
  _, files = hostile.corpus(hostile.GOLDEN / 'splat_3')
  hostile.judge_mutations(judge, files, 300)
  assert judge.pictures > 60 and judge.errors > 60

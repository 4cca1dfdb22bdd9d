"""Range coding: round trips, code length against the ideal, damaged bytes."""

import constriction
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codax.bitstream import BitstreamError
from codax.entropy import range_coder, tables
from codax.errors import CodaxError


def random_tables(rng, n, k, precision=24, skew=8.0):
  return tables.quantize_pmf(rng.random((n, k)) ** skew + 1e-12, precision)


def draw(rng, freqs):
  """One symbol per table, drawn from it."""
  total = freqs.sum(-1)[0]
  return (np.cumsum(freqs, -1) <= rng.integers(total, size=(len(freqs), 1))).sum(-1)


@given(
  st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 20), st.integers(5, 24)
)
def test_symbols_round_trip_at_their_ideal_length(seed, n, k, precision):
  rng = np.random.default_rng(seed)
  freqs = random_tables(rng, n, k, precision)
  # Likely and unlikely symbols alike.
  symbols = draw(rng, freqs) if n and seed % 2 else rng.integers(0, k, n)
  data = range_coder.encode(symbols, freqs, precision)
  assert not data.endswith(b'\0')
  # A range coder loses up to 2**-8 of a symbol's range to rounding, and the end.
  ideal = tables.bits(freqs, symbols, precision)
  assert 8 * len(data) <= ideal + 8 + 0.01 * n
  decoded = range_coder.decode(data, n, freqs, precision)
  assert decoded.dtype == np.int32
  np.testing.assert_array_equal(decoded, symbols)


@given(st.integers(0, 2**32), st.integers(0, 300), st.integers(1, 20))
def test_symbols_of_one_table_round_trip(seed, n, k):
  rng = np.random.default_rng(seed)
  freqs = random_tables(rng, 1, k)[0]
  symbols = rng.integers(0, k, n)
  data = range_coder.encode(symbols, freqs)
  np.testing.assert_array_equal(range_coder.decode(data, n, freqs), symbols)
  each = np.broadcast_to(freqs, (n, k))
  assert range_coder.encode(symbols, each) == data


@given(st.integers(0, 2**32), st.integers(0, 60))
@example(0, 60)
def test_intervals_that_straddle_a_word_round_trip(seed, n):
  # A likely symbol in the middle keeps the interval around one half: the coder then has
  # words pending whose value a later carry decides.
  rng = np.random.default_rng(seed)
  freqs = np.array([2**23 - 1, 2, 2**23 - 1])
  symbols = np.where(rng.random(n) < 0.9, 1, rng.integers(0, 3, n))
  data = range_coder.encode(symbols, freqs)
  np.testing.assert_array_equal(range_coder.decode(data, n, freqs), symbols)
  assert 8 * len(data) <= tables.bits(freqs, symbols) + 8 + 0.01 * n


def test_tables_of_constriction_equal_ours():
  freqs = random_tables(np.random.default_rng(0), 1, 50)[0]
  weights = range_coder._weights(freqs, 24)
  model = constriction.stream.model.Categorical(weights, perfect=False)
  start = 0
  for symbol, freq in enumerate(freqs.tolist()):
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(np.array([symbol], np.int32), model)
    _, (lower, size) = coder.pos()
    unit = (2**64 - 1) >> 24
    assert (lower, size) == (start * unit, freq * unit)
    start += freq


def test_length_is_ideal_over_many_symbols():
  rng = np.random.default_rng(1)
  freqs = random_tables(rng, 1, 64)[0]
  p = freqs / 2**24
  symbols = rng.choice(64, size=20000, p=p)
  size = 8 * len(range_coder.encode(symbols, freqs))
  assert abs(size - tables.bits(freqs, symbols)) <= 8
  assert size / 20000 == pytest.approx(-(p * np.log2(p)).sum(), rel=0.02)


def test_certain_symbols_take_no_bytes():
  assert range_coder.encode(np.zeros(0, int), np.array([2**24])) == b''
  assert range_coder.encode(np.zeros(1000, int), np.array([2**24])) == b''
  likely = np.array([2**24 - 1, 1])
  assert range_coder.encode(np.zeros(1000, int), likely) == b''
  assert not range_coder.decode(b'', 1000, likely).any()
  with pytest.raises(BitstreamError):
    range_coder.decode(b'\x01', 1000, np.array([2**24]))


FLAT = np.full(4, 2**22)
FIRST = np.array([2**24 - 9, 3, 3, 3])  # of a first symbol that is all but certain


@pytest.mark.parametrize('freqs', [np.array([2**24]), FIRST, np.array([2**23] * 2)])
@pytest.mark.parametrize('n', [0, 1, 8192, 8193, 100_000])
def test_run_of_the_first_symbol_keeps_the_least_length(freqs, n):
  """It would take no bytes at all, and so claim any number of symbols for nothing."""
  data = range_coder.encode(np.zeros(n, int), freqs)
  ideal = tables.bits(freqs, np.zeros(n, int)) / 8
  least = max(ideal - 12, n / 1024 - 8)
  assert least <= len(data) <= max(0, least + 5) and not any(data)
  assert not range_coder.decode(data, n, freqs).any()
  for other in {data[:-1], data + b'\0'} - {data}:
    with pytest.raises(BitstreamError):
      range_coder.decode(other, n, freqs)


def test_too_many_symbols_are_refused_before_they_are_decoded(monkeypatch):
  monkeypatch.setattr(range_coder.Decoder, '_block', None)
  for data in (b'', b'\1' * 1000):
    with pytest.raises(BitstreamError, match='end before symbol'):
      range_coder.decode(data, 1024 * (len(data) + 8) + 1, FIRST)


@pytest.mark.parametrize('data', [b'', b'\1', b'\x7f' * 50, bytes(range(1, 101))])
def test_decoding_stops_soon_after_the_end_of_the_data(data):
  """Data decode on, as if zeros without end followed; time must not."""
  freqs = np.broadcast_to(FLAT, (1, 4))  # two bits a symbol
  decoder, count = range_coder.Decoder(data), 0
  with pytest.raises(BitstreamError, match='end before symbol'):
    for _ in range(10**6):
      decoder.decode(freqs)
      count += 1
  assert 4 * len(data) <= count <= 4 * (len(data) + 16)
  with pytest.raises(BitstreamError):
    range_coder.decode(data, 1024 * (len(data) + 8), FLAT)


@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(2, 6))
def test_written_strings_keep_the_least_length(seed, n, k):
  """Runs of the first symbol between others, under even and skewed tables."""
  rng = np.random.default_rng(seed)
  freqs = random_tables(rng, 1, k, skew=float(rng.choice([0.1, 4, 30])))[0]
  runs = np.repeat(rng.integers(0, 2, n), rng.integers(1, 30, n))
  symbols = np.where(runs == 0, 0, rng.integers(0, k, len(runs)))
  data = range_coder.encode(symbols, freqs)
  np.testing.assert_array_equal(range_coder.decode(data, len(symbols), freqs), symbols)
  # the decoder in parts stops no sooner
  decoder = range_coder.Decoder(data)
  parts = [decoder.decode(freqs, 1) for _ in symbols[:200]]
  assert not parts or (np.concatenate(parts) == symbols[:200]).all()
  assert abs(8 * len(data) - tables.bits(freqs, symbols)) <= 96


def test_decoding_in_parts_is_decoding_at_once():
  rng = np.random.default_rng(2)
  freqs = random_tables(rng, 100, 30)
  symbols = draw(rng, freqs)
  data = range_coder.encode(symbols, freqs)
  decoder, parts, at = range_coder.Decoder(data), [], 0
  for n in (1, 0, 40, 9, 50):
    parts.append(decoder.decode(freqs[at : at + n]))
    at += n
  decoder.finish()
  np.testing.assert_array_equal(np.concatenate(parts), symbols)


@pytest.mark.parametrize('shared', [True, False])
def test_damage_is_an_error_or_other_valid_symbols(shared):
  rng = np.random.default_rng(3)
  freqs = random_tables(rng, 40, 10, skew=1.0)
  freqs = freqs[0] if shared else freqs
  symbols = draw(rng, np.broadcast_to(freqs, (40, 10)))
  data = range_coder.encode(symbols, freqs)
  assert 8 <= len(data) < 30
  bad = [data[:i] for i in range(len(data))]
  bad += [data + b'\0', data + b'\1', b'\0' + data]
  for i in range(len(data)):
    bad += [data[:i] + bytes([data[i] ^ x]) + data[i + 1 :] for x in range(1, 256)]
  for broken in bad:
    try:
      got = range_coder.decode(broken, 40, freqs)
    except BitstreamError:
      continue
    assert got.shape == (40,) and got.min() >= 0 and got.max() < 10
    assert (got != symbols).any() and range_coder.encode(got, freqs) == broken


def test_extra_bytes_are_an_error():
  rng = np.random.default_rng(4)
  freqs = random_tables(rng, 1, 10, skew=1.0)[0]
  data = range_coder.encode(rng.integers(0, 10, 200), freqs)
  for extra in (b'\0', b'\0' * 50, data):
    with pytest.raises(BitstreamError):
      range_coder.decode(data + extra, 200, freqs)


@given(st.binary(max_size=40), st.integers(0, 30), st.integers(2, 12))
def test_any_bytes_decode_or_are_refused(data, n, k):
  freqs = random_tables(np.random.default_rng(n), n, k)
  try:
    got = range_coder.decode(data, n, freqs)
  except BitstreamError:
    return
  assert range_coder.encode(got, freqs) == data


@pytest.mark.parametrize(
  'symbols, freqs, precision',
  [
    ([4], FLAT, 24),
    ([-1], FLAT, 24),
    ([[0]], FLAT, 24),
    ([0.0], FLAT, 24),
    ([0, 1], np.stack([FLAT] * 3), 24),
    ([0], FLAT, 23),
    ([0], FLAT, 25),
    ([0], FLAT, 0),
    ([0], FLAT / 2**24, 24),
    ([0], np.array([0, 2**24]), 24),
    ([0], np.ones(2**17, int) << 7, 24),
  ],
)
def test_arguments_are_checked_before_constriction_sees_them(symbols, freqs, precision):
  with pytest.raises(CodaxError):
    range_coder.encode(np.array(symbols), freqs, precision)


def test_decode_of_bad_arguments_is_refused():
  with pytest.raises(CodaxError):
    range_coder.decode(b'abc', 3, np.stack([FLAT] * 2))
  with pytest.raises(CodaxError):
    range_coder.decode(b'abc', 3, FLAT + 1)

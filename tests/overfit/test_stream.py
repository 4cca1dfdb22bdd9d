"""Payloads: round trips, sizes, damage, hostile claims."""

import itertools
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from tiny import SMALL, grids, make_payload

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.entropy import range_coder
from codax.layers.kan_spec import Spec
from codax.overfit import codec
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream, weights

CUBIC = Spec(4, 3, -2.0, 2.0, 'relu')
LEARNT = archs.Arch(inter_grid_context=14, upsampling='learned')
ARCHS = [SMALL, archs.Arch(), archs.C3, SMALL._replace(entropy_kan=CUBIC), LEARNT]


def same(a, b):
  assert a.arch == b.arch and a.shape == b.shape
  for name in archs.MODULES:
    x, y = a.modules[name], b.modules[name]
    assert (x.weight_frac, x.bias_frac) == (y.weight_frac, y.bias_frac)
    assert x.weights.keys() == y.weights.keys()
    for key in x.weights:
      np.testing.assert_array_equal(x.weights[key], y.weights[key])
  for x, y in zip(a.grids, b.grids, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('shape', [(1, 1, 3), (2, 1, 1), (17, 33, 3), (40, 24, 1)])
def test_packed_payload_comes_back(arch, shape):
  made = make_payload(arch, shape)
  data, bits = codec.pack(made)
  back = codec.unpack(data)
  same(made, back)
  payload = 8 * stream.payload_size(data)
  assert abs(payload - bits.total) < 0.01 * payload + 64
  np.testing.assert_array_equal(codec.decode(data), codec.synthesize(made))
  assert (bitstream.peek(data).profile == 0) == (arch not in archs.PROFILES.values())


@hypothesis.given(
  st.lists(st.integers(-(2**20), 2**20) | st.integers(-3, 3), min_size=1, max_size=60)
)
def test_coded_weights_come_back(values):
  encoder = range_coder.Encoder()
  bits = weights.put(encoder, np.array(values))
  data = encoder.finish()
  decoder = range_coder.Decoder(data)
  assert weights.get(decoder, (len(values),)).tolist() == values
  decoder.finish()
  assert 8 * len(data) <= bits + 64
  assert weights.cost(np.array(values))[1] == bits


def test_zero_weights_are_almost_free():
  _, bits = weights.cost(np.zeros(1000, int))
  assert bits < 10


@pytest.mark.parametrize(
  'arch',
  [SMALL, archs.C3, SMALL._replace(entropy_kan=CUBIC, synthesis_kan=CUBIC)]
  + [SMALL._replace(entropy=(), activation='pwl', linear_skip=False), LEARNT]
  + [SMALL._replace(inter_grid_context=3), SMALL._replace(upsampling='learned')],
)
def test_architecture_spelled_out_comes_back(arch):
  assert stream.get_arch(stream.put_arch(arch)) == archs.check(arch)


def test_architecture_without_inter_grid_context_is_spelled_as_before():
  assert stream.put_arch(SMALL) == bytes([3, 6, 1, 1, 1, 6, 0, 1, 5, 0])
  more = SMALL._replace(inter_grid_context=2, upsampling='learned')
  assert stream.put_arch(more) == stream.put_arch(SMALL) + bytes([2, 1])


@pytest.mark.parametrize('more', [[0, 0], [0], [1], [0, 2], [15, 0], [1, 0, 0]])
def test_architecture_with_other_bytes_behind_it_is_refused(more):
  with pytest.raises(BitstreamError):
    stream.get_arch(stream.put_arch(SMALL) + bytes(more))


@pytest.mark.parametrize('sides', [(1, 1), (1, 6), (5, 9), (16, 12)])
def test_inter_grid_latents_are_at_their_offsets(sides):
  arch = archs.Arch(5, inter_grid_context=14)
  latents = grids(arch, (*sides, 3))
  for i, grid in enumerate(latents):
    found = stream.inter_grid_latents(arch, latents[i + 1 :], grid.shape)
    found = found.reshape(*grid.shape, arch.inter_grid_context)
    for (y, x), (n, (up, dy, dx)) in itertools.product(
      np.ndindex(grid.shape), enumerate(archs.PARENT_OFFSETS)
    ):
      at, wanted = (y // 2**up + dy, x // 2**up + dx), 0
      if i + up < len(latents):
        coarse = latents[i + up]
        if 0 <= at[0] < coarse.shape[0] and 0 <= at[1] < coarse.shape[1]:
          wanted = coarse[at]
      assert found[y, x, n] == wanted


@hypothesis.given(st.binary(max_size=26))
def test_any_bytes_are_an_architecture_or_an_error(data):
  try:
    arch = stream.get_arch(data)
  except BitstreamError:
    return
  assert stream.put_arch(arch) == data


def test_architecture_with_a_profile_is_not_spelled_out():
  with pytest.raises(BitstreamError, match='profile of its own'):
    stream.get_arch(stream.put_arch(archs.PROFILES[1]))


def with_crc(body):
  return body + zlib.crc32(body).to_bytes(4, 'big')


def test_file_with_a_changed_byte_or_truncated_is_an_error():
  data, _ = codec.pack(make_payload(shape=(5, 6, 3)))
  for i in range(len(data)):
    with pytest.raises(BitstreamError):
      codec.decode(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
    with pytest.raises(BitstreamError):
      codec.decode(data[:i])
  with pytest.raises(BitstreamError):
    codec.decode(data + b'\0')


def test_damage_under_a_good_checksum_is_an_error_or_an_image():
  data, _ = codec.pack(make_payload(shape=(5, 6, 3)))
  body, rng = data[:-4], np.random.default_rng(0)
  images = 0
  for _ in range(150):
    changed = bytearray(body)
    for _ in range(int(rng.integers(1, 4))):
      changed[rng.integers(5, len(body))] = rng.integers(256)
    try:
      pixels = codec.decode(with_crc(bytes(changed)))
    except BitstreamError:
      continue
    images += 1
    assert pixels.dtype == np.uint8
  assert images < 150


def test_payload_with_trailing_zeros_is_an_error():
  made = make_payload()
  payload, _ = stream.encode(made)
  stream.decode(payload, made.arch, made.shape)
  with pytest.raises(BitstreamError):
    stream.decode(payload + b'\0', made.arch, made.shape)


def test_small_payload_of_a_large_image_is_refused():
  payload, _ = stream.encode(make_payload())
  with pytest.raises(BitstreamError, match='too few for 16000 x 16000'):
    stream.decode(payload, SMALL, (16_000, 16_000, 3))


def flat(height, width, fill=0):
  made = make_payload(shape=(height, width, 3))
  zero = tuple(np.full_like(g, fill) for g in made.grids)
  return made._replace(grids=zero)


@pytest.mark.parametrize('fill', [0, 3, -255])
def test_constant_grids_come_back(fill):
  made = flat(30, 40, fill)
  data, _ = codec.pack(made)
  same(codec.unpack(data), made)


def test_empty_payload_is_filled_up_to_its_least_size(monkeypatch):
  monkeypatch.setattr(stream, 'FREE_WORK', 2**24)
  made = flat(700, 900)
  nothing = {k: np.zeros_like(v) for k, v in made.modules['entropy'].weights.items()}
  zeros = {k: np.zeros_like(v) for k, v in made.modules['synthesis'].weights.items()}
  modules = {
    'entropy': integer.Module(nothing, 0, 0),
    'synthesis': integer.Module(zeros, 0, 0),
  }
  made = made._replace(modules=modules)
  payload, _ = stream.encode(made)
  least = stream.least_size(stream.work(SMALL, made.shape))
  assert len(payload) == least > 100
  same(stream.decode(payload, SMALL, made.shape), made)
  assert not codec.synthesize(made).any()
  with pytest.raises(BitstreamError, match='too few'):
    stream.decode(payload[:-1], SMALL, made.shape)
  with pytest.raises(BitstreamError, match='too long'):
    stream.decode(payload + b'\0', SMALL, made.shape)


@pytest.mark.parametrize(
  ('header', 'sections', 'text'),
  [
    ({'family': 1}, None, 'not of family'),
    ({'bundle_id': b'12345678'}, None, 'no bundle'),
    ({'channels': 4}, None, '4-channel'),
    ({'profile': 77}, {bitstream.CODES: b''}, 'unknown profile 77'),
    ({'profile': 1}, None, 'only so'),
    ({'profile': 0}, {bitstream.CODES: b''}, 'only so'),
    ({}, {stream.ARCH: b''}, 'no section of codes'),
  ],
)
def test_file_of_another_kind_is_refused(header, sections, text):
  data, _ = codec.pack(make_payload())
  old, kept = bitstream.read(data, known=None)
  if sections is not None:
    kept = [bitstream.Section(k, v) for k, v in sections.items()]
  with pytest.raises(BitstreamError, match=text):
    codec.decode(bitstream.write(old._replace(**header), kept))


def test_overhead_of_a_file_is_small():
  made = make_payload(archs.PROFILES[1], (512, 768, 3), scale=0.4)
  data, bits = codec.pack(made)
  assert bits.side < 12 * 8
  assert len(data) - stream.payload_size(data) <= 24

"""Pictures to `.cdx` files and back through a trained bundle."""

import numpy as np
import pytest

import codax
from codax import bitstream, codec, families
from codax import bundle as bundles
from codax.bitstream import BitstreamError
from codax.errors import CodaxError, OutOfReach
from codax.vqvae import codec as vqvae_codec
from codax.vqvae import model as nets


def make(bundle, **options):
  return families.get('vqvae', model=bundle, options=codec.Options(**options))


def psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


@pytest.mark.parametrize('size', [(1, 1), (17, 33), (45, 30), (96, 120), (4, 64)])
@pytest.mark.parametrize('channels', [1, 3])
def test_round_trip_of_any_size_is_the_reconstruction(bundle, photo, size, channels):
  image = photo[: size[0], : size[1], :channels]
  made = make(bundle, preset='fast')
  encoded = made.encode(image)
  decoded = codax.decode(encoded.data, model=bundle)
  np.testing.assert_array_equal(decoded, encoded.reconstruction)
  assert decoded.shape == image.shape and decoded.dtype == np.uint8
  bits = 8 * len(encoded.data)
  assert abs(bits - encoded.estimated_bits) <= 0.01 * bits + 8 * 64


def test_reconstruction_resembles_the_image(bundle, photo):
  image = make(bundle, preset='fast').encode(photo).reconstruction
  flat = np.broadcast_to(photo.mean((0, 1), keepdims=True), photo.shape)
  assert psnr(image, photo) > psnr(flat, photo) + 3


def test_rate_of_evaluation_agrees_with_the_file(evaluate, bundle, photo):
  """What evaluation reports as rate is what the file takes, within 1 % + 64 bytes."""
  image = photo[:96, :96]
  metrics = evaluate({'image': image[None]})
  data = make(bundle, preset='fast', lmbda=1e-9).encode(image).data
  estimate = float(metrics['rate_bpp']) * 96 * 96 / 8
  header, sections = bitstream.read(data)
  if header.profile == vqvae_codec.CONTEXT:
    assert abs(len(data) - estimate) <= 0.01 * estimate + 64
  else:
    assert len(data) < estimate + 64


def test_odd_sizes_are_padded_and_cut(bundle, photo):
  unpacked = vqvae_codec.unpack(bundle)
  for h, w in [(1, 1), (5, 4), (8, 13)]:
    data = make(bundle, preset='fast').encode(photo[:h, :w]).data
    codes, header = vqvae_codec.unpack_codes(unpacked, data)
    assert codes.shape == (-(-h // 4), -(-w // 4), 1)
    assert (header.height, header.width) == (h, w)


def test_rd_select_codes_minimizes_the_entropy_constrained_cost(bundle, photo):
  """Without a context model: argmin d / sigma^2 + lmbda bits, in float64."""
  unpacked = vqvae_codec.unpack(bundle)._replace(context=None)
  z = vqvae_codec.latents(unpacked, photo[:32, :32])
  for lmbda in (0.0, 0.3):
    codes = vqvae_codec.rd_select_codes(unpacked, z, lmbda)
    book = unpacked.codebooks.stages[0][0].astype(np.float64)
    d = ((z.astype(np.float64)[..., None, :] - book) ** 2).sum(-1) / unpacked.sigma2
    cost = d + lmbda * (24 - np.log2(unpacked.prior[0]))
    picked = np.take_along_axis(cost, codes, -1)[..., 0]
    np.testing.assert_allclose(picked, cost.min(-1), atol=1e-4)


def test_larger_lmbda_makes_smaller_files(bundle, photo):
  sizes = [
    len(make(bundle, preset='fast', lmbda=l).encode(photo).data) for l in (1e-6, 1.0)
  ]
  assert sizes[1] < 0.9 * sizes[0]


def test_latent_refinement_improves_the_image(bundle, photo):
  """More time spent, a better picture: by more than the extra bytes would buy."""
  fast = make(bundle, preset='fast').encode(photo)
  medium = make(bundle, preset='medium').encode(photo)
  full = make(bundle, preset='full').encode(photo)
  quality = [psnr(e.reconstruction, photo) for e in (fast, medium, full)]
  assert quality[1] > quality[0] + 0.1 and quality[2] > quality[1]
  extra = (len(medium.data) - len(fast.data)) / len(fast.data)
  # a doubling of the rate is worth about 3 dB here
  assert quality[1] - quality[0] > 3 * extra


def test_targets_in_reach_are_met_and_others_refused(bundle, photo):
  low = make(bundle, preset='fast', lmbda=2.0).encode(photo)
  high = make(bundle, preset='fast', lmbda=1e-6).encode(photo)
  pixels = photo.shape[0] * photo.shape[1]
  bpp = 4 * (len(low.data) + len(high.data)) / pixels
  hit = make(bundle, preset='fast', bpp=bpp).encode(photo).data
  assert 8 * len(hit) / pixels == pytest.approx(bpp, rel=0.03)
  want = (psnr(low.reconstruction, photo) + psnr(high.reconstruction, photo)) / 2
  got = make(bundle, preset='fast', psnr=want).encode(photo)
  assert psnr(got.reconstruction, photo) == pytest.approx(want, abs=0.1)
  with pytest.raises(OutOfReach, match='out of reach.*the most is'):
    make(bundle, preset='fast', psnr=60.0).encode(photo)
  with pytest.raises(OutOfReach, match='out of reach.*the least is'):
    make(bundle, preset='fast', bpp=0.001).encode(photo)


@pytest.mark.parametrize('share', [0.2, 0.45, 0.7, 0.95])
def test_rate_within_reach_is_met_or_missed_by_a_step(bundle, photo, share):
  low = len(make(bundle, preset='fast', lmbda=4.0).encode(photo).data)
  high = len(make(bundle, preset='fast', lmbda=1e-6).encode(photo).data)
  pixels = photo.shape[0] * photo.shape[1]
  target = 8 * (low + share * (high - low)) / pixels
  found = make(bundle, preset='fast', bpp=target).encode(photo)
  bpp = 8 * len(found.data) / pixels
  # files of a few hundred bytes come in steps; a miss by a whole bisection is a defect
  assert bpp == pytest.approx(target, rel=0.05)
  assert ('target_miss' in found.details) == (abs(bpp / target - 1) > 0.03)


def test_rate_above_the_best_file_is_refused_with_that_file(bundle, photo):
  best = make(bundle, preset='fast', lmbda=1e-9).encode(photo).data
  with pytest.raises(OutOfReach, match='bpp 20 is out of reach.*the most is') as e:
    make(bundle, preset='fast', bpp=20.0).encode(photo)
  assert e.value.nearest.data == best


def test_search_that_is_stopped_returns_its_nearest_file(bundle, photo):
  made = make(bundle, preset='fast', bpp=20.0)
  found = made.encode(photo, should_stop=lambda: 'signal')
  assert found.stop_reason == 'signal'
  assert found.details['target_miss']['reason'] == 'stopped'


def test_tiles_of_a_large_image_agree_with_one_piece(bundle, photo, monkeypatch):
  """A halo of the receptive field makes tiles of a large picture seamless."""
  unpacked = vqvae_codec.unpack(bundle)
  z = vqvae_codec.latents(unpacked, photo)
  codes = vqvae_codec.rd_select_codes(unpacked, z, 0.0)
  whole = vqvae_codec.synthesize(unpacked, codes, photo.shape)
  monkeypatch.setattr(vqvae_codec, 'TILE', 40)
  np.testing.assert_allclose(vqvae_codec.latents(unpacked, photo), z, atol=1e-4)
  tiled = vqvae_codec.synthesize(unpacked, codes, photo.shape)
  assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_another_bundle_is_refused_with_both_ids(bundle, photo):
  data = make(bundle, preset='fast').encode(photo).data
  other = bundles.make(bundle.family, bundle.config, bundle.arrays, {'psnr': 1.0})
  with pytest.raises(BitstreamError) as e:
    codax.decode(data, model=other)
  assert bundle.id.hex()[:16] in str(e.value) and other.id.hex()[:16] in str(e.value)


def test_changed_or_missing_bytes_are_errors(bundle, photo):
  data = make(bundle, preset='fast').encode(photo[:16, :16]).data
  for i in range(len(data)):
    for flip in (1, 0x80):
      damaged = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
      with pytest.raises(BitstreamError):
        codax.decode(damaged, model=bundle)
  for n in range(len(data)):
    with pytest.raises(BitstreamError):
      codax.decode(data[:n], model=bundle)


def test_damage_under_a_good_checksum_is_an_error_or_an_image(bundle, photo):
  data = make(bundle, preset='fast').encode(photo[:16, :16]).data
  header, sections = bitstream.read(data)
  payload = sections[0].payload
  rng = np.random.default_rng(0)
  for _ in range(60):
    damaged = bytearray(payload)
    damaged[rng.integers(len(payload))] ^= int(rng.integers(1, 256))
    profile = int(rng.integers(0, 4))
    data = bitstream.write(
      header._replace(profile=profile), [sections[0]._replace(payload=bytes(damaged))]
    )
    try:
      assert codax.decode(data, model=bundle).shape == (16, 16, 3)
    except BitstreamError:
      pass


def test_file_without_codes_or_with_foreign_sections_is_refused(bundle, photo):
  data = make(bundle, preset='fast').encode(photo[:8, :8]).data
  header, sections = bitstream.read(data)
  with pytest.raises(BitstreamError, match='codes'):
    codax.decode(bitstream.write(header, []), model=bundle)
  extra = bitstream.Section(0x41, b'x')
  with pytest.raises(BitstreamError):
    codax.decode(bitstream.write(header, [*sections, extra]), model=bundle)


def test_unfit_bundles_are_refused(bundle):
  arrays = dict(bundle.arrays)
  del arrays['codebook']
  with pytest.raises(CodaxError, match='codebook'):
    make(bundles.make('vqvae', bundle.config, arrays, {}))
  arrays = {**bundle.arrays, 'prior': bundle.arrays['prior'][:, :-1]}
  with pytest.raises(CodaxError, match='add up'):
    make(bundles.make('vqvae', bundle.config, arrays, {}))
  for name, value, text in [
    ('sigma2', np.float32(0), 'sigma2'),
    ('codebook', np.full_like(bundle.arrays['codebook'], np.nan), 'finite'),
    ('codebook', bundle.arrays['codebook'][..., :2], 'latents'),
    ('decoder/Conv_0/bias', np.zeros(3, np.float32), 'decoder'),
  ]:
    with pytest.raises(CodaxError, match=text):
      make(bundles.make('vqvae', bundle.config, {**bundle.arrays, name: value}, {}))
  for key, value, text in [
    ('hidden', 17, 'encoder'), ('factor', 3, 'power of two'), ('hidden', 0, 'hidden'),
    ('activation', 'tanh', 'relu'),
  ]:  # fmt: skip
    config = {**bundle.config, 'model': {**bundle.config['model'], key: value}}
    with pytest.raises(CodaxError, match=text):
      make(bundles.make('vqvae', config, bundle.arrays, {}))
  with pytest.raises(CodaxError, match='family'):
    make(bundles.make('splat', bundle.config, bundle.arrays, {}))


def test_pixels_through_the_models_range_come_back():
  x = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(np.asarray(nets.to_uint8(nets.to_model(x))), x)

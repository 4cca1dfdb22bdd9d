"""The package's decoder against the one of `vae_reference`, from the page alone."""

import hostile
import numpy as np
import pytest
import vae_files
import vae_models
import vae_reference

from codax import bundle as bundles
from codax.bitstream import BitstreamError
from codax.vae import bundle_io, codec, coding

KINDS = {
  'hyperprior': {},
  'context': vae_models.CONTEXT._asdict(),
  'lapped': {'lapped': True},
  'one pass': {'context': False},
  'factorized': {'hyper_dim': 0},
}


@pytest.fixture(scope='module', params=KINDS)
def model(request):
  config = vae_models.CONFIG._replace(**KINDS[request.param])
  return bundle_io.unpack(vae_models.tiny_bundle(config))


@pytest.fixture(scope='module')
def bundle(model, tmp_path_factory):
  """The bundle of `model` as the second decoder reads it."""
  path = tmp_path_factory.mktemp('bundle') / bundles.FILE_NAME
  config = model.config
  bundles.save(vae_models.tiny_bundle(config), path)
  return vae_reference.load(path)


def assert_same(model, bundle, data):
  header, symbols, sided = vae_files.read(model, data)
  found = vae_reference.decode(bundle, data)
  assert found.position == symbols.position
  np.testing.assert_array_equal(found.index, sided.index)
  np.testing.assert_array_equal(found.integers, symbols.coefficients)
  if symbols.latents is not None:
    np.testing.assert_array_equal(found.latents, symbols.latents)
  y = coding.decode(model.entropy, symbols, sided)
  np.testing.assert_allclose(y, found.coefficients, rtol=1e-4, atol=0.02)
  pixels = codec.decode(model, data)
  assert pixels.shape == (header.height, header.width, header.channels)
  assert np.abs(pixels.astype(int) - found.pixels).max() <= 1
  assert np.mean(pixels != found.pixels) < 0.01


@pytest.mark.parametrize('shape', [(1, 1, 3), (9, 14, 3), (13, 6, 1)])
def test_both_decoders_agree_on_images(model, bundle, shape):
  image = vae_models.image(*shape)
  for lmbda in model.lmbdas:
    assert_same(model, bundle, vae_files.encode(model, image, lmbda=lmbda))


@pytest.mark.parametrize('position', [0, 5, 16, 32])
def test_both_decoders_agree_on_any_integers(model, bundle, position):
  """Far beyond their tables, at tables of one entry, and where all are 0."""
  shape = 11, 18, 3
  assert_same(model, bundle, vae_files.random(model, shape, position))
  assert_same(model, bundle, vae_files.random(model, shape, position, spread=0.0))


def test_both_decoders_refuse_the_same_files(model, bundle):
  data = vae_files.random(model, (5, 6, 3), 7)
  at = 21  # behind the bundle id, where the payload begins
  for i in range(at, len(data) - 4):
    damaged = bytearray(data[:-4])
    damaged[i] ^= 1 << i % 8
    damaged = hostile.with_checksum(bytes(damaged))
    try:
      codec.decode(model, damaged)
    except BitstreamError:
      with pytest.raises(vae_reference.Refused):
        vae_reference.decode(bundle, damaged)
    else:
      assert_same(model, bundle, damaged)

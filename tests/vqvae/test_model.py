"""Shapes, parameter counts and pixel order of the VQ-VAE's networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.vqvae import model

KEY = jax.random.key(0)


def sizes(cfg, side=32):
  """(latent shape, image shape, encoder parameters, decoder parameters), no compute."""
  image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  latent, encoder = jax.eval_shape(model.Encoder(cfg).init_with_output, KEY, image)
  out, decoder = jax.eval_shape(model.Decoder(cfg).init_with_output, KEY, latent)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  return latent.shape, out.shape, count(encoder), count(decoder)


def test_reference_has_the_described_parameters():
  latent, image, encoder, decoder = sizes(model.REFERENCE)
  assert latent == (2, 8, 8, 256) and image == (2, 32, 32, 3)
  assert (encoder, decoder) == (3_481_216, 3_480_963)
  assert encoder + decoder == 6_962_179


@pytest.mark.parametrize('factor', [2, 4, 8])
@pytest.mark.parametrize('resample', model.RESAMPLE)
def test_factor_of_any_size_gives_its_shapes(resample, factor):
  cfg = model.ModelConfig(resample, factor, hidden=16, latent_dim=6)
  latent, image, *_ = sizes(cfg, 48)
  assert latent == (2, 48 // factor, 48 // factor, 6) and image == (2, 48, 48, 3)


@pytest.mark.parametrize('resample', model.RESAMPLE)
def test_blocks_add_parameters(resample):
  cfg = model.ModelConfig(resample, hidden=8, latent_dim=4)
  base = sizes(cfg)
  more = sizes(cfg._replace(encoder_blocks=3))
  assert more[2] == base[2] + 2 * (9 * 8 * 8 + 8) and more[3] == base[3]
  assert sizes(cfg._replace(decoder_blocks=3))[3] == base[3] - 2 * (9 * 8 * 8 + 8)


def test_activation_changes_the_output():
  z = jax.random.normal(KEY, (1, 4, 4, 4))
  cfg = model.ModelConfig(hidden=8, latent_dim=4, decoder_blocks=1)
  relu, gelu = (model.Decoder(cfg._replace(activation=a)) for a in ('relu', 'gelu'))
  outs = jax.jit(lambda key: [net.init_with_output(key, z)[0] for net in (relu, gelu)])(
    KEY
  )
  assert np.abs(outs[0] - outs[1]).max() > 1e-4


@pytest.mark.parametrize('resample', model.RESAMPLE)
def test_decoder_moves_with_its_latents(resample):
  """One latent to the right is `factor` pixels to the right, edges apart."""
  cfg = model.ModelConfig(resample, 4, hidden=4, latent_dim=2, decoder_blocks=0)
  decoder = model.Decoder(cfg)
  z = jnp.zeros((2, 12, 12, 2)).at[0, 5, 5].set(1.0).at[1, 6, 7].set(1.0)

  def run(key, z):
    params = decoder.init(key, z)
    params = jax.tree.map(lambda x: x + 0.1, params)  # biases too
    return decoder.apply(params, z)

  a, b = np.asarray(jax.jit(run)(KEY, z))
  np.testing.assert_allclose(a[8:36, 8:32], b[12:40, 16:40], atol=1e-5)
  change = np.abs(a - b).max(-1)[8:36, 8:24]  # b's impulse lies to the right
  rows = np.flatnonzero(change.max(1) > 1e-5) + 8
  center = (rows[0] + rows[-1]) / 2
  assert abs(center - (5 * 4 + 1.5)) <= 2  # the light falls where the latent lies


def test_pixels_through_the_models_range_survive():
  image = np.arange(256, dtype=np.uint8)
  x = model.to_model(image)
  assert x.dtype == jnp.float32 and x.min() == -1 and x.max() == 1
  np.testing.assert_array_equal(model.to_uint8(x), image)


def test_to_uint8_clamps_and_rounds():
  gray = lambda level: level / 127.5 - 1
  x = jnp.array([-9.0, 9.0, gray(10.4), gray(10.6), gray(-0.4), gray(255.4)])
  out = model.to_uint8(x)
  assert out.dtype == jnp.uint8
  np.testing.assert_array_equal(out, [0, 255, 10, 11, 0, 255])


def test_encoder_output_is_finite_and_varies():
  cfg = model.ModelConfig(hidden=8, latent_dim=4, encoder_blocks=1)
  encoder = model.Encoder(cfg)
  x = jax.random.uniform(KEY, (2, 16, 8, 3), minval=-1.0)
  f = jax.jit(functools.partial(encoder.init_with_output, KEY))
  z, _ = f(x)
  assert z.shape == (2, 4, 2, 4) and np.isfinite(z).all() and np.std(z) > 0

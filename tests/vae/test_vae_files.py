"""Files of this family from the outside: sizes, estimates, facts, names of arrays."""

import jax
import numpy as np
import pytest
import vae_files
import vae_models

import codax
from codax import bitstream, cli, families
from codax import bundle as bundles
from codax.codec import Options
from codax.vae import bundle_io, codec, describe, shapes

CONFIGS = {
  'hyperprior': vae_models.CONFIG,
  'one pass': vae_models.CONFIG._replace(context=False),
  'factorized': vae_models.CONFIG._replace(hyper_dim=0),
  'context': vae_models.CONTEXT,
}


@pytest.fixture(scope='module', params=CONFIGS)
def bundle(request):
  return vae_models.tiny_bundle(CONFIGS[request.param])


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (9, 2), (17, 33), (64, 47)])
@pytest.mark.parametrize('channels', [1, 3])
def test_round_trip_of_any_size_is_the_reconstruction(bundle, size, channels):
  image = vae_models.image(*size, channels)
  high, low = bundle_io.unpack(bundle).lmbdas
  for lmbda in (high, low):
    options = Options(preset='fast', lmbda=lmbda)
    encoded = families.get('vae', model=bundle, options=options).encode(image)
    decoded = codax.decode(encoded.data, model=bundle)
    np.testing.assert_array_equal(decoded, encoded.reconstruction)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    bits = 8 * len(encoded.data)
    assert abs(bits - encoded.estimated_bits) <= 0.01 * bits + 8 * 64


@pytest.mark.parametrize('position', [0, 13, 32])
def test_estimate_of_integers_beyond_their_tables_is_the_size(bundle, position):
  """Digits of what escapes a table are counted, too."""
  from codax.vae import coding

  model = bundle_io.unpack(bundle)
  data = vae_files.random(model, (30, 41, 3), position)
  _, symbols, sided = vae_files.read(model, data)
  payload, bits = coding.write(model.entropy, symbols, sided)
  assert data[-4 - len(payload) : -4] == payload
  assert abs(8 * len(payload) - bits) < 8 * 8
  reach = model.entropy.tables.laws.reach[sided.index]
  assert np.sum((np.abs(symbols.coefficients) >= reach) & (reach > 0)) > 10


def test_tiles_of_a_large_image_agree_with_one_piece(bundle, monkeypatch):
  model = bundle_io.unpack(bundle)
  image = vae_models.image(90, 70)
  data = vae_files.encode(model, image)
  whole = codec.decode(model, data)
  monkeypatch.setattr(codec, 'TILE', 24)
  assert np.abs(codec.decode(model, data).astype(int) - whole).max() <= 1
  y = codec.analyze(model, image)
  monkeypatch.undo()
  np.testing.assert_allclose(y, codec.analyze(model, image), atol=0.05)


def test_info_prints_the_facts_without_a_model(bundle, tmp_path, capsys, monkeypatch):
  model = bundle_io.unpack(bundle)
  path = tmp_path / 'x.cdx'
  path.write_bytes(vae_files.encode(model, vae_models.image(20, 30)))
  assert cli.main(['info', str(path), '--json']) == 0
  facts = families.describe(path.read_bytes())
  names = {number: name for name, number in describe.PROFILES.items()}
  assert facts['entropy_model'] == names[model.profile]
  assert facts['rate_position'] == model.position
  payload = bitstream.read(path.read_bytes())[1][0].payload
  assert facts['code_bits'] == 8 * len(payload)
  assert facts['code_bpp'] == 8 * len(payload) / 600
  capsys.readouterr()
  assert cli.main(['info', str(path)]) == 0
  shown = capsys.readouterr().out
  assert facts['entropy_model'] in shown and 'vae' in shown


def test_decoding_takes_the_bundle_of_the_option_or_the_variable(
  bundle, tmp_path, monkeypatch
):
  from codax import pretrained

  model, image = bundle_io.unpack(bundle), vae_models.image(8, 9)
  data = vae_files.encode(model, image)
  bundles.save(bundle, tmp_path / bundles.FILE_NAME)
  wanted = codax.decode(data, model=tmp_path)
  monkeypatch.setenv(pretrained.MODEL_VARIABLE, str(tmp_path))
  np.testing.assert_array_equal(codax.decode(data), wanted)


@pytest.mark.parametrize(
  'act', ['relu', 'glu', 'gdn', 'bezier_split', 'bezier', 'pade']
)
@pytest.mark.parametrize(
  'change',
  [{}, {'context': False}, {'hyper_dim': 0}, {'scale_context': 4}, {'lapped': True}],
)
def test_shapes_are_those_of_the_drawn_parameters(act, change):
  """Those that a bundle holds: scales and latents are tables there."""
  config = vae_models.CONTEXT._replace(
    act=act, blocks=2, **{'scale_context': 0, **change}
  )
  pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  drawn = jax.eval_shape(lambda x: vae_models.init(config, x), pixels)
  tables = ('scale', 'scales', 'latents', 'scale_context')
  prior = {k: v for k, v in drawn['prior'].items() if k not in tables}
  flat = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(
    {'transform': drawn['transform'], 'prior': prior}
  )[0]:
    flat['/'.join(key.key for key in path)] = leaf.shape
  assert shapes.list_shapes(config) == flat

"""The transform codec: oracles of its parts, NumPy against JAX, files and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import vae_models
from vae_models import CONFIG

from codax import families
from codax.codec import Options
from codax.entropy import range_coder, tables
from codax.errors import CodaxError
from codax.vae import (
  bundle_io,
  calibration,
  codec,
  coding,
  defaults,
  hyperprior,
  klt,
  levels,
  rate_model,
  refinement,
  scale_context,
  task,
  transform,
)
from codax.vae.format import integer_context, laws, scales, stream


@pytest.fixture(scope='module')
def model():
  return bundle_io.unpack(vae_models.tiny_bundle())


def make(**options):
  options = Options(**options)
  return families.get('vae', model=vae_models.tiny_bundle(), options=options)


def test_klt_has_the_eigenvectors_of_the_symmetrized_covariance():
  patches = np.random.default_rng(0).normal(size=(300, 48)).astype(np.float32)
  patches[:, :24] += patches[:, 24:]
  found = jax.jit(klt.fit, static_argnums=(1, 2))(patches, 4, 48)
  total = np.zeros((48, 48))
  x = patches.astype(np.float64).reshape(-1, 4, 4, 3)
  for t in (x, x.swapaxes(1, 2)):
    for flip in ((), (1,), (2,), (1, 2)):
      v = np.flip(t, flip).reshape(-1, 48)
      total += v.T @ v / len(v) / 8
  values = np.linalg.eigvalsh(total)[::-1]
  basis = np.asarray(found.basis, np.float64)
  np.testing.assert_allclose(np.asarray(found.deviation) ** 2, values, rtol=2e-4)
  np.testing.assert_allclose(basis.T @ basis, np.eye(48), atol=1e-5)
  np.testing.assert_allclose(basis.T @ total @ basis, np.diag(values), atol=2e-3)


def test_untrained_codec_decodes_images_as_a_block_transform():
  """Step 0: unquantized, the error is the energy of the coefficients left out.

  This is the ceiling that the number of latents sets; with all of them there is none.
  """
  image = vae_models.image(32, 32)[None].astype(np.float32)
  config, mix = CONFIG._replace(latent_dim=48), np.eye(3, dtype=np.float32)[1:2]
  net = jax.tree.map(np.asarray, vae_models.init(config, image)['transform'])
  y, errors = transform.analyze(net, config, image, np), {}
  for dim in (6, 24, 48):
    kept = np.where(np.arange(48) < dim, y, np.float32(0))
    error = transform.synthesize(net, config, kept, mix, np) - image
    errors[dim] = np.mean(error**2)
    left = np.sum(net['deviation'][dim:] ** 2) / 48
    assert errors[dim] < 2.5 * left + 1e-5
  for dim, error in errors.items():
    print(f'{dim} of 48 coefficients: at most {10 * np.log10(255**2 / error):.1f} dB')
  assert errors[6] > 10 * errors[24] or errors[24] > 10 * errors[48]
  assert errors[48] < 1e-4


def test_code_lengths_are_those_of_the_logistic_law():
  x = np.array([0.0, 0.3, -4.0, 17.0, 250.0])[:, None]
  scale = np.array([0.05, 0.7, 6.0, 90.0])[None]
  law = scipy.stats.logistic(scale=scale)
  size = np.abs(x)
  expected = -np.log2(np.maximum(law.sf(size - 0.5) - law.sf(size + 0.5), 1e-300))
  found = np.asarray(jax.jit(hyperprior.logistic_bits)(x, scale))
  seen = expected < 900
  np.testing.assert_allclose(found[seen], expected[seen], rtol=2e-4, atol=1e-5)
  grad = jax.jit(jax.grad(lambda s: hyperprior.logistic_bits(jnp.float32(250.0), s)))
  assert -np.inf < grad(0.05) < 0


def test_tables_are_the_logistic_law_at_every_scale():
  found = laws.from_arrays(laws.logistic())
  for index in range(0, laws.SCALES, 7):
    law, r = scipy.stats.logistic(scale=float(laws.scale_of(index))), found.reach[index]
    edges = np.arange(-r, r) + 0.5
    p = np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    freqs = found.freqs[index] / 2**tables.PRECISION
    np.testing.assert_allclose(freqs, p, rtol=1e-3, atol=2**-20)
    if r:
      values = np.arange(-r + 1, r)
      bits = laws.bits(found, values, np.full(values.shape, index))
      np.testing.assert_allclose(bits, -np.log2(freqs[1:-1]), rtol=1e-5)


def test_stream_gives_back_any_integers_and_their_ideal_length():
  found, rng = laws.from_arrays(laws.logistic()), np.random.default_rng(1)
  index = rng.integers(0, laws.SCALES, 3000)
  values = np.rint(rng.logistic(0, laws.scale_of(index))).astype(np.int64)
  values[::50] = rng.integers(-(2**15) + 1, 2**15, 60)  # far beyond their tables
  values[found.reach[index] == 0] = 0
  encoder = range_coder.Encoder()
  bits = stream.put(encoder, found, values, index)
  data = encoder.finish()
  assert abs(len(data) - bits / 8) < 8
  decoder = range_coder.Decoder(data)
  np.testing.assert_array_equal(stream.get(decoder, found, index), values)
  decoder.finish()


def test_integer_scales_are_those_of_the_float_network(model):
  """Within a step of the grid, whose error a table forgives."""
  entropy, rng = model.entropy, np.random.default_rng(2)
  symbols = rng.integers(-3, 4, (4, 5, CONFIG.hyper_dim))
  for position in (0, 7, 16, 32):
    values = scales.latents(entropy.tables.hyper, symbols, position)
    log2_scale = scales.coefficient_scale(entropy.tables, values, position, (7, 10))
    params = vae_models.params()['prior']
    mix = coding.mixing(entropy, position)
    p = params['latents']
    z = (symbols + mix @ p['mean']) * np.exp(-(mix @ p['gain']))
    np.testing.assert_allclose(values / 2**scales.FRAC, z, atol=0.02)
    log2 = hyperprior.log2_scales(params, z[None].astype(np.float32), np)[0]
    log2 = log2 + mix @ (params['scale'] + params['gain'] / np.log(2))
    np.testing.assert_allclose(log2_scale / 256, log2[:7, :10], atol=0.05)
    index, grid = laws.scale_index(log2_scale), (np.clip(log2_scale / 256, -5, 6) + 5)
    assert np.abs(index - grid * laws.SCALE_STEPS).max() <= 0.5


def test_integer_context_is_its_float_twin():
  model = bundle_io.unpack(vae_models.tiny_bundle(vae_models.CONTEXT))
  rng = np.random.default_rng(0)
  params = vae_models.params(vae_models.CONTEXT)['prior']['scale_context']
  values = np.rint(rng.laplace(0, 3, (5, 6, 10))).astype(np.int64)
  values[rng.uniform(size=values.shape) < 0.5] = 0
  values[0, 0, :3] = laws.MAX_MAGNITUDE - 1, -1, 2
  known = integer_context.sizes(values)
  np.testing.assert_allclose(
    known / 256, scale_context.sizes(values.astype(np.float32), np), atol=2 / 256
  )
  true = np.log2(1.0 + np.abs(values))
  assert np.abs(known / 256 - true).max() < 0.09  # linear between powers of two
  base = rng.integers(-1500, 1800, values.shape)
  at = rng.uniform(size=(5, 6)) < 0.5
  clipped = np.clip(base / 256, -5, 6).astype(np.float32)
  for i, network in enumerate(model.entropy.tables.context):
    found = integer_context.log2_scales(network, known, base, at)
    expected = scale_context.log2_scales(
      params[f'network_{i}'], np.float32(known / 256)[None], clipped[None], np
    )[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found / 256, expected[at], atol=0.02)


def test_integers_of_a_stage_change_the_scales_after_it_alone():
  model = bundle_io.unpack(vae_models.tiny_bundle(vae_models.CONTEXT)).entropy
  stages = coding.list_stages(model)
  latents = np.zeros((2, 2, CONFIG.hyper_dim), np.int64)
  sided = coding.side_information(model, latents, 0, (4, 4))

  def scales_with(changed):
    take = lambda stage, at, index: np.full(index.shape, 9 * (stage == changed))
    return coding.walk(model, sided, take)[1].index

  nothing = scales_with(None)
  np.testing.assert_array_equal(nothing[::2, ::2, :3], sided.index[::2, ::2, :3])
  for i, stage in enumerate(stages):
    moved = scales_with(stage) != nothing
    for j, other in enumerate(stages):
      at = coding.blocks_of(other, 4, 4)
      found = moved[at][:, other.start : other.stop].any()
      assert found == (j > i), (i, j)


@pytest.mark.parametrize('name', ['hyperprior', 'factorized', 'one pass', 'context'])
def test_numpy_codes_as_the_training_does(name, monkeypatch):
  """Rounding to the nearest: with bits in view, scales on the grid tip some over."""
  monkeypatch.setattr(rate_model, 'round_cheaply', lambda x, scale: jnp.round(x))
  config = {
    'hyperprior': CONFIG,
    'factorized': CONFIG._replace(hyper_dim=0),
    'one pass': CONFIG._replace(context=False),
    'context': vae_models.CONTEXT,
  }[name]
  model = bundle_io.unpack(vae_models.tiny_bundle(config))
  image = vae_models.image(24, 40)
  trained = {'transform': model.params, 'prior': vae_models.float_prior(model.entropy)}
  code = jax.jit(rate_model.code, static_argnums=(1, 4))
  coded = code(trained, config, image[None].astype(np.float32), jnp.ones(1) / 2, None)
  y = codec.analyze(model, image)
  symbols, decoded, sided = coding.quantize(model.entropy, y, 8, 0.0)
  payload, bits = coding.write(model.entropy, symbols, sided)
  escapes = np.abs(symbols.coefficients) >= model.entropy.tables.laws.reach[sided.index]
  expected = 8 + 5 * escapes.sum() + float((coded.bits + coded.hyper_bits)[0])
  np.testing.assert_allclose(bits, expected, rtol=0.03)
  pixels = np.rint(np.clip(np.asarray(coded.image[0]), 0, 255))
  own = codec.synthesize(model, decoded, 8, image.shape)
  # hyper-latents are whole 256ths in files
  assert np.abs(pixels - own).mean() < 0.5


@pytest.mark.parametrize('shape', [(1, 1, 3), (5, 33, 1), (24, 16, 3), (31, 9, 3)])
@pytest.mark.parametrize('preset', ['fast', 'medium'])
def test_files_decode_to_what_the_encoder_saw(shape, preset):
  image = vae_models.image(*shape)
  encoded = make(preset=preset).encode(image)
  np.testing.assert_array_equal(make().decode(encoded.data), encoded.reconstruction)
  assert (
    abs(encoded.estimated_bits / 8 - len(encoded.data)) < len(encoded.data) / 100 + 64
  )
  facts = families.describe(encoded.data)
  assert facts['entropy_model'] == 'hyperprior' and facts['family'] == 'vae'
  assert facts['rate_position'] == encoded.details['position']


def test_rounding_with_bits_in_view_costs_less(model):
  image = vae_models.image(48, 48)
  y = codec.analyze(model, image)
  costs = []
  weight = coding.RD_WEIGHT
  for given in (0.0, weight):
    symbols, decoded, sided = coding.quantize(model.entropy, y, 16, given)
    _, bits = coding.write(model.entropy, symbols, sided)
    error = ((y - decoded) * sided.gain) ** 2
    costs.append(bits + weight * np.sum(error))
  assert costs[1] < costs[0]


def test_training_rounds_as_the_encoder_does(model):
  """Under the logistic laws, which tables hold in 24 bits."""
  rng = np.random.default_rng(0)
  index = rng.integers(0, laws.SCALES, (6, 7, 8))
  scale = laws.scale_of(index).astype(np.float32)
  x = (scale * rng.logistic(size=scale.shape)).astype(np.float32)
  reach = model.entropy.tables.laws.reach[index]
  inside = np.abs(x) < reach - 1  # beyond, tables escape
  expected = coding.round_cheaply(
    laws.from_arrays(laws.logistic()), x, index, coding.RD_WEIGHT
  )
  found = np.asarray(rate_model.round_cheaply(x, scale))
  assert inside.sum() > 100
  np.testing.assert_array_equal(found[inside], expected[inside])
  assert (found != np.rint(x))[inside].mean() > 0.01


def test_gradients_reach_every_parameter():
  config = vae_models.LAPPED
  params = vae_models.params(config)
  pixels = np.stack([vae_models.image(16, 16, seed=i) for i in range(2)])

  @jax.jit
  def slopes(params):
    def bits(params):
      at, key = jnp.array([0.3, 1.7]), jax.random.key(0)
      coded = rate_model.code(params, config, pixels.astype(np.float32), at, key)
      error = jnp.mean((coded.image - pixels) ** 2)
      return coded.bits.mean() + coded.hyper_bits.mean() + error

    return jax.grad(bits)(params)

  tree = slopes(params)
  del tree['transform']['deviation']  # a constant
  del tree['prior']['context']['first']['bias']  # a product alone is used
  for path, slope in jax.tree_util.tree_flatten_with_path(tree)[0]:
    assert np.isfinite(slope).all() and np.any(slope), jax.tree_util.keystr(path)


def test_lmbda_and_targets_move_the_rate():
  image = vae_models.image(64, 64)
  low, high = codec.lmbda_of(bundle_io.unpack(vae_models.tiny_bundle()), 32), 8e-3
  sizes = [len(make(lmbda=x).encode(image).data) for x in (low, high)]
  assert sizes[0] > 1.5 * sizes[1]
  middle = 8 * np.mean(sizes) / image[..., 0].size
  data = make(bpp=float(middle)).encode(image).data
  assert abs(8 * len(data) / image[..., 0].size / middle - 1) < 0.03
  with pytest.raises(CodaxError, match='lambda 1 is out of range; valid'):
    make(lmbda=1.0).encode(image)


@pytest.mark.parametrize('shape', [(48, 32, 3), (33, 16, 1)])
def test_refined_integers_cost_less(model, shape, monkeypatch):
  image = vae_models.image(*shape)
  y = codec.analyze(model, image)
  chosen = coding.quantize(model.entropy, y, 16, coding.RD_WEIGHT)
  steps = []
  monkeypatch.setattr(refinement, 'STEPS', 30)
  refined = codec.refine(
    model, y, image, chosen, lambda: None, lambda *at: steps.append(at)
  )
  assert steps == [(i, 30) for i in range(1, 31)]
  assert cost_of(model, refined, image) < 0.998 * cost_of(model, chosen, image)
  decoded = coding.decode(model.entropy, refined.symbols, refined.sided)
  np.testing.assert_array_equal(decoded, refined.decoded)


def cost_of(model, chosen, image):
  """Returns the cost of a file in bits, its error weighted as in training."""
  _, bits = coding.write(model.entropy, chosen.symbols, chosen.sided)
  pixels = codec.synthesize(model, chosen.decoded, 16, image.shape).astype(float)
  error = np.mean((pixels - image) ** 2) * image[..., 0].size
  return bits + levels.lmbdas(3)[1] * error


def test_files_of_refined_integers_decode(monkeypatch):
  """Other integers pick other scales for those after them."""
  monkeypatch.setattr(refinement, 'STEPS', 5)
  monkeypatch.setattr(coding, 'RD_WEIGHT', 0.5)  # far from what refinement looks for
  packed, image = vae_models.tiny_bundle(vae_models.CONTEXT), vae_models.image(20, 24)
  sizes = []
  for preset in ('medium', 'full'):
    made = families.get('vae', model=packed, options=Options(preset=preset))
    encoded = made.encode(image)
    found = made.decode(encoded.data)
    np.testing.assert_array_equal(found, encoded.reconstruction)
    assert abs(encoded.estimated_bits / 8 - len(encoded.data)) < 64
    sizes.append(len(encoded.data))
  assert sizes[0] != sizes[1]


def test_refinement_stops_when_asked_and_is_never_worse(model, monkeypatch):
  image = vae_models.image(32, 32)
  y = codec.analyze(model, image)
  chosen = coding.quantize(model.entropy, y, 16, coding.RD_WEIGHT)
  monkeypatch.setattr(refinement, 'STEPS', 30)
  asked = []
  stop = lambda: asked.append(None) or len(asked) > 3
  stopped = codec.refine(model, y, image, chosen, stop)
  assert len(asked) == 4
  assert cost_of(model, stopped, image) <= cost_of(model, chosen, image)


def test_tiles_of_a_refinement_know_the_pass_of_each_position(model, monkeypatch):
  image = vae_models.image(80, 48)  # 5 rows of 16: the last tile begins at an odd one
  y = codec.analyze(model, image)
  chosen = coding.quantize(model.entropy, y, 16, coding.RD_WEIGHT)
  seen = []

  def anneal(entropy, params, x, sided, target, mix, weight, first, proceed):
    seen.append((first[..., 0], target))
    return np.rint(x).astype(np.int64)

  monkeypatch.setattr(refinement, 'anneal', anneal)
  monkeypatch.setattr(codec, 'TILE', 2 * model.config.patch)
  monkeypatch.setattr(codec, '_halo', lambda model: 1)
  same = codec.refine(model, y, image, chosen, lambda: None)
  np.testing.assert_array_equal(same.symbols.coefficients, chosen.symbols.coefficients)
  padded = image.astype(np.float32)
  for first, target in seen:
    side = model.config.patch
    h, w = first.shape
    found = [
      (r, c)
      for r in range(padded.shape[0] // side - h + 1)
      for c in range(padded.shape[1] // side - w + 1)
      if np.array_equal(
        padded[r * side : (r + h) * side, c * side : (c + w) * side], target[0]
      )
    ]
    [(r, c)] = found
    np.testing.assert_array_equal(first, np.add.outer(
      np.arange(r, r + h), np.arange(c, c + w)) % 2 == 0)  # fmt: skip


def test_calibrated_tables_make_smaller_files(model):
  images = [vae_models.image(64, 64, seed=i) for i in range(8)]
  made = calibration.calibrate(vae_models.tiny_bundle(), images)
  calibrated = bundle_io.unpack(made)
  sizes = []
  for one in (model, calibrated):
    sized = 0.0
    for i in range(8, 12):
      y = codec.analyze(one, vae_models.image(64, 64, seed=i))
      symbols, _, sided = coding.quantize(one.entropy, y, 16, coding.RD_WEIGHT)
      sized += coding.write(one.entropy, symbols, sided)[1]
    sizes.append(sized)
  assert sizes[1] < sizes[0]
  assert made.id != vae_models.tiny_bundle().id


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'kl': {}}, 'kl'),
    ({'average_decay': 1.0}, 'below 1'),
    ({'average_decay': -0.1}, 'average_decay is -0.1'),
    ({'data.crop': 48}, 'data.crop = 48 is not a multiple of 32'),
    (
      {'data.crop': 40, 'model.hyper_dim': 0, 'model.scale_context': 0},
      'data.crop = 40 is not a multiple of 16',
    ),
    ({'model.patch': 6}, 'multiples of 4'),
    ({'model.coarse_dim': 320}, 'coarse_dim is 320; valid: below latent_dim = 320'),
    ({'model.hyper_dim': 0}, 'scale_context needs hyper-latents'),
    ({'optimizer.name': 'rmsprob'}, "unknown optimiser 'rmsprob'"),
  ],
)
def test_bad_configuration_of_a_training_is_named(changes, message):
  config = defaults.get('codec')
  with config.unlocked():
    for key, value in changes.items():
      config.update_from_flattened_dict({key: value}) if '.' in key else (
        config.update({key: value})
      )
  shape = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
  with pytest.raises(CodaxError) as e:
    jax.eval_shape(task.make(config).init, jax.random.key(0), {'image': shape})
  assert message in str(e.value)

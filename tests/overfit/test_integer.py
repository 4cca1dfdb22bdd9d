"""The integer networks against the float ones, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, grids, make_payload

from codax.bitstream import BitstreamError
from codax.entropy import laplace
from codax.layers.kan_spec import Spec
from codax.overfit import codec, model, q_step_search
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream, upsampling

SHAPES = [(1, 1, 3), (1, 9, 1), (13, 18, 3), (16, 16, 1)]
ACTIVATIONS = [SMALL._replace(activation=a) for a in archs.ACTIVATIONS]
CUBIC, HATS = Spec(4, 3, -2.0, 2.0, 'relu'), Spec(8, 1, -4.0, 4.0, 'none')
KANS = [
  SMALL._replace(synthesis_kan=CUBIC, entropy_kan=HATS),
  SMALL._replace(synthesis_kan=HATS, entropy_kan=CUBIC, linear_skip=False),
]
LEARNT = archs.Arch(5, 6, inter_grid_context=5, upsampling='learned')
ARCHS = [*ACTIVATIONS, *KANS, LEARNT, archs.Arch(2, 24, (), (5, 4), 0, 'relu', False)]

# Compiled as a whole: operation by operation each would be compiled by itself.
float_pixels = jax.jit(model.synthesize, static_argnums=1)
float_law = jax.jit(model.predict, static_argnums=1)
float_upsample = jax.jit(model.upsample)
float_contexts = jax.jit(model.contexts, static_argnums=0)


def floats(found, name):
  listed = archs.tensors(found.arch, len(found.grids), found.shape[2])
  mine = [t for t in listed if t.module == name]
  return q_step_search.dequantize(found.modules[name], mine)


def as_float(latents):
  return tuple(jnp.asarray(g, jnp.float32) for g in latents)


def inputs(arch, latents):
  """Of the entropy network, for all latents."""
  rows = []
  for i, grid in enumerate(latents):
    near = stream.neighbors(arch, grid).reshape(grid.size, -1)
    above = stream.inter_grid_latents(arch, latents[i + 1 :], grid.shape)
    rows.append(np.concatenate([near, above], 1))
  return np.concatenate(rows)


def random_filters(count, seed=0):
  """Multiples of 2**-9, away from the linear ones."""
  rng = np.random.default_rng(seed)
  return [archs.TAPS + np.rint(100 * rng.normal(size=4)) / 2**9 for _ in range(count)]


@pytest.mark.parametrize('shape', SHAPES)
def test_upsampling_is_the_float_one_within_its_rounding(shape):
  latents = grids(archs.Arch(), shape, scale=20)
  found = upsampling.upsample(latents) * 2.0**-upsampling.GRID_FRAC
  wanted = float_upsample(as_float(latents))
  # each doubling rounds by up to half a unit
  assert np.abs(found - wanted).max() <= 0.5 * 6 * 2.0**-upsampling.GRID_FRAC
  np.testing.assert_array_equal(found[0], latents[0])


@pytest.mark.parametrize('shape', SHAPES)
def test_learned_upsampling_is_the_float_one_within_its_rounding(shape):
  latents = grids(archs.Arch(), shape, scale=20)
  filters = random_filters(len(latents) - 1)
  found = upsampling.upsample(latents, filters=filters)
  taps = {i: jnp.asarray(f, jnp.float32) for i, f in enumerate(filters)}
  wanted = float_upsample(as_float(latents), taps)
  error = 0.0
  for f in reversed(filters):
    for _ in range(2):  # each rounding's half unit goes through what follows
      error = error * np.abs(f).sum() + 0.5
  found = found * 2.0**-upsampling.GRID_FRAC
  slack = 1e-5 * np.abs(wanted).max()
  assert np.abs(found - wanted).max() <= error * 2.0**-upsampling.GRID_FRAC + slack


def test_learned_upsampling_with_initial_filters_is_the_linear_one():
  latents = grids(archs.Arch(), (37, 52, 3), scale=20)
  count = len(latents) - 1
  found = upsampling.upsample(latents, filters=[np.array(archs.TAPS)] * count)
  wanted = upsampling.upsample(latents)
  # it is rounded twice as often
  assert np.abs(found - wanted).max() <= 2 * count
  taps = dict.fromkeys(range(count), jnp.array(archs.TAPS))
  floats = as_float(latents)
  np.testing.assert_allclose(
    float_upsample(floats, taps), float_upsample(floats), atol=1e-4
  )


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('shape', [(1, 1), (2, 1), (7, 5), (37, 9), (64, 2), (65, 3)])
def test_upsampled_rows_are_those_of_the_whole_image(shape, learned):
  latents = grids(archs.Arch(8), shape, scale=30)
  filters = random_filters(len(latents) - 1) if learned else ()
  whole = upsampling.upsample(latents, filters=filters)
  for top in range(shape[0]):
    for bottom in range(top + 1, min(shape[0], top + 9) + 1):
      rows = upsampling.upsample(latents, top, bottom, filters)
      np.testing.assert_array_equal(rows, whole[:, top:bottom])


@pytest.mark.parametrize('kind', archs.UPSAMPLINGS)
@pytest.mark.parametrize('convs', [0, 3])
def test_pixels_do_not_depend_on_the_bands(convs, kind, monkeypatch):
  found = make_payload(SMALL._replace(convs=convs, upsampling=kind), (50, 7, 3))
  wanted = codec.synthesize(found)
  monkeypatch.setattr(integer, '_BAND', 1)
  monkeypatch.setattr(integer, '_BAND_ROWS', 4)
  monkeypatch.setattr(integer, '_SERIAL', 50)
  np.testing.assert_array_equal(codec.synthesize(found), wanted)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('shape', SHAPES)
def test_pixels_are_those_of_the_float_network(arch, shape):
  found = make_payload(arch, shape)
  pixels = codec.synthesize(found)
  image = float_pixels(floats(found, 'synthesis'), arch, as_float(found.grids))
  wanted = 255 * np.clip(np.asarray(image), 0, 1)
  assert pixels.dtype == np.uint8 and pixels.shape == shape
  assert np.abs(pixels - wanted).max() < 0.5 + 0.3


@pytest.mark.parametrize('arch', ARCHS)
def test_distributions_are_those_of_the_float_network(arch):
  found = make_payload(arch)
  net = stream.entropy_net(found.modules['entropy'], arch)
  around = inputs(arch, found.grids)
  level, mean = integer.predict(net, arch, around)
  wanted_mean, log2_scale = float_law(
    floats(found, 'entropy'), arch, as_float(found.grids)
  )
  assert np.abs(mean / 2**laplace.MEAN_FRAC - wanted_mean).max() < 1 / 64 + 0.01
  wanted = (np.asarray(log2_scale) - laplace.MIN_LOG2_SCALE) * laplace.SCALE_STEPS
  assert np.abs(level - wanted).max() < 0.5 + 0.05


def test_prediction_does_not_depend_on_the_batch():
  found = make_payload()
  net = stream.entropy_net(found.modules['entropy'], SMALL)
  around = stream.neighbors(SMALL, found.grids[0]).reshape(-1, SMALL.context)
  level, mean = integer.predict(net, SMALL, around)
  for at in (0, 7, 100):
    one = integer.predict(net, SMALL, around[at : at + 1])
    assert (one[0][0], one[1][0]) == (level[at], mean[at])


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(
  'arch', [archs.C3, archs.Arch(inter_grid_context=14), archs.Arch(2, 2)]
)
def test_neighbors_are_what_the_float_side_sees(arch, shape):
  latents = grids(arch, shape)
  found = inputs(arch, latents)
  np.testing.assert_array_equal(found, float_contexts(arch, as_float(latents)))


def test_gelu_table_does_not_depend_on_the_last_digit_of_erf():
  import math

  x = np.arange(-8 << integer.FRAC, 8 << integer.FRAC) / 2**integer.FRAC
  exact = 2.0**integer.FRAC * 0.5 * x * [1 + math.erf(v / math.sqrt(2)) for v in x]
  assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-9


@pytest.mark.parametrize('name', archs.MODULES)
def test_weights_with_inexact_sums_are_refused(name):
  found = make_payload()
  module = found.modules[name]
  huge = {k: np.full_like(v, 2**20) for k, v in module.weights.items()}
  module = module._replace(weights=huge)
  prepare = stream.entropy_net if name == 'entropy' else stream.synthesis_net
  big = SMALL._replace(convs=4)
  if name == 'entropy':
    module = module._replace(weight_frac=0, bias_frac=0)
    wide = {k: v.astype(np.int64) * 2**12 for k, v in huge.items()}
    module = module._replace(weights=wide)
  else:
    kernels = {f'k{i}': huge['k0'] for i in range(4)}
    biases = {f'c{i}': huge['c0'] for i in range(4)}
    module = module._replace(weights={**huge, **kernels, **biases}, weight_frac=0)
    module = module._replace(bias_frac=0)
  with pytest.raises(BitstreamError, match='exact'):
    prepare(module, big)


def test_filters_with_inexact_sums_are_refused():
  arch = archs.Arch(7, upsampling='learned')
  module = make_payload(arch, (64, 64, 3)).modules['synthesis']
  stream.synthesis_net(module, arch)
  taps = {f'u{i}': np.full(4, 2**20) for i in range(2)}
  huge = module._replace(weights={**module.weights, **taps}, bias_frac=0)
  with pytest.raises(BitstreamError, match='exact'):
    stream.synthesis_net(huge, arch)


def test_biases_finer_than_their_sums_are_refused():
  module = make_payload().modules['entropy']._replace(weight_frac=2, bias_frac=15)
  with pytest.raises(BitstreamError, match='finer'):
    stream.entropy_net(module, SMALL)

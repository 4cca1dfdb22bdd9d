"""The convolutional VAE's networks: sizes, the bottleneck, locality, start."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.errors import CodaxError
from codax.metrics import complexity
from codax.vae import arch, blocks, dct, model

# Every part of the report's networks, and of the compact ones, at tiny sizes.
TINY = arch.REFERENCE._replace(
  width=8, latent_dim=4, patch=2, stages=1, kernels=(3, 4, 6, 3), color_head=(4,),
  attention_blocks=1, heads=2, has_linear_path=True, body=1,
)  # fmt: skip


def shapes(config, side):
  """Shapes of the parameters (compressor, expander), without any array."""
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  init = lambda net, x: jax.eval_shape(net.init, jax.random.key(0), x)['params']
  positions = side // config.factor
  z = jax.ShapeDtypeStruct((1, positions, positions, config.latent_dim), jnp.float32)
  return init(model.Compressor(config), image), init(model.Expander(config), z)


def count(tree, *names):
  """Number of parameters, of those whose path has one of the names."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  found = {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}
  is_counted = lambda path: not names or any(name in path for name in names)
  return sum(math.prod(x.shape) for path, x in found.items() if is_counted(path))


@pytest.fixture(scope='module')
def reference():
  return shapes(arch.REFERENCE, 32)


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    ((), 12_580_553),
    (('mix/',), 961_830),
    (('down/',), 10_064_035),
    (('first/', 'second/'), 495_360),
    (('curve/',), 1_024),
    (('attention_',), 1_058_304),
  ],
)
def test_reference_compressor_has_the_parameters_of_the_report(
  reference, names, wanted
):
  assert count(reference[0], *names) == wanted


@pytest.mark.parametrize(
  ('names', 'wanted'),
  [
    ((), 94_006_863),
    (('stage_0/',), 23_463_552),
    (('stage_3/spade/',), 442_752),
    (('stage_2/up/',), 20_972_160),
    (('stage_1/mix/',), 2_048_640),
    (('color_0', 'color_1', 'color_norm', 'color_last'), 152_643),
    (('color_act',), 12),
  ],
)
def test_reference_expander_has_the_parameters_of_the_report(reference, names, wanted):
  assert count(reference[1], *names) == wanted


def test_reference_costs_what_the_report_says():
  """1024 x 1024: 0.36 TMAC to encode and 10.5 to decode."""
  params = shapes(arch.REFERENCE, 32)
  image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
  z = jax.ShapeDtypeStruct((1, 64, 64, 128), jnp.float32)
  run = lambda net: lambda p, x: net(arch.REFERENCE).apply({'params': p}, x)
  decode = complexity.cost(run(model.Expander), params[1], z).macs
  assert round(decode / 1e12, 1) == 10.5
  encode = complexity.cost(run(model.Compressor), params[0], image).macs
  assert round(encode / 1e12, 2) == 0.36


def test_latent_width_changes_the_reference_at_its_ends_only():
  for latent_dim in (32, 64):
    config = arch.REFERENCE._replace(latent_dim=latent_dim)
    compressor, expander = shapes(config, 32)
    assert count(compressor, 'stage_', 'attention_') == 961_830 + 10_064_035 + 1_058_304
    assert count(expander, 'up/', 'mix/') == 4 * (20_972_160 + 2_048_640)


@pytest.fixture(scope='module')
def run():
  """Runs the tiny networks with random parameters: one program for three tests.

  Takes (image, keep, latents): the expander sees keep * sample + latents. Returns mean,
  image and the gradients of all parameters.
  """
  rng = np.random.default_rng(0)
  draw = lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32)
  params = jax.tree.map(draw, shapes(TINY, 16))

  def reconstruct(params, image, keep, latents):
    mean, log_var = model.Compressor(TINY).apply({'params': params[0]}, image)
    z = keep * (mean + jnp.exp(0.5 * log_var)) + latents
    y = model.Expander(TINY).apply({'params': params[1]}, z)
    return jnp.sum(y * jnp.cos(7 * image)), (mean, y)

  compiled = jax.jit(jax.grad(reconstruct, has_aux=True))

  def call(image, keep, latents):
    grads, (mean, y) = compiled(params, image, np.float32(keep), latents)
    return np.asarray(mean), np.asarray(y), grads

  return call


def draw_inputs():
  """An image and latents."""
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
  return image, rng.normal(size=(1, 4, 4, TINY.latent_dim)).astype(np.float32)


def test_image_depends_on_the_sampled_latents_everywhere(run):
  image, latents = draw_inputs()
  before = run(image, 0, latents)[1]
  for channel in range(TINY.latent_dim):
    other = latents.copy()
    other[..., channel] += 1
    assert np.all(run(image, 0, other)[1] != before), channel  # every pixel and color


def test_image_depends_on_nothing_but_the_latents(run):
  """The report's model had a path around its sampled latents."""
  image, latents = draw_inputs()
  (mean, of_image, _), (other, of_other, _) = (
    run(x, 1, 0 * latents) for x in (image, -image)
  )
  assert np.any(mean != other) and np.any(of_image != of_other)
  fixed = [run(x, 0, latents)[1] for x in (image, -image)]
  np.testing.assert_array_equal(*fixed)


def test_every_parameter_is_live(run):
  """The source counts 66,688 parameters that are never called."""
  image, latents = draw_inputs()
  grads = jax.tree_util.tree_leaves_with_path(run(image, 1, latents)[2])
  dead = [jax.tree_util.keystr(path) for path, g in grads if not np.any(g)]
  # the bias of keys shifts all logits of a query alike
  assert [path for path in dead if "['key']['bias']" not in path] == []


def test_linear_maps_start_as_a_transform_that_decodes():
  analysis, synthesis = dct.linear_maps(4, 48)
  np.testing.assert_allclose(analysis @ synthesis, np.eye(48), atol=1e-5)
  few, back = dct.linear_maps(8, 12)
  np.testing.assert_allclose(back @ few, np.eye(12), atol=1e-5)
  flat = np.ones((1, 192), np.float32)
  np.testing.assert_allclose(flat @ few @ back, flat, atol=1e-5)


def test_windows_of_attention_do_not_see_each_other():
  block = blocks.AttentionBlock(arch.ActConfig('relu'), heads=2, window=2)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 3, 5, 4)).astype(np.float32)  # windows are cut short
  draw = lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32)
  params = jax.tree.map(draw, jax.eval_shape(block.init, jax.random.key(0), x))
  apply = jax.jit(block.apply)

  def changes(row, column):
    other = x.copy()
    other[0, row, column] += [1, -1, 0, 2]  # a norm would hide a constant
    changed = np.asarray(apply(params, x) != apply(params, other))
    return np.argwhere(changed.any((0, 3))).tolist()

  assert changes(2, 4) == [[2, 4]]
  assert changes(0, 1) == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'act': 'relo'}, "unknown activation 'relo'; did you mean 'relu'"),
    ({'act_options': (('gats', 'tanh'),)}, 'unknown option of the activation'),
    ({'latent_dim': 0}, 'model.latent_dim is 0; valid: 1 to 1024'),
    ({'latent_dim': 1.5}, 'model.latent_dim is 1.5'),
    ({'patch': 3}, 'not a power of two'),
    ({'heads': 5, 'attention_blocks': 1}, 'not a multiple of model.heads = 5'),
    ({'kernels': (3, 4)}, 'valid: four of 1 to 32'),
    ({'arch': 'compct'}, "unknown model.arch 'compct'; did you mean 'compact'"),
    ({'dtype': 'float16'}, "unknown model.dtype 'float16'"),
    ({'widht': 3}, "did you mean 'model.width'"),
  ],
)
def test_bad_architecture_is_named(changes, message):
  section = {**arch.ARCHS['compact']._asdict(), **changes}
  with pytest.raises(CodaxError) as e:
    arch.from_section(section)
  assert message in str(e.value)

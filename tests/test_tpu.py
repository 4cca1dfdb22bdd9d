"""Programs lower for TPUs on a machine without one.

Training steps are those that the loop dispatches: sampling, step and scan in one
program. XLA's own compiler for TPUs is not here, so that this finds operations without
a form for TPUs, and kernels of other devices, and not what a TPU's memory is too small
for.
"""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import families
from codax.data import pipeline
from codax.layers import fused_mlp
from codax.overfit import task as overfit_task
from codax.overfit import train as overfit_train
from codax.splat import binning, fit, fit_config, qat_inputs, solve, step
from codax.splat.target import make_target
from codax.training import dispatch, flags, mesh, settings
from codax.vae import arch, convolutional, model
from codax.vqvae import codec as vqvae_codec
from codax.vqvae import latent_refinement
from codax.vqvae import model as vqvae_model

ROOT = Path(__file__).parents[1]
BATCH = ['data.batch_size=4', 'data.crop=32', 'data.eval_crops=4']
VQVAE = [
  *BATCH, 'model.hidden=8', 'model.latent_dim=4', 'model.encoder_blocks=0',
  'model.decoder_blocks=1', 'context.hidden=8',
]  # fmt: skip
CODES = [*VQVAE, 'quantizer.num_codes=16']
VAE = [*BATCH, 'model.latent_dim=8', 'model.width=8']
TRANSFORM = [
  *BATCH, 'model.latent_dim=12', 'model.width=8', 'model.blocks=1',
  'model.filter_width=4', 'model.hyper_dim=3', 'model.hyper_width=6',
  'model.scale_context=4', 'model.coarse_dim=3',
]  # fmt: skip
DIGITS = [
  'data.batch_size=4', 'model.front_widths=(4,8,8)', 'model.widths=(8,8)',
  'training.grid_update_prob=0.1',
]  # fmt: skip
TRAININGS = {
  'vqvae_ba.py': CODES,
  'vqvae_ba.py:reference': [
    'data.name=photos', 'data.dataset=', 'data.batch_size=4', 'model.hidden=8',
    'model.latent_dim=4', 'quantizer.num_codes=16',
  ],
  'vqvae_ema.py': [*CODES, 'quantizer.revival.below=0.02'],
  'vqvae_fsq.py': [x for x in VQVAE if not x.startswith('model.latent')],
  'vae_bezier.py': VAE,
  'vae_bezier.py:act=gdn': [*VAE, 'loss.gan=0.5', 'loss.gan_width=4', 'accumulate=2'],
  'vae_bezier.py:codec': TRANSFORM,
}  # fmt: skip
# problems in one program: one takes routines of its own
PER_IMAGE = {
  'overfit_mlp.py': 3,
  'overfit_mlp.py:medium': 1,
  'overfit_kan.py': 3,
  'overfit_pwl.py:fast-reference': 1,
}
# calls of kernels of other devices, by the names of their targets
FOREIGN = ('triton', 'lapack', '__gpu', 'cuda', 'cublas', 'cudnn', 'hip', 'onednn')


@pytest.fixture(autouse=True)
def tpu(monkeypatch):
  """Python branches on the device take those of a TPU."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(dispatch, 'scans', lambda mesh: True)


def lower(function, *args):
  """Lowers a jitted function for TPUs; returns the text of the program."""
  exported = jax.export.export(function, platforms=['tpu'])(*args)
  assert exported.platforms == ('tpu',)
  text = exported.mlir_module()
  targets = [line for line in text.splitlines() if 'custom_call' in line]
  assert not [x for x in targets if any(name in x.lower() for name in FOREIGN)]
  return text


def plain(program, **static):
  """Makes a jitted function, of all other arguments, of a `programs.jit_by_shape`."""
  names = [x for x in inspect.signature(program).parameters if x not in static]
  return jax.jit(lambda *args: program.__wrapped__(**static, **dict(zip(names, args))))


def read(name, changes):
  """Reads a configuration with changes, as `launch/train.py` does."""
  words = [f'--config={ROOT}/configs/{name}', *(f'--config.{x}' for x in changes)]
  return flags.parse(['train.py', *words]).config


def lower_training(config, task, sample, arrays):
  """Lowers a dispatch of the loop, three steps."""
  options = settings.read(config)._replace(steps_per_call=3)
  init = dispatch.make_init(task, sample, options)
  state = jax.eval_shape(init, arrays)
  call = dispatch.make_dispatcher(task, sample, options, mesh.make())
  text = lower(call, state, arrays, jax.ShapeDtypeStruct((), jnp.int32), 3)
  assert 'stablehlo.while' in text  # one program makes all steps
  return text


@pytest.mark.parametrize('name', TRAININGS)
def test_training_of_a_model_lowers(name):
  config = read(name, TRAININGS[name])
  task = families.entry(families.family(config.family), 'task').make(config)
  pipe = pipeline.make(config.data, config.seed)
  lower_training(config, task, dispatch.make_sampler(pipe), pipe.arrays)


@pytest.mark.parametrize('variant', ['', 'variant=mlp'])
def test_training_of_a_classifier_lowers(variant):
  changes = DIGITS if not variant else ['data.crop=8', 'model.widths=(8,8)']
  config = read(f'rapid_kan.py:{variant}' if variant else 'rapid_kan.py', changes)
  task = families.entry(families.family('classify'), 'task').make(config)
  side = config.data.crop
  batch = {'image': np.zeros((4, side, side, 3), np.uint8), 'label': np.zeros(4, int)}
  batch['label'] = batch['label'].astype(np.int32)
  lower_training(config, task, lambda data, rng, step: data, batch)


@pytest.mark.parametrize('name', PER_IMAGE)
def test_training_on_images_lowers_without_the_kernels_of_gpus(name):
  config, count = read(name, []), PER_IMAGE[name]
  batch = {
    'image': np.zeros((count, 20, 28, 3), np.uint8),
    'lmbda': np.full(count, 1e-3, np.float32),
  }
  task = overfit_task.make(config)
  lower_training(config, task, lambda data, rng, step: data, batch)


def test_encoding_by_training_on_the_image_lowers():
  config = read('overfit_mlp.py', [])
  parse = overfit_task.parsing
  setup, recipe = parse.parse_arch(config), parse.parse_recipe(config)
  targets = jnp.zeros((1, 20, 28, 3))
  start = lambda: overfit_train.init(jax.random.key(0), setup, recipe, targets)
  ends = np.int32(10), np.int32(5)
  lower(
    plain(overfit_train._many, arch=setup, recipe=recipe),
    ends, jax.eval_shape(start), targets, np.full(1, 1e-3, np.float32),
    jax.random.key(0), np.int32(4),
  )  # fmt: skip


@pytest.mark.parametrize('count', [1, 2])
def test_fit_of_gaussians_lowers(count):
  recipe = fit_config.FitConfig(initial_fraction=1.0)
  images = [np.full((32, 48, 3), 40 * i, np.uint8) for i in range(1, count + 1)]
  fits = [fit.init_fit(make_target(image), 21, recipe, 0) for image in images]
  many = [each.state.gaussians for each in fits]
  lists, _ = binning.bin_images(many, [(32, 48)] * count, recipe, 1.5)
  shared = fit_config.to_program_config(recipe)
  states, tiled = (tuple(getattr(x, key) for x in fits) for key in ('state', 'tiled'))
  lower(
    plain(step.advance, recipe=shared),
    states, tiled, lists, np.int32(100), np.int32(7), qat_inputs.make(fits),
  )  # fmt: skip
  lower(
    plain(solve.solve_colors, recipe=shared, iterations=8),
    many[0], fits[0].tiled, lists[0],
  )  # fmt: skip
  lower(plain(step._render, recipe=shared), many[0], lists[0], fits[0].tiled.size)


def test_coding_networks_of_vqvae_lower():
  config = vqvae_model.ModelConfig(
    factor=4, hidden=8, latent_dim=4, encoder_blocks=1, decoder_blocks=1
  )
  key, image = jax.random.key(0), np.zeros((1, 16, 24, 3), np.uint8)
  x = jnp.zeros(image.shape, jnp.float32)
  z = jnp.zeros((1, 4, 6, 4))
  encoder = jax.eval_shape(vqvae_model.Encoder(config).init, key, x)['params']
  decoder = jax.eval_shape(vqvae_model.Decoder(config).init, key, z)['params']
  lower(plain(vqvae_codec._encode_program, config=config), encoder, image)
  lower(plain(vqvae_codec._decode_program, config=config), decoder, z)
  opt_state = jax.eval_shape(latent_refinement._optimizer.init, z)
  books, costs = (jnp.zeros((1, 8, 4)),), (jnp.zeros((1, 8)),)
  lower(
    plain(latent_refinement._step, config=config),
    z, opt_state, np.float32(1), x, decoder, books, costs, np.float32(1),
  )  # fmt: skip


@pytest.mark.parametrize('act', ['relu', 'gdn', 'bezier_split', 'pade'])
def test_coding_networks_of_vae_lower(act):
  config = arch.ARCHS['compact']._replace(act=act, width=8, latent_dim=8)
  key, image = jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8)
  z = jnp.zeros((1, 32 // config.factor, 32 // config.factor, 8))
  x = jnp.zeros(image.shape, jnp.float32)
  analysis = jax.eval_shape(model.Compressor(config).init, key, x)['params']
  synthesis = jax.eval_shape(model.Expander(config).init, key, z)['params']
  lower(plain(convolutional._analyze, config=config), analysis, image)
  lower(plain(convolutional._synthesize, config=config), synthesis, z)


def test_kernel_of_gpus_would_be_found():
  """It is not taken on TPUs; a program that took it would not lower."""
  assert not fused_mlp.available()
  width, samples = fused_mlp.padded_shape(4, 100)
  x = jnp.zeros((2, width, samples))
  layers = [(jnp.zeros((2, 4, 8)), jnp.zeros((2, 8)))]
  with pytest.raises((NotImplementedError, ValueError, AssertionError)):
    lower(jax.jit(lambda x: fused_mlp.apply(x, layers, None)), x)

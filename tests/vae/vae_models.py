"""A tiny transform codec whose every part matters, for the tests of the family."""

import functools

import jax
import numpy as np

from codax import bundle
from codax.entropy import fixed_point
from codax.vae import bundle_io, hyperprior, transform
from codax.vae.format import scales

CONFIG = transform.TransformConfig(
  act='relu', patch=4, latent_dim=10, width=6, blocks=1, filter_width=4, hyper_dim=3,
  hyper_width=6, context=True, levels=3,
)  # fmt: skip
CONTEXT = CONFIG._replace(scale_context=4, coarse_dim=3)
LAPPED = CONTEXT._replace(lapped=True)


def image(height, width, channels=3, seed=0):
  """Makes a smooth image with noise, uint8 [height, width, channels]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  wave = 60 * np.sin(y[..., None] / [9, 7, 5]) * np.cos(x[..., None] / [6, 8, 11])
  noise = rng.normal(0, 8, (height, width, 3))
  pixels = np.clip(128 + wave + noise, 0, 255)
  return np.rint(pixels[..., :channels]).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def init(config, pixels, seed=0):
  """Draws the parameters that training starts from."""
  keys = jax.random.split(jax.random.key(seed), 2)
  net = transform.init(keys[0], config, pixels)
  return {
    'transform': net,
    'prior': hyperprior.init(keys[1], config, net['deviation']),
  }


@functools.cache
def params(config=CONFIG, seed=0):
  """Draws parameters, and moves all of them away from 0."""
  pixels = np.stack([image(32, 32, seed=i) for i in range(4)]).astype(np.float32)
  tree = jax.tree.map(np.asarray, init(config, pixels, seed))
  rng = np.random.default_rng(seed)
  move = lambda x: (x + 0.05 * rng.normal(size=x.shape)).astype(np.float32)
  moved = jax.tree.map(move, tree)
  moved['transform']['deviation'] = tree['transform']['deviation']
  return moved


@functools.cache
def tiny_bundle(config=CONFIG, seed=0) -> bundle.Bundle:
  """Packs `params` as the bundle of a run."""
  settings = {'family': 'vae', 'objective': 'rate', 'model': config._asdict()}
  return bundle_io.pack(settings, params(config, seed), config, {})


@functools.cache
def tiny_vae_bundle() -> bundle.Bundle:
  """Packs a convolutional VAE of random parameters as the bundle of a run."""
  from codax.vae import defaults, task

  config = defaults.compact()
  config.model.update(
    {'width': 8, 'latent_dim': 6, 'color_head': (4,), 'act': 'relu', 'heads': 2}
  )
  made = task.make(config)
  batch = {'image': np.stack([image(16, 16, seed=i) for i in range(2)])}
  state = jax.device_get(jax.jit(made.init)(jax.random.key(0), batch))
  return made.bundle(state, {})


def float_prior(entropy):
  """Returns the parameters of `hyperprior.init`: the integer ones as floats again."""
  unit, tables = np.float32(2.0**-scales.FRAC), entropy.tables
  params = dict(entropy.params)
  params['scale'] = tables.scale * unit - params['gain'] / np.float32(np.log(2))
  if (hyper := tables.hyper) is None:
    return params
  step = (hyper.inverse * 2.0**-scales.INVERSE_FRAC).astype(np.float32)
  params['latents'] = {
    'gain': -np.log(step),
    'mean': hyper.mean * unit,
    'scale': hyper.scale * unit,
  }
  params['scales'] = float_layers(hyper.network, ('conv', 'middle', 'last'))
  kernel = params['scales']['conv']['kernel']
  params['scales']['conv']['kernel'] = kernel.reshape(3, 3, -1, kernel.shape[-1])
  params['scale_context'] = {}
  for i, network in enumerate(tables.context):
    layers = float_layers(network.entry, ('first',))
    layers |= float_layers(network.rest, ('conv', 'last'))
    kernel, width = layers['conv']['kernel'], len(layers['first']['bias'])
    near, side = kernel[: 9 * width], kernel[9 * width :]
    layers['conv']['kernel'] = near.reshape(3, 3, width, -1)
    layers['side'] = {'kernel': side, 'bias': np.zeros(width, np.float32)}
    params['scale_context'][f'network_{i}'] = layers
  return params


def float_layers(network, names):
  """Returns the layers of an integer network as floats, {name: {'kernel', 'bias'}}."""
  layers, frac = {}, scales.FRAC
  for name, kernel, bias, shift in zip(
    names, network.kernels, network.biases, network.shifts
  ):
    sums = frac + fixed_point.WEIGHT_FRAC
    kernel = (kernel * 2.0**-fixed_point.WEIGHT_FRAC).astype(np.float32)
    bias = ((bias - 2.0 ** (shift - 1)) * 2.0**-sums).astype(np.float32)
    layers[name] = {'kernel': kernel, 'bias': bias}
    frac = sums - shift
  return layers

"""Names and shapes of the arrays of a transform codec, to check bundles (no JAX)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codax.errors import CodaxError
from codax.layers import activations
from codax.vae import scale_context, transform
from codax.vae.transform import TransformConfig

Shape = tuple[int, ...]


def list_shapes(config: TransformConfig) -> dict[str, Shape]:
  """Lists the float arrays of a bundle, {'transform/...', 'prior/...'} -> shape."""
  block, dim, width = 3 * config.patch**2, config.latent_dim, config.width
  filtered, pixels = config.filter_width, 3 * transform.FILTER**2
  act = activations.get(config.act)
  half = config.patch // 2
  lap = {'lapped': (half, half)} if config.lapped else {}
  tree = {
    'analysis': lap | {'klt': (block, dim), 'network': _network(config, block, dim)},
    'synthesis': lap
    | {
      'klt': (dim, block),
      'network': _network(config, dim, block) | {'level': (config.levels, width)},
      'filter': {
        'conv_0': _conv3(pixels, act.expansion * filtered),
        'level': (config.levels, act.expansion * filtered),
        'act': _act(act, filtered),
        'conv_1': _conv3(filtered, pixels),
      },
    },
    'deviation': (dim,),
  }
  return _flatten({'transform': tree, 'prior': _prior(config)})


def check_arrays(
  arrays: Mapping[str, np.ndarray], expected: Mapping[str, Shape]
) -> None:
  """Refuses arrays that are not those of an architecture.

  Args:
    arrays: name -> array, but for the integer tables.
    expected: name -> shape; all are float32.

  Raises:
    CodaxError: an array is missing, superfluous, of another shape or type, or not
      finite.
  """
  for name in sorted(expected.keys() | arrays.keys()):
    if name not in arrays:
      raise CodaxError(f'the bundle lacks the array {name}')
    if name not in expected:
      raise CodaxError(f'the bundle has an unknown array {name}')
    array, shape = arrays[name], expected[name]
    if array.shape != shape or array.dtype != np.float32:
      raise CodaxError(
        f'{name} is {array.dtype} {array.shape}; its architecture has float32 {shape}'
      )
    if not np.isfinite(array).all():
      raise CodaxError(f'{name} is not finite')


def _prior(config: TransformConfig) -> dict[str, Any]:
  """Returns the float arrays of the entropy model; the others are integer tables."""
  dim, width, hyper = config.latent_dim, config.hyper_width, config.hyper_dim
  gain = {'gain': (config.levels, dim)}
  if not hyper:
    return gain | {'mean': (dim,)}
  act = activations.get(config.act)
  wide, own = act.expansion * width, _act(act, width)
  found = gain | {
    'analysis': {
      'first': _dense(dim, wide),
      'act_0': own,
      'merge': _dense(4 * width, wide),
      'act_1': own,
      'conv': _conv3(width, wide),
      'act_2': own,
      'last': _dense(width, hyper),
    },
    'means': {
      'conv': _conv3(hyper, wide),
      'level': (config.levels, wide),
      'act_0': own,
      'spread': _dense(width, 4 * wide),
      'act_1': own,
      'last': _dense(width, dim),
    },
  }
  if config.context:
    found['context'] = {
      'first': _dense(dim, width),
      'conv': _conv3(width, wide),
      'hyper': _dense(width, wide),
      'act': own,
      'last': _dense(width, dim),
    }
  return found


def _network(config: TransformConfig, num_in: int, num_out: int) -> dict[str, Any]:
  """Returns the arrays of dense, residual blocks, dense."""
  act, width = activations.get(config.act), config.width
  block = {
    'conv_0': _conv3(width, act.expansion * width),
    'act': _act(act, width),
    'conv_1': _conv3(width, width),
  }
  return {
    'first': _dense(num_in, width),
    **{f'block_{i}': block for i in range(config.blocks)},
    'last': _dense(width, num_out),
  }


def _dense(num_in: int, num_out: int) -> dict[str, Shape]:
  return {'kernel': (num_in, num_out), 'bias': (num_out,)}


def _conv3(num_in: int, num_out: int) -> dict[str, Shape]:
  return {'kernel': (3, 3, num_in, num_out), 'bias': (num_out,)}


def _act(act: activations.Activation, channels: int) -> dict[str, Shape]:
  return {name: np.shape(value) for name, value in act.init(channels).items()}


def _flatten(tree: Any, prefix: str = '') -> dict[str, Shape]:
  """Flattens nested dicts of shapes to names, as `bundle.flatten` does arrays."""
  if isinstance(tree, tuple):
    return {prefix: tree}
  flat = {}
  for key, value in tree.items():
    flat |= _flatten(value, f'{prefix}/{key}' if prefix else key)
  return flat


def check_tables(tables: Any, config: TransformConfig) -> None:
  """Refuses integer tables (`format.scales.Tables`) of another architecture.

  Raises:
    CodaxError: they do not fit.
  """
  hyper = 0 if tables.hyper is None else tables.hyper.mean.shape[1]
  found = (*tables.scale.shape, hyper)
  wanted = (config.levels, config.latent_dim, config.hyper_dim)
  if found != wanted:
    raise CodaxError(
      f'tables of {found} rate levels, coefficients and hyper-latents; the '
      f'architecture has {wanted}'
    )
  stages = scale_context.list_stages(config)
  wanted = [s.stop - s.start for s in stages if s.network is not None]
  found = [network.rest.kernels[-1].shape[1] for network in tables.context]
  if found != wanted:
    raise CodaxError(
      f'context networks for {found} coefficients; the architecture has {wanted}'
    )

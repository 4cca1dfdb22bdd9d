"""Classifiers as pure functions on pytrees: front, dense layer, KAN or MLP head.

Parameters learn; `stats` (running means and variances of batch normalization) and
`grids` (of KAN layers, see `kan_grids`) are state that training carries beside them.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from codax.classify.architecture import ModelConfig
from codax.layers import kan_wide, twins

_MOMENTUM = 0.9  # of the running means and variances
_EPS = 1e-5
_MEAN, _SCALE = 127.5, 64.0  # of 8-bit samples, for the network


class Network(NamedTuple):
  """Parameters of a network and the state beside them.

  Attributes:
    params: arrays that learn.
    stats: {'NAME': {'mean', 'var'}} of the batch normalizations.
    grids: {'kan_I': {'low', 'high'}} of the KAN layers.
  """

  params: dict[str, Any]
  stats: dict[str, Any]
  grids: dict[str, Any]


class Output(NamedTuple):
  """Result of a network for a batch.

  Attributes:
    logits: float32 [B, classes].
    stats: new running statistics, or the old ones outside of training.
    seen: {'kan_I': float32 [B, d_in]}, inputs of the KAN layers.
  """

  logits: jax.Array
  stats: dict[str, Any]
  seen: dict[str, jax.Array]


def init(rng: jax.Array, config: ModelConfig, shape: tuple[int, int, int]) -> Network:
  """Draws a network.

  Args:
    rng: key.
    config: architecture.
    shape: (H, W, C) of the images.
  """
  params, stats, grids = {}, {}, {}
  keys = (jax.random.fold_in(rng, i) for i in itertools.count())

  def add_norm(name: str, width: int) -> None:
    params[name] = {'scale': jnp.ones(width), 'bias': jnp.zeros(width)}
    stats[name] = {'mean': jnp.zeros(width), 'var': jnp.ones(width)}

  if config.front == 'conv':
    channels = shape[-1]
    for i, (width, side) in enumerate(zip(config.front_widths, config.front_kernels)):
      fan_in = side * side * channels
      kernel = jax.random.normal(next(keys), (side, side, channels, width))
      params[f'front_{i}'] = {
        'kernel': kernel * (2 / fan_in) ** 0.5,
        'bias': jnp.zeros(width),
      }
      add_norm(f'front_norm_{i}', width)
      channels = width
    inputs = channels * config.pool**2
    params['dense'] = twins.init_dense(next(keys), inputs, config.widths[0], 2**0.5)
    add_norm('dense_norm', config.widths[0])
    edges = config.edges
  else:
    edges = (shape[0] * shape[1] * shape[2], *config.edges)
  last = len(edges) - 2
  for i, (d_in, d_out) in enumerate(zip(edges, edges[1:])):
    if config.head == 'kan':
      params[f'kan_{i}'], grids[f'kan_{i}'] = kan_wide.init(
        next(keys), d_in, d_out, config.spec
      )
    if i < last or config.head == 'mlp':
      if config.head == 'mlp' or config.has_residual:
        params[f'linear_{i}'] = twins.init_dense(next(keys), d_in, d_out)
      if i < last and config.has_batch_norm:
        add_norm(f'head_norm_{i}', d_out)
  return Network(params, stats, grids)


def apply(
  network: Network,
  config: ModelConfig,
  images: jax.Array,
  rng: jax.Array | None = None,
) -> Output:
  """Runs a network.

  Args:
    network: parameters, statistics and grids.
    config: architecture.
    images: uint8 or float32 [B, H, W, C], 0 to 255.
    rng: key of dropout in training, where batches normalize themselves; None
      normalizes by the running statistics.
  """
  params, stats = network.params, dict(network.stats)
  x = (images.astype(jnp.float32) - _MEAN) * (1 / _SCALE)

  def norm(name: str, x: jax.Array) -> jax.Array:
    if name not in params:
      return x
    x, stats[name] = _normalize(params[name], stats[name], x, rng is not None)
    return x

  if config.front == 'conv':
    for i, stride in enumerate(config.front_strides):
      x = _convolve(params[f'front_{i}'], x, stride, config.dtype)
      x = jax.nn.relu(norm(f'front_norm_{i}', x))
    x = _pool(x, config.pool).reshape(len(x), -1)
    x = jax.nn.relu(norm('dense_norm', _dense(params['dense'], x, config)))
    x = _drop(x, config.dropout, rng)
  else:
    x = x.reshape(len(x), -1)
  seen, i = {}, 0
  while f'kan_{i}' in params or f'linear_{i}' in params:
    y = 0.0
    if f'kan_{i}' in params:
      seen[f'kan_{i}'] = x
      y = kan_wide.apply(params[f'kan_{i}'], network.grids[f'kan_{i}'], x, config.spec)
    if f'linear_{i}' in params:
      linear = x if f'kan_{i}' in params else _activate(x, i)
      y = y + _dense(params[f'linear_{i}'], linear, config)
    x = norm(f'head_norm_{i}', y)
    i += 1
  return Output(x, stats, seen)


def predict(network: Network, config: ModelConfig, images: jax.Array) -> jax.Array:
  """Returns logits float32 [B, classes] of images uint8 [B, H, W, C]."""
  return apply(network, config, images).logits


def _activate(x: jax.Array, i: int) -> jax.Array:
  """Applies SiLU between the layers of an MLP."""
  return jax.nn.silu(x) if i else x


def _dense(p: Any, x: jax.Array, config: ModelConfig) -> jax.Array:
  return kan_wide.multiply(x, p['kernel'], config.spec) + p['bias'][None]


def _convolve(p: Any, x: jax.Array, stride: int, dtype: str) -> jax.Array:
  """Convolves [B, H, W, C] with zeros around, so that sides shrink by the stride."""
  dims = ('NHWC', 'HWIO', 'NHWC')
  x, kernel = (a.astype(dtype) for a in (x, p['kernel']))
  y = lax.conv_general_dilated(
    x, kernel, (stride, stride), 'SAME', dimension_numbers=dims
  )
  return y.astype(jnp.float32) + p['bias'][None, None, None]


def _normalize(p: Any, stats: Any, x: jax.Array, is_training: bool):
  """Normalizes the channels (last axis); returns the new running statistics too."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  if is_training:
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    moved = {'mean': mean, 'var': var}
    stats = jax.tree.map(
      lambda old, new: _MOMENTUM * old + (1 - _MOMENTUM) * new, stats, moved
    )
  else:
    mean, var = stats['mean'], stats['var']
  scale = p['scale'] * lax.rsqrt(var + _EPS)
  shift = p['bias'] - mean * scale
  return x * scale.reshape(shape) + shift.reshape(shape), stats


def _pool(x: jax.Array, side: int) -> jax.Array:
  """Averages [B, H, W, C] over a grid of side x side areas of nearly equal size.

  Areas overlap by a row where the sides do not divide, and repeat where the map is
  smaller than the grid: every position is in one.
  """
  for axis in (1, 2):
    size = x.shape[axis]
    areas = [
      lax.slice_in_dim(x, i * size // side, -(-(i + 1) * size // side), axis=axis)
      for i in range(side)
    ]
    means = [area.mean(axis, keepdims=True) for area in areas]
    x = jnp.concatenate(means, axis)
  return x


def _drop(x: jax.Array, share: float, rng: jax.Array | None) -> jax.Array:
  """Sets a share of the numbers to 0 in training, and scales the others up."""
  if rng is None or not share:
    return x
  stays = jax.random.bernoulli(rng, 1 - share, x.shape)
  return jnp.where(stays, x / (1 - share), 0.0)

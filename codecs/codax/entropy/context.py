"""Causal context model of index maps: the floating-point side, for training.

The indices of a VQ-VAE are not independent: a code's neighbours to the left and above
say much about it. This model predicts a code from its causal neighbours (a PixelCNN
prior over VQ indices is van den Oord et al. 2017, section 3.2; here a small fixed
neighbourhood stands for the deep network so that decoding is fast): every neighbour's
code goes through a small embedding table, then a hidden ReLU layer (or more), then one
logit per code. A neighbour outside the map has a row of its own in the table.

Files are not coded with these functions but with their fixed-point twin,
:mod:`codax.entropy.context_coder`, which loses well under 0.5 % of the bits.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from codax.entropy.context_config import (
  ACTIVATION_MAX,
  DEFAULT_OFFSETS,
  ContextConfig,
  check_config,
  margins,
)

__all__ = [
  'DEFAULT_OFFSETS', 'ContextConfig', 'bits', 'check_config', 'init', 'logits',
]  # fmt: skip

Params = Mapping[str, Any]


def init(
  rng: jax.Array,
  config: ContextConfig,
  prior: jax.Array | None = None,
  embed: jax.Array | None = None,
) -> Params:
  """Initializes parameters that predict the static prior, whatever the neighbours.

  Args:
    rng: a JAX random key.
    config: sizes of the model.
    prior: float [G, K], initial probabilities, rows sum to 1 (None: uniform).
    embed: float [G, K, e], e <= config.embed, initial embedding vectors (codewords,
      say), to be scaled to unit variance. None: random.

  Returns:
    Nested dict of float32 arrays: 'embed' [G, K+1, embed] and, for each group g,
    'group_g' with 'layer_i/kernel' [in, out] and 'layer_i/bias' [out]; the last layer
    has one output per code.

  Raises:
    CodaxError: a config out of range.
  """
  config = check_config(config)
  k, groups, e = config.codes, config.groups, config.embed
  rng, key = jax.random.split(rng)
  table = jax.random.normal(key, (groups, k + 1, e), jnp.float32)
  if embed is not None:
    vectors = jnp.asarray(embed, jnp.float32)
    vectors = vectors - vectors.mean(1, keepdims=True)
    scale = jnp.sqrt((vectors**2).mean((1, 2), keepdims=True))
    vectors = vectors / jnp.maximum(scale, 1e-6)
    width = vectors.shape[-1]
    table = table.at[:, :k, :].multiply(0.1).at[:, :k, :width].add(vectors)
  if prior is None:
    prior = jnp.full((groups, k), 1 / k, jnp.float32)
  log_prior = jnp.log(jnp.maximum(jnp.asarray(prior, jnp.float32), 1e-6))
  params = {'embed': table}
  for g in range(groups):
    slots = len(config.offsets) * groups + g
    widths = (slots * e, config.hidden, *config.layers)
    layers = {}
    for i, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:])):
      rng, key = jax.random.split(rng)
      kernel = jax.random.normal(key, (n_in, n_out), jnp.float32) * math.sqrt(2 / n_in)
      layers[f'layer_{i}'] = {'kernel': kernel, 'bias': jnp.zeros(n_out, jnp.float32)}
    layers[f'layer_{len(widths) - 1}'] = {
      'kernel': jnp.zeros((widths[-1], k), jnp.float32),
      'bias': log_prior[g],
    }
    params[f'group_{g}'] = layers
  return params


def _neighbours(params: Params, config: ContextConfig, codes: jax.Array) -> jax.Array:
  """Embeds the codes of all neighbours: float [B, H, W, offsets * G * embed].

  The map is embedded once and shifted, not gathered once per neighbour.
  """
  _, height, width, groups = codes.shape
  top, left, right = margins(config.offsets)
  pad = ((0, 0), (top, 0), (left, right), (0, 0))
  padded = jnp.pad(codes, pad, constant_values=config.codes)
  features = jnp.concatenate(
    [params['embed'][g][padded[..., g]] for g in range(groups)], axis=-1
  )
  shifted = [
    features[:, top + dy : top + dy + height, left + dx : left + dx + width]
    for dy, dx in config.offsets
  ]
  return jnp.concatenate(shifted, axis=-1)


def logits(params: Params, config: ContextConfig, codes: jax.Array) -> jax.Array:
  """Computes natural log-probabilities, not normalized, of codes given their context.

  Args:
    params: parameters as of `init`.
    config: sizes of the model (static).
    codes: int32 [B, H, W, G], each in [0, K).

  Returns:
    float32 [B, H, W, G, K]. The entry at [b, y, x, g] depends only on codes at
    ``config.offsets`` from (y, x) and on groups < g at (y, x).
  """
  # Positions are flattened to one axis: plain matrix products are the fast case.
  around = _neighbours(params, config, codes).reshape(codes.size // config.groups, -1)
  here = [params['embed'][g][codes[..., g].ravel()] for g in range(config.groups - 1)]
  outputs = []
  for g in range(config.groups):
    x = jnp.concatenate([around, *here[:g]], axis=-1)
    layers = params[f'group_{g}']
    for i in range(len(layers)):
      layer = layers[f'layer_{i}']
      x = x @ layer['kernel'] + layer['bias'][None, :]
      if i + 1 < len(layers):
        x = jnp.clip(x, 0.0, ACTIVATION_MAX)
    outputs.append(x)
  return jnp.stack(outputs, axis=-2).reshape(*codes.shape, config.codes)


def bits(params: Params, config: ContextConfig, codes: jax.Array) -> jax.Array:
  """Computes the ideal code length of every code in bits: float32 [B, H, W, G].

  Args as for `logits`. The gradient reaches the parameters only: codes are integers.
  """
  scores = logits(params, config, codes)
  # A masked sum rather than a gather: its gradient is elementwise, not a scatter.
  index = jax.lax.broadcasted_iota(codes.dtype, scores.shape, scores.ndim - 1)
  chosen = index == codes[..., None]
  picked = jnp.sum(jnp.where(chosen, scores, 0.0), axis=-1)
  return (jax.nn.logsumexp(scores, axis=-1) - picked) / math.log(2)

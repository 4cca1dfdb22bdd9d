"""Finite scalar quantization: bounded channels, rounded to a few levels each.

Mentzer et al. 2023. A channel with L levels is bounded by tanh and rounded to the
nearest of L values evenly spaced over [-1, 1]; the codebook is the product of the
channels' levels. (For even L the paper shifts them so that 0 is one; here they lie
symmetrically about 0.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax import averages
from codax.errors import CodaxError
from codax.quantize import base
from codax.quantize.ops.straight_through import straight_through

MAX_CODES = 2**16


class Config(NamedTuple):
  """Configuration of the quantizer.

  Attributes:
    levels: number of levels of each channel of a group, >= 2; K is their product.
    decay: factor of the averaged code frequencies per batch, in [0, 1).
  """

  levels: tuple[int, ...] = (8, 8, 8)
  decay: float = 0.99


def codebook_from(arrays: Any) -> np.ndarray:
  """Enumerates the codewords, float32 [G, K, d], of 'levels' int [G, d].

  The last channel's level varies fastest: K codes in mixed radix.
  """
  levels = np.asarray(arrays.get('levels'))
  if levels.ndim != 2 or levels.dtype.kind != 'i' or not levels.size:
    raise CodaxError('fsq levels must be integers [G, d]')
  codes = np.prod(levels.astype(float), axis=1)
  if levels.min() < 2 or codes.max() > MAX_CODES or codes.sum() > 2**20:
    raise CodaxError(f'fsq levels must be 2 or more, their product up to {MAX_CODES}')
  if codes.min() < codes.max():
    raise CodaxError('fsq groups must have equal numbers of codes')
  axes = [[2 * np.arange(n) / (n - 1) - 1 for n in row] for row in levels]
  grids = [np.stack(np.meshgrid(*a, indexing='ij'), -1) for a in axes]
  return np.stack([g.reshape(-1, g.shape[-1]) for g in grids]).astype(np.float32)


def project(arrays: Any, z: np.ndarray) -> np.ndarray:
  """Bounds latents to the cube of the codewords."""
  del arrays
  return np.tanh(z)


def _quantize(cfg, codebook, state, z, train):
  bounded, half = jnp.tanh(z), (np.array(cfg.levels) - 1) / 2
  digits = jnp.round((bounded + 1) * jnp.broadcast_to(half, z.shape)).astype(jnp.int32)
  digits = tuple(jnp.moveaxis(digits, -1, 0))
  codes = jnp.ravel_multi_index(digits, cfg.levels, mode='clip')[..., None]
  values, flat = base.lookup(codebook, codes), codes.reshape(1, -1)
  bits = base.code_bits(averages.value(state), flat)
  if train:
    use = jax.nn.one_hot(flat, codebook.shape[1]).mean(1)
    state = averages.update(state, use, cfg.decay)
  values = straight_through(bounded, values)
  return base.Quantized(values, codes, {}, {'rate_bits': bits}, state)


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values)
  base.check_numbers(cfg, fractions=('decay',))
  codebook = jnp.asarray(codebook_from({'levels': np.array([cfg.levels])}))

  def init(rng, sample):
    del rng
    if sample.shape[-1] != len(cfg.levels):
      raise CodaxError(
        f'quantizer.levels = {cfg.levels} do not fit {sample.shape[-1]} latent channels'
      )
    uniform = jnp.full(codebook.shape[:2], 1.0 / codebook.shape[1])
    return {}, averages.from_value(uniform, cfg.decay)  # the codes' frequencies

  return base.Quantizer(
    init=init,
    quantize=lambda params, state, z, *, train, **_: _quantize(
      cfg, codebook, state, z, train
    ),
    decode=lambda params, state, codes: base.lookup(codebook, codes),
    code_prior=lambda state: base.normalize(averages.value(state)),
    export=lambda params, state: {'fsq/levels': jnp.array([cfg.levels], jnp.int32)},
    code_vectors=lambda params, state: codebook,
    num_codes=(codebook.shape[1],),
    project=jnp.tanh,
  )

"""Finite scalar quantization: bounded channels, rounded to a few levels each.

Mentzer et al. 2023. The codebook is the product of the channels' levels and has no
parameters. A channel with L levels is bounded by tanh and rounded to the nearest of L
values evenly spaced over [-1, 1]. (For even L the paper shifts the levels so that 0 is
one of them; here they lie symmetrically about 0.)
"""

import math
from typing import Any, NamedTuple

import flax
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


@flax.struct.dataclass
class State:
  """Average of the code frequencies [1, K], for the entropy coder."""

  counts: averages.Average


def codebook_from(arrays: Any) -> np.ndarray:
  """Enumerates the codewords, float32 [G, K, d], of 'levels' int [G, d].

  The last channel's level varies fastest: K codes in mixed radix.
  """
  levels = np.asarray(arrays.get('levels'))
  if levels.ndim != 2 or levels.dtype.kind != 'i' or not levels.size:
    raise CodaxError('fsq: levels missing or not integers [G, d]')
  if levels.min() < 2 or np.log2(levels).sum(1).max() > math.log2(MAX_CODES):
    raise CodaxError(f'fsq: levels must be 2 or more, their product up to {MAX_CODES}')
  if len({math.prod(row) for row in levels.tolist()}) > 1:
    raise CodaxError('fsq: groups with different numbers of codes')
  axes = [[2 * np.arange(n) / (n - 1) - 1 for n in row] for row in levels]
  grids = [np.stack(np.meshgrid(*a, indexing='ij'), -1) for a in axes]
  return np.stack([g.reshape(-1, g.shape[-1]) for g in grids]).astype(np.float32)


def project(arrays: Any, z: np.ndarray) -> np.ndarray:
  """Bounds latents to the cube of the codewords."""
  del arrays
  return np.tanh(z)


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values)
  base.check_numbers(cfg, fractions=('decay',))
  levels = np.array([cfg.levels])
  codebook = codebook_from({'levels': levels})
  half = jnp.asarray((levels - 1) / 2, jnp.float32)
  radix = jnp.asarray(np.append(np.cumprod(levels[0, :0:-1])[::-1], 1), jnp.int32)

  def init(rng, sample):
    del rng
    if sample.shape[-1] != len(cfg.levels):
      raise CodaxError(f'quantizer.levels = {cfg.levels} needs {len(cfg.levels)} latent '
                       f'channels a group, not {sample.shape[-1]}')  # fmt: skip
    uniform = jnp.full(codebook.shape[:2], 1.0 / codebook.shape[1])
    return {}, State(averages.started(uniform, cfg.decay))

  def quantize(params, state, z, *, train, rng=None, step=0):
    del params, rng, step
    bounded = jnp.tanh(z)
    digits = jnp.round((bounded + 1) * half[0])
    codes = (digits.astype(jnp.int32) * radix).sum(-1, keepdims=True)
    flat = codes.reshape(1, -1)
    values = jnp.take(codebook[0], codes[..., 0], axis=0)
    bits = base.code_bits(averages.value(state.counts), flat)
    if train:
      use = jax.nn.one_hot(flat, codebook.shape[1]).mean(1)
      state = State(averages.update(state.counts, use, cfg.decay))
    return base.Quantized(
      straight_through(bounded, values), codes, {}, {'rate_bits': bits}, state
    )

  return base.Quantizer(
    init=init,
    quantize=quantize,
    decode=lambda params, state, codes: base.lookup(jnp.asarray(codebook), codes),
    code_prior=lambda state: base.normalize(averages.value(state.counts)),
    export=lambda params, state: {'fsq/levels': jnp.asarray(levels, jnp.int32)},
    code_vectors=lambda params, state: jnp.asarray(codebook),
    num_codes=(codebook.shape[1],),
    project=jnp.tanh,
  )

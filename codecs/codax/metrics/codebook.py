"""Codebook use, from counts of the hard codes of a whole split.

Counts of batches add up; entropies of batches do not, and the soft assignments of
training say nothing about a file. All functions take NumPy arrays (computed in
float64) or jax arrays (usable under jit), and reduce the last axis, so counts [G, K]
give one value for each group.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np


def _namespace(x):
  return jnp if isinstance(x, jax.Array) else np


def count(codes, size: int):
  """Counts how often each code is used, for each group.

  Args:
    codes: int [..., G], each in 0..size-1.
    size: number K of codewords.

  Returns:
    Counts [G, K]: int64 for NumPy codes, int32 for jax ones.
  """
  xp = _namespace(codes)
  codes = xp.asarray(codes)
  chex.assert_type(codes, int)
  groups = codes.shape[-1]
  flat = (codes.reshape(-1, groups) + size * xp.arange(groups)[None]).reshape(-1)
  if xp is np:
    if codes.size and not 0 <= codes.min() <= codes.max() < size:
      raise ValueError(f'codes {codes.min()}..{codes.max()} are not in 0..{size - 1}')
    counts = np.bincount(flat, minlength=groups * size)
  else:
    counts = jnp.bincount(flat, length=groups * size)
  return counts.reshape(groups, size)


def entropy(counts):
  """Returns the entropy in bits of counts [..., K] as [...]; 0 for no counts at all."""
  xp = _namespace(counts)
  counts = xp.asarray(counts, dtype=xp.float32 if xp is jnp else xp.float64)
  total = counts.sum(-1, keepdims=True)
  p = counts / xp.maximum(total, 1)
  # The inner `where` keeps log2 away from 0, whose gradient would be NaN.
  return -(p * xp.log2(xp.where(p > 0, p, 1))).sum(-1)


def perplexity(counts):
  """Returns 2^entropy, a number of equally used codes, 1..K: [..., K] -> [...]."""
  return 2.0 ** entropy(counts)


def usage(counts):
  """Returns the fraction of codes used at least once, [..., K] -> [...]."""
  xp = _namespace(counts)
  return (xp.asarray(counts) > 0).mean(-1)


def summary(counts) -> Mapping[str, float]:
  """Averages perplexity, usage and entropy (bits per code) over groups, as floats."""
  counts = np.asarray(counts)
  return {
    'perplexity': float(perplexity(counts).mean()),
    'usage': float(usage(counts).mean()),
    'entropy': float(entropy(counts).mean()),
  }

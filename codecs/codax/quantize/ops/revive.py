"""Revival of dead codes: choice of the codes, of their donors, and of shared mass.

A code that is hardly used takes half of a much used one: the codeword is copied with a
little noise and the statistics of the pair are split evenly, so that neither looks dead
or crowded at the next step. All shapes are static: [G, K] masks instead of lists.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Moves(NamedTuple):
  """Pairs of dead codes and donors.

  Attributes:
    dead: bool [G, K], codes to move.
    donors: bool [G, K], codes that give half of their mass.
    donor: int32 [G, K], index of a dead code's donor; no meaning elsewhere.
  """

  dead: jax.Array
  donors: jax.Array
  donor: jax.Array


def pair(use: jax.Array, below: float) -> Moves:
  """Pairs the i-th code with use [G, K] < below / K and the i-th most used code.

  A donor must hold more than 2 / K, else the two would trade places for ever; dead
  codes left without one stay where they are.
  """
  codes = use.shape[-1]
  dead = use < below / codes
  by_use = jnp.argsort(-use, axis=-1)
  rank = jnp.clip(jnp.cumsum(dead, -1) - 1, 0, codes - 1)
  donor = jnp.take_along_axis(by_use, rank, axis=-1)
  dead &= jnp.take_along_axis(use, donor, -1) > 2.0 / codes
  group = jnp.arange(use.shape[0])[:, None]
  donors = jnp.zeros_like(dead).at[group, donor].max(dead)
  return Moves(dead, donors, donor)


def split_codewords(
  rng: jax.Array, codebook: jax.Array, moves: Moves, scale: jax.Array | None = None
) -> jax.Array:
  """Moves dead codewords beside their donors, 1 % of `scale` away.

  Args:
    rng: key.
    codebook: float [G, K, d].
    moves: pairs of codes.
    scale: float [G, d], a length for each coordinate; None stands for the codewords'
      standard deviation. That is 0 where all codewords have met, and twins that
      coincide never part.

  Returns:
    float [G, K, d].
  """
  source = jnp.take_along_axis(codebook, moves.donor[..., None], axis=1)
  if scale is None:
    scale = jnp.std(codebook, axis=1)
  noise = jax.random.normal(rng, source.shape, source.dtype)
  target = source + 1e-2 * scale[:, None] * noise
  return jnp.where(moves.dead[..., None], target, codebook)


def split_mass(mass: jax.Array, moves: Moves) -> jax.Array:
  """Splits mass [G, K] evenly between each dead code and its donor.

  The sum over K stays what it was.
  """
  group = jnp.arange(mass.shape[0])[:, None]
  left = jnp.where(moves.dead, mass, 0.0)
  pooled = (mass - left).at[group, moves.donor].add(left)
  half = jnp.take_along_axis(pooled, moves.donor, axis=-1) / 2
  return jnp.where(moves.dead, half, jnp.where(moves.donors, pooled / 2, pooled))


def inherit(value: jax.Array, moves: Moves) -> jax.Array:
  """Copies the values [G, K] of donors to their dead codes."""
  return jnp.where(moves.dead, jnp.take_along_axis(value, moves.donor, axis=-1), value)

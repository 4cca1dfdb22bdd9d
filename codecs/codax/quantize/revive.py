"""Dead codes: which are dead, who gives them a place, and what is shared.

A code that is hardly used takes half of a much used one: the codeword is copied with a
little noise and the statistics of the pair are split evenly, so that neither looks dead
or crowded at the next step. All shapes are static: [G, K] masks instead of lists.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Plan(NamedTuple):
  """dead, given: bool [G, K], the codes to move and those they take from;
  donor: int32 [G, K], for a dead code the one it takes from."""

  dead: jax.Array
  given: jax.Array
  donor: jax.Array


def plan(use: jax.Array, below: float) -> Plan:
  """Pairs the i-th code with use < below / K with the i-th most used code.

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
  given = jnp.zeros_like(dead).at[group, donor].max(dead)
  return Plan(dead, given, donor)


def split(
  rng: jax.Array, codebook: jax.Array, moves: Plan, spread: jax.Array | None = None
) -> jax.Array:
  """Codebook [G, K, d] with dead codes beside their donors, 1 % of `spread` away.

  `spread` [G, d] is a scale for each coordinate, by default the codewords' standard
  deviation. That is 0 where all codewords have met, and twins that coincide never part.
  """
  source = jnp.take_along_axis(codebook, moves.donor[..., None], axis=1)
  if spread is None:
    spread = jnp.std(codebook, axis=1)
  noise = jax.random.normal(rng, source.shape, source.dtype)
  target = source + 1e-2 * spread[:, None] * noise
  return jnp.where(moves.dead[..., None], target, codebook)


def share(mass: jax.Array, moves: Plan) -> jax.Array:
  """Mass [G, K] with what each dead code and its donor hold split evenly between them.

  The sum over K stays what it was.
  """
  group = jnp.arange(mass.shape[0])[:, None]
  left = jnp.where(moves.dead, mass, 0.0)
  pooled = (mass - left).at[group, moves.donor].add(left)
  half = jnp.take_along_axis(pooled, moves.donor, axis=-1) / 2
  return jnp.where(moves.dead, half, jnp.where(moves.given, pooled / 2, pooled))


def inherit(value: jax.Array, moves: Plan) -> jax.Array:
  """Values [G, K] with dead codes holding a copy of their donor's."""
  return jnp.where(moves.dead, jnp.take_along_axis(value, moves.donor, axis=-1), value)

"""Sampling without replacement: a permutation of the images for each epoch.

The permutation is a keyed bijection that is computed for single positions (a Feistel
network on numbers of 2h bits, Luby and Rackoff 1988, with a mixing function in place of
a random one). Numbers that are no image's are sent through again until they are one's
(cycle walking, Black and Rogaway 2002). Nothing is stored or sorted, and a batch is a
function of (seed, step), so that a run goes on anywhere.
"""

import jax
import jax.numpy as jnp

from codax.errors import CodaxError

_ROUNDS = 8
_MOST = 2**31 - 1


def check_size(count: int, batch_size: int) -> None:
  """Checks that positions can be computed in 32 bits.

  Raises:
    CodaxError: images times batch size is 2^31 or more.
  """
  if count * batch_size > _MOST:
    raise CodaxError(
      f'data.epochs with {count} images takes batches of up to {_MOST // count}, not '
      f'{batch_size}'
    )


def positions(
  step: jax.Array, batch_size: int, count: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the epochs and the places in them of a batch, int32 [B] each.

  Args:
    step: int32 (), number of batches before it.
    batch_size: B.
    count: number of images, see `check_size`.
  """
  # step * batch_size itself would overflow in a long run
  whole, rest = jnp.int32(step) // count, jnp.int32(step) % count
  first = rest * batch_size
  place = first % count + jnp.arange(batch_size, dtype=jnp.int32)
  return whole * batch_size + first // count + place // count, place % count


def _mix(x: jax.Array) -> jax.Array:
  """Mixes the bits of uint32 (finalizer of MurmurHash3)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def permute(place: jax.Array, keys: jax.Array, count: int) -> jax.Array:
  """Returns the image of a place under a permutation of 0 ... count - 1.

  Args:
    place: int32 [...], each in 0 ... count - 1.
    keys: uint32 [..., 8], which select the permutation.
    count: number of images, 1 to 2^30.
  """
  half = max((max(count - 1, 1).bit_length() + 1) // 2, 1)
  mask = jnp.uint32(2**half - 1)

  def once(x):
    left, right = x >> half, x & mask
    for i in range(_ROUNDS):
      left, right = right, left ^ (_mix(right ^ keys[..., i]) & mask)
    return (left << half) | right

  walk = lambda x: jnp.where(x < count, x, once(x))
  x = jax.lax.while_loop(
    lambda x: jnp.any(x >= count), walk, once(place.astype(jnp.uint32))
  )
  return x.astype(jnp.int32)


def draw(seed: int, step: jax.Array, batch_size: int, count: int) -> jax.Array:
  """Returns the images of a batch, int32 [B]: each once in an epoch of `count`.

  Args:
    seed: seed of the permutations.
    step: int32 (), number of batches before it.
    batch_size: B.
    count: number of images.
  """
  epoch, place = positions(step, batch_size, count)
  key_of = lambda e: jax.random.bits(
    jax.random.fold_in(jax.random.key(seed), e), (_ROUNDS,), jnp.uint32
  )
  return permute(place, jax.vmap(key_of)(epoch), count)

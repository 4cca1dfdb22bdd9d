"""Augmentation of batches on the device: shifts and erased squares."""

import jax
import jax.numpy as jnp
from jax import lax


def shift(images: jax.Array, rng: jax.Array, pixels: int) -> jax.Array:
  """Moves each image by up to `pixels` in both directions, its edge mirrored.

  Args:
    images: uint8 [B, H, W, C].
    rng: key.
    pixels: greatest distance; 0 does nothing.
  """
  if not pixels:
    return images
  pad = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
  padded = jnp.pad(images, pad, mode='reflect')
  corners = jax.random.randint(rng, (len(images), 2), 0, 2 * pixels + 1)
  size = images.shape[1:]

  def cut(args):
    image, corner = args
    return lax.dynamic_slice(image, (corner[0], corner[1], 0), size)

  # On CPUs a loop of copies takes less than the gather that vmap makes.
  return lax.platform_dependent(
    (padded, corners), cpu=lambda x: lax.map(cut, x), default=jax.vmap(cut)
  )


def erase(images: jax.Array, rng: jax.Array, side: int) -> jax.Array:
  """Fills a square of each image with mid grey (Cutout, DeVries and Taylor 2017).

  Args:
    images: uint8 [B, H, W, C].
    rng: key; of the square's middle, which may be anywhere.
    side: pixels; 0 does nothing.
  """
  if not side:
    return images
  b, h, w, _ = images.shape
  keys = jax.random.split(rng)
  inside = []
  for key, size in zip(keys, (h, w)):
    middle = jax.random.randint(key, (b, 1), 0, size)
    at = jnp.arange(size)[None] - middle + side // 2
    inside.append((at >= 0) & (at < side))
  erased = inside[0][:, :, None, None] & inside[1][:, None, :, None]
  return jnp.where(erased, jnp.uint8(128), images)

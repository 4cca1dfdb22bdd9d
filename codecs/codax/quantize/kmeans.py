"""k-means++ seeding and Lloyd's iteration, as pure functions of (rng, points).

Arthur & Vassilvitskii 2007 (seeding); Lloyd 1982. Used to start codebooks.
"""

import jax
import jax.numpy as jnp


def squared_distances(x: jax.Array, centers: jax.Array) -> jax.Array:
  """[N, d], [K, d] to squared Euclidean distances [N, K], never negative."""
  cross = x @ centers.T
  d = jnp.sum(x**2, -1)[:, None] - 2 * cross + jnp.sum(centers**2, -1)[None, :]
  return jnp.maximum(d, 0.0)


def nearest(x: jax.Array, centers: jax.Array) -> jax.Array:
  """Index [N] of the nearest of `centers` [K, d]; the lowest index wins ties.

  The term in |x|^2 does not change the choice and is left out, which also keeps the
  comparison sharp when |x| is large.
  """
  return jnp.argmax(
    2 * (x @ centers.T) - jnp.sum(centers**2, -1)[None, :], axis=-1
  ).astype(jnp.int32)


def plus_plus(rng: jax.Array, x: jax.Array, k: int) -> jax.Array:
  """Picks k of the points, each with probability ~ squared distance to those before.

  Args:
    rng: key.
    x: float [N, d].
    k: number of centres; may exceed the number of distinct points, in which case
      points repeat.

  Returns:
    float [k, d].
  """
  first, rest = jax.random.split(rng)
  start = x[jax.random.randint(first, (), 0, x.shape[0])]

  def pick(closest, key):
    # a set of identical points leaves no mass: fall back to uniform
    logits = jnp.where(jnp.max(closest) > 0, jnp.log(closest + 1e-30), 0.0)
    center = x[jax.random.categorical(key, logits)]
    return jnp.minimum(closest, jnp.sum((x - center) ** 2, -1)), center

  closest = jnp.sum((x - start) ** 2, -1)
  _, centers = jax.lax.scan(pick, closest, jax.random.split(rest, k - 1))
  return jnp.concatenate([start[None], centers])


def lloyd(x: jax.Array, centers: jax.Array, iterations: int) -> jax.Array:
  """Lloyd's iteration; a centre without points stays where it is. Returns [K, d]."""

  def step(centers, _):
    one_hot = jax.nn.one_hot(nearest(x, centers), centers.shape[0], dtype=x.dtype)
    count = one_hot.sum(0)[:, None]
    means = (one_hot.T @ x) / jnp.maximum(count, 1)
    return jnp.where(count > 0, means, centers), None

  return jax.lax.scan(step, centers, None, length=iterations)[0]


def fit(rng: jax.Array, x: jax.Array, k: int, iterations: int = 10) -> jax.Array:
  """k-means++ followed by Lloyd: float [N, d] to centres [k, d]."""
  return lloyd(x, plus_plus(rng, x, k), iterations)

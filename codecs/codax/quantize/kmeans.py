"""k-means++ seeding and Lloyd's iteration, as pure functions of (rng, points).

Arthur & Vassilvitskii 2007 (seeding); Lloyd 1982. Used to start codebooks.

Squared distances do not change when points and centres move together, so both are
taken relative to the centres' mean before they are multiplied out: points far from the
origin would lose their digits otherwise. Products are in full float32 also where the
device's default is less.
"""

import functools

import jax
import jax.numpy as jnp


def centred(x: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """x [N, d] and centers [K, d] less the centres' mean, and that mean [1, d]."""
  origin = jax.lax.stop_gradient(centers.mean(0, keepdims=True))
  return x - origin, centers - origin, origin


def products(x: jax.Array, y: jax.Array) -> jax.Array:
  """[N, d], [K, d] to inner products [N, K], full float32."""
  return jnp.matmul(x, y.T, precision='highest')


def squared_distances(x: jax.Array, centers: jax.Array) -> jax.Array:
  """[N, d], [K, d] to squared Euclidean distances [N, K], never negative."""
  x, centers, _ = centred(x, centers)
  norms = jnp.sum(x**2, -1)[:, None] + jnp.sum(centers**2, -1)[None, :]
  return jnp.maximum(norms - 2 * products(x, centers), 0.0)


def nearest(x: jax.Array, centers: jax.Array) -> jax.Array:
  """Index [N] of the nearest of `centers` [K, d]; the lowest index wins ties.

  The term in |x|^2 does not change the choice and is left out.
  """
  x, centers, _ = centred(x, centers)
  scores = 2 * products(x, centers) - jnp.sum(centers**2, -1)[None, :]
  return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def plus_plus(rng: jax.Array, x: jax.Array, k: int) -> jax.Array:
  """Picks k of the points, each with probability ~ squared distance to those before.

  Args:
    rng: key.
    x: float [N, d].
    k: number of centres; may exceed the number of distinct points, in which case
      points repeat, and only then.

  Returns:
    float [k, d].
  """
  first, rest = jax.random.split(rng)
  start = x[jax.random.randint(first, (), 0, x.shape[0])]
  distance = lambda center: jnp.sum((x - center[None]) ** 2, -1)

  def pick(closest, key):
    # when every point is a centre there is no mass left: fall back to uniform
    logits = jnp.where(jnp.max(closest) > 0, jnp.log(closest), 0.0)
    center = x[jax.random.categorical(key, logits)]
    return jnp.minimum(closest, distance(center)), center

  _, centers = jax.lax.scan(pick, distance(start), jax.random.split(rest, k - 1))
  return jnp.concatenate([start[None], centers])


def lloyd(x: jax.Array, centers: jax.Array, iterations: int) -> jax.Array:
  """Lloyd's iteration; a centre without points stays where it is. Returns [K, d]."""

  def step(centers, _):
    one_hot = jax.nn.one_hot(nearest(x, centers), centers.shape[0], dtype=x.dtype)
    count = one_hot.sum(0)[:, None]
    means = jnp.matmul(one_hot.T, x, precision='highest') / jnp.maximum(count, 1)
    return jnp.where(count > 0, means, centers), None

  return jax.lax.scan(step, centers, None, length=iterations)[0]


@functools.partial(jax.jit, static_argnames=('k', 'iterations'))
def fit(rng: jax.Array, x: jax.Array, k: int, iterations: int = 10) -> jax.Array:
  """k-means++ followed by Lloyd: float [N, d] to centres [k, d]."""
  return lloyd(x, plus_plus(rng, x, k), iterations)

"""k-means++ seeding and Lloyd's iteration, as pure functions of (rng, points).

Arthur & Vassilvitskii 2007 (seeding); Lloyd 1982. For initial codebooks.

Squared distances do not change when points and centers move together, so both are
taken relative to the centers' mean before they are multiplied out: points far from the
origin would lose their digits otherwise. Products are in full float32 also where the
device's default is less.
"""

import functools

import jax
import jax.numpy as jnp


def center(x: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Subtracts the centers' mean from x [N, d] and centers [K, d]; returns it too."""
  origin = jax.lax.stop_gradient(centers.mean(0, keepdims=True))
  return x - origin, centers - origin, origin


def products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns the inner products [N, K] of [N, d] and [K, d], in full float32."""
  return jnp.matmul(x, y.T, precision='highest')


def squared_distances(x: jax.Array, centers: jax.Array) -> jax.Array:
  """Returns the squared distances [N, K] of [N, d] and [K, d], never negative."""
  x, centers, _ = center(x, centers)
  norms = jnp.sum(x**2, -1)[:, None] + jnp.sum(centers**2, -1)[None, :]
  return jnp.maximum(norms - 2 * products(x, centers), 0.0)


def nearest(x: jax.Array, centers: jax.Array) -> jax.Array:
  """Returns the index [N] of the nearest of `centers` [K, d]; ties: the lowest.

  The term in |x|^2 does not change the choice and is left out.
  """
  x, centers, _ = center(x, centers)
  scores = 2 * products(x, centers) - jnp.sum(centers**2, -1)[None, :]
  return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def distortion(
  x: jax.Array, centers: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
  """Returns the mean squared distance of points [N, d] from nearest centers [K, d].

  Args:
    x: float [N, d].
    centers: float [K, d].
    weight: float [N], weights of the points, not all 0, or None for equal ones.
  """
  closest = jnp.min(squared_distances(x, centers), -1)
  return jnp.mean(closest) if weight is None else weighted_mean(closest, weight)


def weighted_mean(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns the mean of numbers [N] with weights [N], ()."""
  return jnp.sum(weight * x) / jnp.sum(weight)


def plus_plus(
  rng: jax.Array, x: jax.Array, k: int, weight: jax.Array | None = None
) -> jax.Array:
  """Picks k points, each with probability ~ squared distance to those before.

  Args:
    rng: key.
    x: float [N, d].
    k: number of centers; may exceed the number of distinct points, in which case
      points repeat, and only then.
    weight: float [N], factors of the probabilities, not all 0, or None. Points of
      weight 0 are not picked.

  Returns:
    float [k, d].
  """
  first, rest = jax.random.split(rng)
  if weight is None:
    usual, start = 0.0, x[jax.random.randint(first, (), 0, x.shape[0])]
  else:
    usual = jnp.log(weight)
    start = x[jax.random.categorical(first, usual)]
  distance = lambda center: jnp.sum((x - center[None]) ** 2, -1)

  def pick(closest, key):
    # when every point is a center there is no mass left: fall back to uniform
    mass = closest if weight is None else closest * weight
    logits = jnp.where(jnp.max(mass) > 0, jnp.log(mass), usual)
    center = x[jax.random.categorical(key, logits)]
    return jnp.minimum(closest, distance(center)), center

  _, centers = jax.lax.scan(pick, distance(start), jax.random.split(rest, k - 1))
  return jnp.concatenate([start[None], centers])


def _move(x: jax.Array, centers: jax.Array, weight: jax.Array | None) -> jax.Array:
  """Moves centers [K, d] to the means of their nearest points, where there are any."""
  one_hot = jax.nn.one_hot(nearest(x, centers), centers.shape[0], dtype=x.dtype)
  if weight is None:
    count = one_hot.sum(0)[:, None]
    shared = jnp.maximum(count, 1)
  else:
    one_hot = one_hot * weight[:, None]
    count = one_hot.sum(0)[:, None]
    shared = jnp.where(count > 0, count, 1)
  means = jnp.matmul(one_hot.T, x, precision='highest') / shared
  return jnp.where(count > 0, means, centers)


def lloyd(
  x: jax.Array, centers: jax.Array, iterations: int, weight: jax.Array | None = None
) -> jax.Array:
  """Runs Lloyd's iteration; a center without points stays in place. Returns [K, d].

  Args:
    x: float [N, d].
    centers: float [K, d].
    iterations: number of iterations.
    weight: float [N], weights of the points, or None for equal ones.
  """
  step = lambda centers, _: (_move(x, centers, weight), None)
  return jax.lax.scan(step, centers, None, length=iterations)[0]


def lloyd_until(
  x: jax.Array,
  centers: jax.Array,
  tolerance: float = 1e-4,
  most: int = 100,
  weight: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs Lloyd's iteration until the distortion falls by less than a share of itself.

  Args:
    x: float [N, d].
    centers: float [K, d].
    tolerance: share of the distortion.
    most: largest number of iterations.
    weight: float [N], weights of the points, or None for equal ones.

  Returns:
    Centers [K, d] and the number of iterations, int32 ().
  """

  def going(carry):
    _, before, now, count = carry
    return (count < most) & (before - now > tolerance * before)

  def step(carry):
    centers, _, before, count = carry
    centers = _move(x, centers, weight)
    return centers, before, distortion(x, centers, weight), count + 1

  first = distortion(x, centers, weight)
  far = jnp.full_like(first, jnp.inf)
  start = step((centers, far, first, jnp.int32(0)))  # at least one iteration
  centers, _, _, count = jax.lax.while_loop(going, step, start)
  return centers, count


@functools.partial(jax.jit, static_argnames=('k', 'iterations'))
def fit(rng: jax.Array, x: jax.Array, k: int, iterations: int = 10) -> jax.Array:
  """Fits centers [k, d] to float [N, d] by k-means++ and Lloyd's iteration."""
  return lloyd(x, plus_plus(rng, x, k), iterations)

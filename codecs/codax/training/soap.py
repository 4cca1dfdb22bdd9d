"""SOAP: Adam in the eigenbases of Shampoo's preconditioner (Vyas et al. 2024).

It suits the matrices of small networks, whose eigenbases cost next to nothing.
`scale_by_soap` is a transformation of optax with one addition: the training step calls
`refresh` every few steps. Under `vmap`, a condition inside of `update` would be both
its branches in every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SoapState(NamedTuple):
  """State of `scale_by_soap`.

  Attributes:
    count: int32 scalar, number of gradients seen.
    mean: first moments, arrays like the parameters.
    square: second moments in the eigenbases, matrices [m, n].
    factors: pair (L [m, m], R [n, n]) of each array: means of G G^T and G^T G.
    bases: pair of matrices of each array: eigenvectors of L and of R, in columns.
  """

  count: jax.Array
  mean: Any
  square: Any
  factors: Any
  bases: Any


def _matrix(x: jax.Array) -> jax.Array:
  """Reshapes [..., n] to [m, n]; a vector is one row."""
  return x.reshape(-1, x.shape[-1])


def _new_moments(state_of: Any, g: jax.Array, keep: Any, b1: float, b2: float) -> Any:
  """Returns (mean, square, factors) of one array after one more gradient."""
  mean, square, factors, (left, right) = state_of
  m = _matrix(g)
  mean = keep * (b1 * mean + (1 - b1) * g)
  square = keep * (b2 * square + (1 - b2) * (left.T @ m @ right) ** 2)
  pairs = zip(factors, (m @ m.T, m.T @ m))
  return mean, square, tuple(b2 * old + (1 - b2) * new for old, new in pairs)


def scale_by_soap(
  b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Rescales gradients as SOAP does.

  The first gradient makes the factors only, its update is zero. Then `refresh` is due,
  and again every so many steps; until it is called, this is Adam.

  Args:
    b1: decay of the first moments.
    b2: decay of the second moments and of the factors.
    eps: added to the root of the second moments.

  Returns:
    A transformation of pytrees of float arrays of one or more axes; all but the last
    are the rows of a matrix. Its updates are to be multiplied with -learning rate.
  """

  def init(params):
    sides = lambda x, make: tuple(make(n, x.dtype) for n in _matrix(x).shape)
    return SoapState(
      jnp.zeros((), jnp.int32),
      jax.tree.map(jnp.zeros_like, params),
      jax.tree.map(lambda x: jnp.zeros_like(_matrix(x)), params),
      jax.tree.map(lambda x: sides(x, lambda n, t: jnp.zeros((n, n), t)), params),
      jax.tree.map(lambda x: sides(x, lambda n, t: jnp.eye(n, dtype=t)), params),
    )

  def update(grads, state, params=None):
    del params
    leaves, tree = jax.tree.flatten(grads)
    keep = jnp.where(state.count == 0, 0.0, 1.0)
    used = jnp.maximum(state.count, 1).astype(jnp.float32)
    correct1, correct2 = 1 - b1**used, 1 - b2**used
    parts = map(tree.flatten_up_to, state[1:])
    updates, arrays = [], []
    for g, state_of in zip(leaves, zip(*parts)):
      mean, square, factors = _new_moments(state_of, g, keep, b1, b2)
      left, right = state_of[-1]
      step = left.T @ _matrix(mean) @ right / correct1
      step = step / (jnp.sqrt(square / correct2) + eps)
      updates.append((left @ step @ right.T).reshape(g.shape))
      arrays.append((mean, square, factors))
    means, squares, factors = (tree.unflatten(x) for x in zip(*arrays))
    state = SoapState(state.count + 1, means, squares, factors, state.bases)
    return tree.unflatten(updates), state

  return optax.GradientTransformation(init, update)


def refresh(state: SoapState, first: jax.Array) -> SoapState:
  """Returns the state with bases of its factors.

  Args:
    state: state of `scale_by_soap`; its arrays may have leading batch axes.
    first: bool scalar, True the first time. Then the bases are eigenvectors; later,
      one step of orthogonal iteration from the present bases.
  """

  factors, tree = jax.tree.flatten(state.factors)
  bases = tree.flatten_up_to(state.bases)
  sizes: dict[int, list[int]] = {}
  for i, factor in enumerate(factors):
    if factor.shape[-1] > 1:  # else the base is 1
      sizes.setdefault(factor.shape[-1], []).append(i)
  # All of one size together: each call is a routine to compile and to start.
  for places in sizes.values():
    these, old = (jnp.stack([x[i] for i in places]) for x in (factors, bases))
    new = jax.lax.cond(
      first,
      lambda these, old: jnp.linalg.eigh(these)[1][..., ::-1],
      lambda these, old: jnp.linalg.qr(these @ old)[0],
      these,
      old,
    )
    for i, base in zip(places, new):
      bases[i] = base
  return state._replace(bases=tree.unflatten(bases))

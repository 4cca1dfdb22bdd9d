"""SOAP against a plain float64 recurrence, and what its bases are good for."""

import jax
import jax.numpy as jnp
import numpy as np

from codax.training import soap


def oracle(gradients, every, b1, b2, eps=1e-8):
  """Updates for one matrix, float64, from the paper's algorithm 3."""
  m, n = gradients[0].shape
  left, right = np.zeros((m, m)), np.zeros((n, n))
  ql, qr = np.eye(m), np.eye(n)
  mean, square, out = np.zeros((m, n)), np.zeros((m, n)), []
  for t, g in enumerate(gradients):
    update = np.zeros((m, n))
    if t:
      mean = b1 * mean + (1 - b1) * g
      square = b2 * square + (1 - b2) * (ql.T @ g @ qr) ** 2
      turned = ql.T @ mean @ qr / (1 - b1**t)
      update = ql @ (turned / (np.sqrt(square / (1 - b2**t)) + eps)) @ qr.T
    left = b2 * left + (1 - b2) * g @ g.T
    right = b2 * right + (1 - b2) * g.T @ g
    if t == 0:
      ql, qr = (np.linalg.eigh(x)[1][:, ::-1] for x in (left, right))
    elif t % every == 0:
      ql, qr = np.linalg.qr(left @ ql)[0], np.linalg.qr(right @ qr)[0]
    out.append(update)
  return out


def test_soap_equals_the_float64_recurrence():
  rng = np.random.default_rng(0)
  mix_left, mix_right = rng.normal(size=(4, 4)), rng.normal(size=(3, 3))
  gradients = [mix_left @ rng.normal(size=(4, 3)) @ mix_right for _ in range(9)]
  optimizer = soap.scale_by_soap(b1=0.8, b2=0.9)
  with jax.enable_x64(True):
    update, refresh = jax.jit(optimizer.update), jax.jit(soap.refresh)
    state = optimizer.init({'w': jnp.zeros((4, 3), jnp.float64)})
    for t, (g, wanted) in enumerate(zip(gradients, oracle(gradients, 3, 0.8, 0.9))):
      found, state = update({'w': g}, state)
      np.testing.assert_allclose(found['w'], wanted, rtol=1e-6, atol=1e-9)
      if t % 3 == 0:
        state = refresh(state, np.asarray(t == 0))


def test_soap_without_refresh_is_adam_after_the_first_gradient():
  rng = np.random.default_rng(1)
  gradients = [rng.normal(size=(2, 3, 2)) for _ in range(5)]
  optimizer = soap.scale_by_soap(b1=0.9, b2=0.9)
  state, update = optimizer.init(jnp.zeros((2, 3, 2))), jax.jit(optimizer.update)
  mean = square = 0.0
  for t, g in enumerate(gradients):
    found, state = update(np.float32(g), state)
    if t == 0:
      assert not np.any(found)
      continue
    mean, square = 0.9 * mean + 0.1 * g, 0.9 * square + 0.1 * g**2
    correct = 1 - 0.9**t
    wanted = mean / correct / (np.sqrt(square / correct) + 1e-8)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_soap_in_a_turned_valley_is_as_fast_as_in_a_straight_one():
  """Loss |A W B|^2 with steep and flat directions that are no axes: Adam follows them
  badly."""
  rng = np.random.default_rng(2)
  turn = lambda n: np.linalg.qr(rng.normal(size=(n, n)))[0]
  steep = lambda n: jnp.asarray(turn(n) @ np.diag(np.geomspace(1, 30, n)) @ turn(n))
  a, b = steep(6), steep(5)
  loss = lambda w: jnp.sum((a @ w @ b) ** 2)
  start = jnp.asarray(rng.normal(size=(6, 5)))

  def after(refreshed, steps=150):
    optimizer = soap.scale_by_soap(b1=0.9, b2=0.9)

    @jax.jit
    def step(carry, t):
      w, state = carry
      update, state = optimizer.update(jax.grad(loss)(w), state)
      fresh = soap.refresh(state, t == 0)
      pick = (t % 5 == 0) & refreshed
      state = jax.tree.map(lambda x, y: jnp.where(pick, x, y), fresh, state)
      rate = 0.05 * (1 - t / steps)
      return (w - rate * update, state), None

    carry = start, optimizer.init(start)
    (w, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
    return float(loss(w))

  assert after(True) < 0.1 * after(False)

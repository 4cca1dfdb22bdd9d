"""The MAC counter against closed forms and against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from codax.errors import CodaxError
from codax.metrics import complexity


def _conv(x, k, stride=1, dilation=1, groups=1, padding='SAME'):
  return lax.conv_general_dilated(
    x,
    k,
    (stride, stride),
    padding,
    rhs_dilation=(dilation, dilation),
    feature_group_count=groups,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _transposed(x, k, stride=2):
  return lax.conv_transpose(x, k, (stride, stride), 'SAME')


@pytest.mark.parametrize(
  ('f', 'x', 'k', 'macs'),
  [
    (_conv, (2, 8, 8, 3), (3, 3, 3, 5), 2 * complexity.conv_macs(8, 8, 3, 3, 5)),
    (
      lambda x, k: _conv(x, k, stride=2),
      (1, 8, 8, 3),
      (4, 4, 3, 5),
      complexity.conv_macs(4, 4, 4, 3, 5),
    ),
    (
      lambda x, k: _conv(x, k, groups=4),
      (1, 6, 6, 8),
      (3, 3, 2, 8),
      complexity.conv_macs(6, 6, 3, 8, 8, groups=4),
    ),
    (
      lambda x, k: _conv(x, k, dilation=2),
      (1, 9, 7, 2),
      (3, 3, 2, 4),
      complexity.conv_macs(9, 7, 3, 2, 4),
    ),
    (_transposed, (1, 8, 8, 3), (4, 4, 3, 5), complexity.conv_macs(8, 8, 4, 3, 5)),
    (jnp.matmul, (6, 7), (7, 5), complexity.dense_macs(6, 7, 5)),
    (
      lambda x, k: jnp.einsum('bij,bjk->bik', x, k),
      (4, 6, 7),
      (4, 7, 5),
      4 * complexity.dense_macs(6, 7, 5),
    ),
  ],
)
def test_macs_are_the_closed_form_and_xlas(f, x, k, macs):
  x, k = jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(k, jnp.float32)
  assert complexity.cost(f, x, k).macs == macs
  # XLA leaves out the taps that fall on padding, and counts two operations a MAC.
  exact = complexity.cost(f, x, k, padding=False)
  assert exact.elementwise == 0
  assert exact.flops == complexity.compiled_flops(f, x, k)


class _Network(nn.Module):
  """Two convolutions, a transposed one, and a spline-like activation."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(8, (4, 4), (2, 2))(x))
    x = nn.Conv(8, (3, 3))(x)
    x = x * x * x - 0.5 * x * x
    return nn.ConvTranspose(3, (4, 4), (2, 2))(x)


def test_cost_of_a_whole_network_is_within_two_percent_of_xla():
  x = jnp.ones((2, 16, 16, 3))
  network = _Network()
  params = network.init(jax.random.key(0), x)
  f = lambda x: network.apply(params, x)
  counted = complexity.cost(f, x, padding=False).flops
  assert counted == pytest.approx(complexity.compiled_flops(f, x), rel=0.02)
  expected = 4 * 4 * 3 * 8 + 8 + 3 * 3 * 8 * 8 + 8 + 4 * 4 * 8 * 3 + 3
  assert complexity.parameters(params) == expected


def test_work_that_is_no_matrix_product_is_counted():
  polynomial = lambda x: ((x * 0.1 + 0.2) * x + 0.3) * x + 0.4
  cost = complexity.cost(polynomial, jnp.ones((10, 10)))
  assert cost == complexity.Cost(0, 600)
  assert complexity.cost(lambda x: x.sum(), jnp.ones((10, 10))).elementwise == 100


def test_loops_and_calls_count_as_often_as_they_run():
  w = jnp.ones((4, 4))
  once = complexity.cost(lambda x: jnp.tanh(x @ w), w)
  assert once == complexity.Cost(64, 16)
  looped = lambda x: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, 7)[0]
  assert complexity.cost(looped, w) == complexity.Cost(7 * 64, 7 * 16)
  nested = jax.checkpoint(jax.jit(lambda x: jnp.tanh(x @ w)))
  assert complexity.cost(lambda x: nested(nested(x)), w).macs == 128
  branch = lambda x: lax.cond(x[0, 0] > 0, lambda v: v @ w @ w, lambda v: v, x)
  assert complexity.cost(branch, w).macs == 128
  forever = lambda x: lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x)
  with pytest.raises(CodaxError, match='while loop'):
    complexity.cost(forever, w)


def test_gradient_costs_about_twice_its_function():
  w = jnp.ones((16, 16))
  f = lambda w: ((w @ w) ** 2).sum()
  forward, both = complexity.cost(f, w).macs, complexity.cost(jax.grad(f), w).macs
  assert both == 3 * forward

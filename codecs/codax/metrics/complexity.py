"""Computing cost: multiply-accumulates counted from the traced program.

``cost(f, *args)`` walks the jaxpr of ``f`` for arguments of those shapes. Matrix
products and convolutions give MACs; every other arithmetic operation on an element (an
activation, a spline's polynomial) is counted as one elementwise operation, so that a
layer whose work is not in a matrix product is not free. Loops count as often as they
run. ``compiled_flops`` is XLA's own figure, against which the tests hold this one;
XLA counts the body of a loop once, whatever its length.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from codax.errors import CodaxError

_ELEMENTWISE = frozenset(
  'add sub mul div rem pow integer_pow max min neg sign floor ceil round exp exp2 expm1'
  ' log log1p sqrt rsqrt cbrt square tanh logistic sin cos tan erf erfc erf_inv abs'
  ' select_n clamp eq ne lt le gt ge and or xor not atan2 sinh cosh asin acos atan'
  ' asinh acosh atanh lgamma digamma nextafter add_any'.split()
)
_REDUCTIONS = frozenset(
  'reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin'
  ' cumsum cumprod cummax cummin cumlogsumexp'.split()
)


class Cost(NamedTuple):
  """Cost of one call.

  Attributes:
    macs: number of multiply-accumulates of matrix products and convolutions.
    elementwise: number of all other operations, one for each element.
  """

  macs: int
  elementwise: int

  @property
  def flops(self) -> int:
    """Floating-point operations: two for each MAC."""
    return 2 * self.macs + self.elementwise

  def __add__(self, other):
    return Cost(self.macs + other.macs, self.elementwise + other.elementwise)


def conv_macs(out_h, out_w, kernel, c_in, c_out, groups=1) -> int:
  """Counts MACs of a convolution with a kernel x kernel window, padding included.

  A transposed convolution of stride s costs this with the *input*'s height and width.
  """
  return out_h * out_w * kernel * kernel * (c_in // groups) * c_out


def dense_macs(n, d_in, d_out) -> int:
  """Counts MACs of a dense layer on n vectors."""
  return n * d_in * d_out


def _dot_general(eqn) -> int:
  (contract, _), _ = eqn.params['dimension_numbers']
  lhs = eqn.invars[0].aval.shape
  return math.prod(lhs[i] for i in contract) * eqn.outvars[0].aval.size


def _taps(size, kernel, out, stride, low, lhs_dilation, rhs_dilation, padding) -> int:
  """Counts (output, tap) pairs along one axis that meet an element of the input.

  With `padding`, elements beyond the edge count as if they were there; the holes that a
  transposed convolution has between its elements never count.
  """
  at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * rhs_dilation - low
  real = at % lhs_dilation == 0
  if not padding:
    real &= (at >= 0) & (at < (size - 1) * lhs_dilation + 1)
  return int(real.sum())


def _convolution(eqn, padding: bool) -> int:
  p = eqn.params
  lhs, rhs = (v.aval.shape for v in eqn.invars)
  out = eqn.outvars[0].aval.shape
  dims = p['dimension_numbers']
  lhs_dims, rhs_dims, out_dims = dims.lhs_spec, dims.rhs_spec, dims.out_spec
  macs = out[out_dims[0]] * out[out_dims[1]] * rhs[rhs_dims[1]]
  for k in range(len(lhs_dims) - 2):
    macs *= _taps(
      lhs[lhs_dims[k + 2]],
      rhs[rhs_dims[k + 2]],
      out[out_dims[k + 2]],
      p['window_strides'][k],
      p['padding'][k][0],
      p['lhs_dilation'][k],
      p['rhs_dilation'][k],
      padding,
    )
  return macs


def _inner(params: dict[str, Any]):
  """Returns the jaxpr that an equation calls once (jit, custom derivatives, ...)."""
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    if key in params:
      inner = params[key]
      return inner.jaxpr if hasattr(inner, 'jaxpr') else inner
  return None


def _equation(eqn, padding: bool) -> Cost:
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    return Cost(_dot_general(eqn), 0)
  if name == 'conv_general_dilated':
    return Cost(_convolution(eqn, padding), 0)
  if name == 'scan':
    body = _walk(params['jaxpr'].jaxpr, padding)
    return Cost(body.macs * params['length'], body.elementwise * params['length'])
  if name == 'cond':
    return max(
      (_walk(branch.jaxpr, padding) for branch in params['branches']),
      key=lambda c: c.flops,
    )
  if name == 'while':
    raise CodaxError('cannot count a while loop: how often it runs is not known')
  inner = _inner(params)
  if inner is not None:
    return _walk(inner, padding)
  if name in _ELEMENTWISE:
    return Cost(0, eqn.outvars[0].aval.size)
  if name in _REDUCTIONS:
    return Cost(0, eqn.invars[0].aval.size)
  return Cost(0, 0)


def _walk(jaxpr, padding: bool) -> Cost:
  return sum((_equation(eqn, padding) for eqn in jaxpr.eqns), Cost(0, 0))


def cost(f: Callable, *args, padding: bool = True) -> Cost:
  """Returns the cost of one call ``f(*args)``, which is traced and not run.

  Args:
    f: function that jax can trace.
    *args: its arguments, or `jax.ShapeDtypeStruct` in their place.
    padding: True to count taps of convolutions outside the image, as published MAC
      counts do. XLA's own count leaves them out.

  Raises:
    CodaxError: a while loop is in it; `lax.scan` and `fori_loop` with fixed limits
      are counted.
  """
  return _walk(jax.make_jaxpr(f)(*args).jaxpr, padding)


def compiled_flops(f: Callable, *args) -> float:
  """Returns XLA's count of floating-point operations of the compiled ``f(*args)``."""
  analysis = jax.jit(f).lower(*args).compile().cost_analysis()
  if isinstance(analysis, list):  # One for each device in older versions of jax.
    analysis = analysis[0]
  return float(analysis['flops'])


def parameters(params) -> int:
  """Counts the scalars in a pytree of arrays."""
  return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))

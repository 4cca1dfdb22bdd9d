"""Rational functions as activations, with denominators that are never below 1.

`make`: Padé activation units of order 5/4 (Molina, Schramowski and Kersting 2020,
"safe" form): (a0 + ... + a5 x^5) / (1 + |b1 x + ... + b4 x^4|), learnt per channel or
per group of channels. `make_split`: (a0 + a1 x + a2 x^2) / (1 + |b1 x|), x and the
coefficients being outputs of the layer before, in the contiguous groups
[x | a0 | a1 | a2 | b1], and x bounded by tanh. Without the bound the value grows faster
than what the layer before computes, up to its cube, and a VAE of such layers diverges.
"""

from typing import Any

import numpy as np

from codax.errors import CodaxError
from codax.layers.activations import base

GROUPS = 5
# Beyond, x^5 nears the end of float32. The value is constant there.
LIMIT = 1e6
# Functions of x in the split form.
GATES = {'tanh': lambda x, xp: xp.tanh(x), 'none': lambda x, xp: x}
# (a0 ... a5), (b1 ... b4): least squares on 601 points of [-3, 3], as in the paper.
# The greatest error is 0.034 for leaky ReLU (at 0) and 2e-6 for SiLU.
INITS = {
  'leaky_relu': (
    (0.03358, 0.50501, 1.65136, 2.00458, 0.92797, 0.15154),
    (0.00008, 3.96934, 0.00006, 0.30007),
  ),
  'silu': (
    (0.0, 0.5, 0.249997, 0.0532644, 0.0058022, 0.000275087),
    (0.0, 0.106529, 0.0, 0.000550175),
  ),
}


def polynomials(a: Any, b: Any, x: Any) -> tuple[Any, Any]:
  """Evaluates a0 + ... + a5 x^5 and b1 x + ... + b4 x^4, by Horner's rule."""
  upper, lower = a[-1], b[-1]
  for value in reversed(a[:-1]):
    upper = upper * x + value
  for value in reversed(b[:-1]):
    lower = lower * x + value
  return upper, lower * x


def make(
  init: str = 'leaky_relu', channel_groups: int | None = None
) -> base.Activation:
  """Makes the 5/4 activation: 'numerator' [6, G] and 'denominator' [4, G].

  Args:
    init: function at the start, a name in `INITS`.
    channel_groups: number G of contiguous groups of channels that share coefficients;
      None is one for each channel.

  Raises:
    CodaxError: unknown name, or a number below 1.
  """
  values = base.check_choice('init of the activation pade', init, INITS)
  if channel_groups is not None and not (
    isinstance(channel_groups, int) and channel_groups >= 1
  ):
    raise CodaxError(
      f'channel_groups of the activation pade is {channel_groups!r}; valid: a number '
      'of 1 or more, or None'
    )

  def init_params(channels):
    groups = channel_groups or channels
    if channels % groups:
      raise CodaxError(f'{channels} channels are not {groups} groups of equal size')
    columns = [np.asarray(v, np.float32)[:, None] for v in values]
    numerator, denominator = (np.tile(c, (1, groups)) for c in columns)
    return {'numerator': numerator, 'denominator': denominator}

  def formula(params, x, xp):
    repeats = x.shape[-1] // params['numerator'].shape[1]
    # Sums over positions come first, and the sum over a group after them.
    a, b = (xp.repeat(params[k], repeats, 1) for k in ('numerator', 'denominator'))
    x = xp.clip(x, -LIMIT, LIMIT)
    if xp is np:
      upper, lower = polynomials(
        base.over_positions(a, x), base.over_positions(b, x), x
      )
      return upper / (1 + abs(lower))
    from codax.layers.activations import gradients

    return gradients.pade(a, b, x)

  name = 'pade' + ('' if init == 'leaky_relu' else f'_{init}')
  apply = base.compute_in_float32(formula)
  return base.Activation(name, 1, init_params, apply)


def make_split(gate: str = 'tanh') -> base.Activation:
  """Makes the 2/1 activation whose coefficients come from the layer before.

  Args:
    gate: function of the first group that gives x: a name in `GATES`.

  Raises:
    CodaxError: unknown name.
  """
  to_x = base.check_choice('gate of the activation pade_split', gate, GATES)

  def formula(params, x, xp):
    del params
    x, a0, a1, a2, b1 = base.split_groups(x, GROUPS)
    x = to_x(x, xp)
    return (a0 + x * (a1 + x * a2)) / (1 + xp.abs(b1 * x))

  apply = base.compute_in_float32(formula)
  name = 'pade_split' + ('' if gate == 'tanh' else f'_{gate}')
  return base.Activation(name, GROUPS, lambda channels: {}, apply)

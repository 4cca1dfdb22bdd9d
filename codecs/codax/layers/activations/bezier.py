"""Cubic Bezier curves as activations.

In Bernstein form with s = 1 - t: s^3 p0 + 3 s^2 t p1 + 3 s t^2 p2 + t^3 p3.

`make_split`: t and the four control points are outputs of the layer before, in the
contiguous groups [t | p0 | p1 | p2 | p3]; a cubic gated unit. `make`: four learnt
control points for each channel and t = sigmoid(x).

Contiguous groups are faster than five numbers of a channel side by side: 1.4 ms against
2.5 forward, 10 against 38 forward and backward, for x [8, 64, 64, 160] in float32 on
two cores that other work shared. A gradient of the split curve written by hand (only x
kept, five terms stacked or concatenated) was no faster than plain differentiation: 7 to
14 ms against 10 there, 5.6 against 3.0 for half the channels, and 8.9 to 9.6 ms against
9.0 to 9.6 for a training step of a small VAE.
"""

from typing import Any

import numpy as np

from codax.errors import CodaxError
from codax.layers.activations import base

GROUPS = 5
POINTS = 4
# Control points (p0, p1, p2, p3) of every channel at the start.
INITS = {
  'hidden': (-2.0, -0.5, 0.5, 2.0),
  'log_variance': (-3.0, -1.0, 1.0, 3.0),
  'rgb': (-1.0, 0.25, 0.75, 1.0),
}
GATES = {
  'sigmoid': base.sigmoid,
  'tanh': lambda x, xp: xp.tanh(x),
  'silu': base.silu,
}
POINT_GATES = {'none': lambda x, xp: x, 'silu': base.silu}


def bernstein(t: Any) -> list[Any]:
  """Returns the four cubic Bernstein polynomials at t."""
  s = 1 - t
  return [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t]


def evaluate(t: Any, points: Any) -> Any:
  """Evaluates curves at t; `points` are four arrays that broadcast to its shape."""
  b, p = bernstein(t), points
  return b[0] * p[0] + b[1] * p[1] + b[2] * p[2] + b[3] * p[3]


def differentiate(t: Any, points: Any) -> Any:
  """Evaluates the derivatives of curves with respect to t."""
  s, p = 1 - t, points
  return 3 * (s * s * (p[1] - p[0]) + 2 * s * t * (p[2] - p[1]) + t * t * (p[3] - p[2]))


def make_split(gate: str = 'sigmoid', points: str = 'none') -> base.Activation:
  """Makes the activation whose curves come from the layer before.

  Args:
    gate: function of the first group that gives t: a name in `GATES`. Only 'sigmoid'
      keeps the value between the least and the greatest control point.
    points: function of the control points: a name in `POINT_GATES`.

  Raises:
    CodaxError: unknown name.
  """
  to_t = base.check_choice('gate of the activation bezier_split', gate, GATES)
  to_points = base.check_choice(
    'points of the activation bezier_split', points, POINT_GATES
  )

  def formula(params, x, xp):
    del params
    t, *control = base.split_groups(x, GROUPS)
    return evaluate(to_t(t, xp), [to_points(p, xp) for p in control])

  name = 'bezier_split' + ('' if gate == 'sigmoid' else f'_{gate}')
  name += '' if points == 'none' else f'_points_{points}'
  apply = base.compute_in_float32(formula)
  return base.Activation(name, GROUPS, lambda channels: {}, apply)


def make(init: str | tuple[float, ...] = 'hidden') -> base.Activation:
  """Makes the activation with four learnt control points, 'points' [4, C].

  Args:
    init: control points of every channel at the start: a name in `INITS`, or four
      numbers.

  Raises:
    CodaxError: unknown name, or not four numbers.
  """
  if isinstance(init, str):
    name = 'bezier' if init == 'hidden' else f'bezier_{init}'
    values = base.check_choice('init of the activation bezier', init, INITS)
  else:
    name, values = 'bezier', init
  column = np.asarray(values, np.float32)[..., None]
  if column.shape != (POINTS, 1) or not np.isfinite(column).all():
    raise CodaxError(f'init of the activation bezier must be 4 numbers, not {init!r}')

  def formula(params, x, xp):
    points = params['points']
    if xp is np:
      return evaluate(base.sigmoid(x, np), base.over_positions(points, x))
    from codax.layers.activations import gradients

    return gradients.bezier(points, x)

  return base.Activation(
    name,
    1,
    lambda channels: {'points': np.tile(column, (1, channels))},
    base.compute_in_float32(formula),
  )

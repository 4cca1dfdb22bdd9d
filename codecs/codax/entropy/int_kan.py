"""KAN layers in fixed point: the same integers on every machine, at any batch size.

The decoder's form of `codax.layers.kan` (which defines the layer): inputs, weights
and sums are integers, and each output is rounded once. An edge function is, between two
knots, a polynomial in the integer distance t from the knot on the left; at the common
denominator of its coefficients and of the cubic basis' 1/6 its values are integers too.
So a layer is exact in int64 up to its last step, the rounding of the sum:

  ``y = floor(sum / D + 1/2)``, D = 2**n, or 6 * 2**n for cubic splines.

int64 sums and products are exact modulo 2**64 whatever happens on the way, so it is
enough that every final sum is below 2**62; `make` proves it from the weights (B-splines
are not negative and add up to one) or refuses them.

Where the inputs have few values, every edge becomes a table of them, tails and base
branch included, and running the layer is one look-up and one addition for each edge.
For 400,000 rows on one core, 24 to 6 and 7 to 8 wide: 0.1 to 0.2 s and 0.03 to 0.05 s
(by polynomials 0.6 and 0.2 s); for 140 rows 34 us, 24 to 6 wide.
"""

import math
from typing import NamedTuple

import numpy as np

from codax.errors import CodaxError
from codax.layers.kan_spec import Spec, check

LIMIT = 2**62  # every sum stays below
TABLE = 2**22  # numbers in the tables of a layer (32 MiB)
_WEIGHT = 2**31
_ROWS = 4096  # at a time, so that they stay in the cache
_AT_ONCE = 2**15  # coefficients that are gathered in one go, for batches of few rows


class IntKAN(NamedTuple):
  """Layer on integers; `make` makes it.

  Attributes:
    tables: int64 [d_in, 2 input_max + 1, d_out], the edge functions at every input,
      or None if they would be too large.
    pieces: int64 [d_in, k + 1, G + 2, d_out], coefficients of t**0, t**1, ... below the
      grid, in its G intervals and above it.
    starts: int64 [G + 2], the input with t = 0 in each piece.
    bias: int64 [d_out], half of the divisor included.
    log_spacing: log2 of the distance between knots in input steps.
    divisor: common denominator of the sums.
    input_max: largest magnitude of an input.
    output_max: largest magnitude of an output, where it saturates; None for no limit.
  """

  tables: np.ndarray | None
  pieces: np.ndarray
  starts: np.ndarray
  bias: np.ndarray
  log_spacing: int
  divisor: int
  input_max: int
  output_max: int | None


class _Scales(NamedTuple):
  """Factors that bring every term of a sum to the common unit."""

  spline: int
  base: int
  bias: int
  divisor: int


def make(
  spec: Spec,
  spline: np.ndarray,
  base: np.ndarray | None,
  bias: np.ndarray,
  *,
  frac_in: int,
  frac_w: int,
  frac_b: int,
  frac_out: int,
  input_max: int,
  output_max: int | None = None,
  table: int = TABLE,
) -> IntKAN:
  """Checks a quantized layer and proves that it runs exactly.

  Args:
    spec: form of the layer, with a grid fit for files (see `Spec`).
    spline: integers [G + k, d_in, d_out], magnitudes below 2**31.
    base: integers [d_in, d_out] as `spline`; None with base 'none'.
    bias: integers [d_out], magnitudes below 2**53.
    frac_in: fractional bits of the inputs, 0 to 30.
    frac_w: fractional bits of `spline` and `base`, 0 to 30.
    frac_b: fractional bits of the bias, 0 to 30.
    frac_out: fractional bits of the outputs, 0 to 30.
    input_max: largest magnitude of an integer input, below 2**31.
    output_max: saturation of the integer outputs: a next layer's input_max.
    table: largest size of tables, in numbers; changes the speed and not the values.

  Raises:
    CodaxError: the arrays do not fit each other, or a sum could reach 2**62.
  """
  fractions = [int(f) for f in (frac_in, frac_w, frac_b, frac_out)]
  if not all(0 <= f <= 30 for f in fractions):
    raise CodaxError(f'integer KAN: fractional bits {fractions} (valid: 0 to 30)')
  input_max = int(input_max)
  if not 0 <= input_max < _WEIGHT or (output_max is not None and output_max < 0):
    raise CodaxError(f'integer KAN: input_max {input_max}, output_max {output_max}')
  log_spacing, low = _geometry(spec, fractions[0])
  _check_arrays(spec, spline, base, bias)
  scales = _scales(spec, fractions, log_spacing)
  spline, bias = spline.astype(np.int64), bias.astype(np.int64)
  base = np.zeros_like(spline[0]) if base is None else base.astype(np.int64)
  _prove(spec, spline, base, bias, scales, log_spacing, low, input_max)
  pieces, starts = _pieces(spec, spline, base, scales, log_spacing, low)
  layer = IntKAN(
    None,
    pieces,
    starts,
    bias * scales.bias + scales.divisor // 2,
    log_spacing,
    scales.divisor,
    input_max,
    output_max if output_max is None else int(output_max),
  )
  if (2 * input_max + 1) * base.size > table:
    return layer
  x = np.arange(-input_max, input_max + 1)
  tables = np.stack([_edges(layer, i, x) for i in range(len(base))])
  return layer._replace(tables=tables)


def _scales(spec: Spec, fractions: list[int], log_spacing: int) -> _Scales:
  frac_in, frac_w, frac_b, frac_out = fractions
  six = 6 if spec.degree == 3 else 1
  spline_bits = frac_w + spec.degree * log_spacing
  base_bits = 0 if spec.base == 'none' else frac_w + frac_in
  bits = max(spline_bits, base_bits, frac_b, frac_out)
  return _Scales(
    2 ** (bits - spline_bits),
    six * 2 ** (bits - base_bits),
    six * 2 ** (bits - frac_b),
    six * 2 ** (bits - frac_out),
  )


def _geometry(spec: Spec, frac_in: int) -> tuple[int, int]:
  """Returns log2 of the knots' distance and the lowest knot, both in input steps."""
  check(spec)
  h = spec.spacing
  if math.frexp(h)[0] != 0.5 or spec.low + spec.grid * h != spec.high:
    raise CodaxError(f'integer KAN: a spacing of {h} is not a power of two')
  log_spacing = frac_in + math.frexp(h)[1] - 1
  low = spec.low * 2.0**frac_in
  if not (0 <= log_spacing <= 30 and abs(low) < 2**40 and low == int(low)):
    raise CodaxError(
      f'integer KAN: knots from {spec.low} at a spacing of {h} are not multiples of '
      f'the input step 2**-{frac_in}, or too far apart'
    )
  if spec.base == 'silu':
    raise CodaxError('integer KAN: base silu has no exact form (valid: linear, relu)')
  if spec.base == 'relu' and not (
    spec.low <= 0 <= spec.high and (spec.low / h).is_integer()
  ):
    raise CodaxError('integer KAN: with base relu, 0 must be a knot')
  return log_spacing, int(low)


def _check_arrays(spec, spline, base, bias):
  if (base is None) != (spec.base == 'none'):
    raise CodaxError(f'integer KAN: base {spec.base!r} with or without weights')
  arrays = [(spline, _WEIGHT, 3), (bias, 2**53, 1)]
  arrays += [] if base is None else [(base, _WEIGHT, 2)]
  for a, limit, ndim in arrays:
    if a.dtype.kind != 'i' or a.ndim != ndim or not a.size:
      raise CodaxError(f'integer KAN: an array {a.dtype} of shape {a.shape}')
    if max(int(a.max()), -int(a.min())) >= limit:
      raise CodaxError(f'integer KAN: a weight is {limit} or more')
  d_in, d_out = spline.shape[1:]
  if (spline.shape[0], d_out) != (spec.size, len(bias)) or (
    base is not None and base.shape != (d_in, d_out)
  ):
    shapes = [a.shape for a, _, _ in arrays]
    raise CodaxError(f'integer KAN: shapes {shapes} with {spec.size} coefficients')


def _prove(spec, spline, base, bias, scales, log_spacing, low, input_max):
  """Raises CodaxError unless all sums and factors are below LIMIT."""
  high = low + (spec.grid << log_spacing)
  beyond = max(0, input_max + low, input_max - high)  # farthest input outside the grid
  # A spline's magnitude is at most its largest coefficient inside the grid; a tail
  # climbs at most twice that in one spacing.
  one = (6 if spec.degree == 3 else 1) << (spec.degree * log_spacing)
  climb = (6 if spec.degree == 3 else 2) << ((spec.degree - 1) * log_spacing)
  largest = np.abs(spline).max(0).sum(0).tolist()
  weights = np.abs(base).sum(0).tolist()
  worst = max(
    m * scales.spline * (one + climb * beyond)
    + w * scales.base * input_max
    + abs(b) * scales.bias
    + scales.divisor
    for m, w, b in zip(largest, weights, bias.tolist())
  )
  worst = max(worst, *scales, one * scales.spline)
  if worst >= LIMIT:
    raise CodaxError(f'integer KAN: a sum can reach {worst:.3g}, 2**62 or more')


def _pieces(spec, spline, base, scales, log_spacing, low):
  """Returns `IntKAN.pieces` and `IntKAN.starts`."""
  g, k, step = spec.grid, spec.degree, 1 << log_spacing
  c = [spline[i : i + g] for i in range(k + 1)]  # [G, d_in, d_out] each
  if k == 3:
    powers = [
      c[0] + 4 * c[1] + c[2],
      3 * (c[2] - c[0]),
      3 * (c[0] - 2 * c[1] + c[2]),
      c[3] - c[0] + 3 * (c[1] - c[2]),
    ]
  else:
    powers = [c[0], c[1] - c[0]]
  inner = np.stack(
    [p * (scales.spline * step ** (k - m)) for m, p in enumerate(powers)]
  )
  pieces = np.zeros((k + 1, g + 2, *base.shape), np.int64)
  pieces[:, 1:-1] = inner
  pieces[:2, 0] = inner[:2, 0]
  for m in range(k + 1):  # value and slope at the right end
    pieces[0, -1] += inner[m, -1] * step**m
    pieces[1, -1] += inner[m, -1] * (m * step ** max(0, m - 1))
  starts = low + step * np.array([0, *range(g + 1)])
  on = np.ones(g + 2, bool)
  if spec.base == 'relu':
    on = starts >= 0
    on[0] = False
  slope = np.where(on[:, None, None], base[None] * scales.base, 0)
  pieces[0] += slope * starts[:, None, None]
  pieces[1] += slope
  return np.ascontiguousarray(pieces.transpose(2, 0, 1, 3)), starts


def _edges(layer: IntKAN, i: int, x: np.ndarray) -> np.ndarray:
  """Evaluates the edge functions of input i at integers x [n]: int64 [n, d_out]."""
  piece = (x - layer.starts[0]) >> layer.log_spacing
  piece += 1  # inputs outside take the first or last one: the mode of the look-ups
  t = (x - layer.starts.take(piece, mode='clip'))[:, None]
  powers = layer.pieces[i]
  y = powers[-1].take(piece, 0, mode='clip')
  for p in powers[-2::-1]:
    y *= t
    y += p.take(piece, 0, mode='clip')
  return y


def _all_edges(layer: IntKAN, x: np.ndarray) -> np.ndarray:
  """Evaluates `_edges` of all inputs x [d_in, n] in few calls: [d_in, n, d_out]."""
  piece = (x - layer.starts[0]) >> layer.log_spacing
  piece += 1
  # few rows: np.clip would take longer to begin
  np.minimum(np.maximum(piece, 0, out=piece), len(layer.starts) - 1, out=piece)
  t = (x - layer.starts[piece])[..., None]
  rows = np.arange(len(x))[:, None]
  y = layer.pieces[rows, -1, piece]
  for m in range(layer.pieces.shape[1] - 2, -1, -1):
    y *= t
    y += layer.pieces[rows, m, piece]
  return y


def apply_int(layer: IntKAN, x: np.ndarray) -> np.ndarray:
  """Runs the layer.

  Args:
    layer: the layer.
    x: [..., d_in] of any integer dtype, magnitudes up to ``layer.input_max``.

  Returns:
    int64 [..., d_out]; the same for any batch size, on every machine.

  Raises:
    CodaxError: an input is larger than promised, no integer, or their number is wrong.
  """
  x = np.asarray(x)
  d_in, _, _, d_out = layer.pieces.shape
  if x.dtype.kind not in 'iu' or x.ndim < 1 or x.shape[-1] != d_in:
    raise CodaxError(f'integer KAN: inputs {x.dtype} {x.shape} for a width of {d_in}')
  if x.size and max(int(x.max()), -int(x.min())) > layer.input_max:
    raise CodaxError(f'integer KAN: an input is above {layer.input_max}')
  lead = x.shape[:-1]
  x = x.reshape(math.prod(lead), d_in)
  y = np.empty((len(x), d_out), np.int64)
  for row in range(0, len(x), _ROWS):
    # Inputs first, in a contiguous copy: one input's look-ups at a time.
    block = x[row : row + _ROWS].T.astype(np.int64, order='C')
    y[row : row + _ROWS] = _sums(layer, block)
  if layer.divisor & (layer.divisor - 1):
    y //= layer.divisor
  else:
    y >>= layer.divisor.bit_length() - 1
  if layer.output_max is not None:
    np.minimum(np.maximum(y, -layer.output_max, out=y), layer.output_max, out=y)
  return y.reshape(*lead, d_out)


def _sums(layer: IntKAN, x: np.ndarray) -> np.ndarray:
  """Sums the edge functions at x [d_in, n] to int64 [n, d_out], before the division."""
  if layer.tables is None and x.shape[1] * layer.pieces[:, :, 0].size <= _AT_ONCE:
    y = _all_edges(layer, x).sum(0)
  elif layer.tables is None:
    y = _edges(layer, 0, x[0])
    for i in range(1, len(x)):
      y += _edges(layer, i, x[i])
  else:
    x += layer.input_max
    y = layer.tables[0].take(x[0], 0)
    for i in range(1, len(x)):
      y += layer.tables[i].take(x[i], 0, mode='clip')  # checked: the fastest mode
  y += layer.bias
  return y

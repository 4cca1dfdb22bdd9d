"""Fixed-point networks: the same numbers on every machine, at any batch size.

A float network gives other last bits at another batch size, so an autoregressive
decoder that runs one would lose its place (Balle, Johnston and Minnen 2019, "Integer
networks for data compression with latent-variable models"). Here weights, activations
and sums are integers. They are kept in float64 arrays, because float64 matrix products
are fast: as long as every partial sum stays below 2**53 no product or sum is rounded,
whatever order, blocking or number of threads the BLAS uses. `make` proves that bound
from the weights, or refuses them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codax.errors import CodaxError

EXACT = 2**53  # integers below this are exact in float64
WEIGHT_FRAC = 12
ACTIVATION_FRAC = 12

# Products of up to 2**18 multiplications are run by the usual BLAS on the calling
# thread. A wave's products are small and thousands follow each other: waking threads
# for each costs more than it gains, and on a busy machine a hundred times more.
_SERIAL = 2**18
_ROWS = 64


class IntMLP(NamedTuple):
  """Multi-layer perceptron on integers; `make` makes it.

  Layer: ``y = (x @ kernel + bias + half) >> shift``, then, but for the last layer, a
  clip to [0, limit].

  Attributes:
    kernels: float64 [in, out] with integer values, one per layer.
    biases: float64 [out] with integer values, ``half = 2**(shift - 1)`` included.
    shifts: right shift after each layer, >= 1.
    input_max: largest magnitude of an input.
    limit: largest hidden activation.
  """

  kernels: tuple[np.ndarray, ...]
  biases: tuple[np.ndarray, ...]
  shifts: tuple[int, ...]
  input_max: int
  limit: int


def make(
  kernels: Sequence[np.ndarray],
  biases: Sequence[np.ndarray],
  shifts: Sequence[int],
  input_max: int,
  limit: int,
) -> IntMLP:
  """Checks integer layers and proves that they run exactly in float64.

  Args:
    kernels: integer arrays [in, out], magnitudes below 2**31.
    biases: integer arrays [out], magnitudes below 2**53 (without the half).
    shifts: right shift after each layer, 1 to 52.
    input_max: largest magnitude of an input, >= 0.
    limit: largest hidden activation, >= 0.

  Raises:
    CodaxError: shapes do not fit, or a sum could reach 2**53.
  """
  if not len(kernels) == len(biases) == len(shifts) >= 1:
    raise CodaxError('integer network: kernels, biases and shifts differ in number')
  if input_max < 0 or limit < 0:
    raise CodaxError('integer network: negative bounds')
  width, bound, halved = None, int(input_max), []
  for i, (w, b, shift) in enumerate(zip(kernels, biases, shifts)):
    if w.dtype.kind != 'i' or b.dtype.kind != 'i':
      raise CodaxError(f'integer network: layer {i} is {w.dtype}, {b.dtype}')
    if w.ndim != 2 or b.shape != w.shape[1:] or width not in (None, w.shape[0]):
      raise CodaxError(f'integer network: layer {i} of shapes {w.shape}, {b.shape}')
    if not w.size or not 1 <= shift <= 52:
      raise CodaxError(f'integer network: layer {i} has shift {shift} or no weights')
    # In this order so that hostile values cannot wrap round in int64.
    if max(int(w.max()), -int(w.min())) >= 2**31 or w.shape[0] > 2**20:
      raise CodaxError(f'integer network: a weight of layer {i} is 2**31 or more')
    if max(int(b.max()), -int(b.min())) >= EXACT:
      raise CodaxError(f'integer network: a bias of layer {i} is 2**53 or more')
    rounded = b.astype(np.int64) + (1 << (shift - 1))
    mass = np.abs(w.astype(np.int64)).sum(axis=0)
    worst = max(int(m) * bound + abs(int(c)) for m, c in zip(mass, rounded))
    if worst >= EXACT:
      raise CodaxError(
        f'integer network: a sum of layer {i} can reach {worst:.3g}, 2**53 or more'
      )
    halved.append(rounded)
    width, bound = w.shape[1], int(limit)
  return IntMLP(
    tuple(w.astype(np.float64) for w in kernels),
    tuple(b.astype(np.float64) for b in halved),
    tuple(int(s) for s in shifts),
    int(input_max),
    int(limit),
  )


def quantize_mlp(
  layers: Sequence[tuple[np.ndarray, np.ndarray]],
  *,
  input_frac: int,
  input_max: int,
  output_frac: int,
  activation_max: float,
  output_scale: float = 1.0,
) -> IntMLP:
  """Quantizes a float perceptron (ReLU clipped to [0, activation_max]).

  Args:
    layers: float (kernel [in, out], bias [out]) pairs.
    input_frac: fractional bits of the integer inputs.
    input_max: largest magnitude of an integer input.
    output_frac: fractional bits of the outputs.
    activation_max: largest hidden activation.
    output_scale: factor on the outputs (log2(e) turns natural logits into bits).

  Raises:
    CodaxError: a weight is not finite or too large to be exact.
  """
  kernels, biases, shifts, frac = [], [], [], input_frac
  for i, (w, b) in enumerate(layers):
    last = i + 1 == len(layers)
    scale = output_scale if last else 1.0
    w, b = np.asarray(w, np.float64) * scale, np.asarray(b, np.float64) * scale
    sums = frac + WEIGHT_FRAC  # fractional bits of the sums
    w, b = np.rint(w * 2**WEIGHT_FRAC), np.rint(b * 2.0**sums)
    # Written so that NaN fails too; make() has the exact bounds.
    if not (np.abs(w).max() < 2**31 and np.abs(b).max() < EXACT):
      raise CodaxError(f'layer {i} has weights that are not finite or too large')
    kernels.append(w.astype(np.int64))
    biases.append(b.astype(np.int64))
    frac = output_frac if last else ACTIVATION_FRAC
    shifts.append(sums - frac)
  limit = round(activation_max * 2**ACTIVATION_FRAC)
  return make(kernels, biases, shifts, input_max, limit)


def _product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
  """Multiplies x [n, in] by w [in, out] in blocks, which do not change the result."""
  n, (width, out) = len(x), w.shape
  if n == 1:  # a matrix-vector product would be threaded much sooner
    return _product(np.concatenate([x, x]), w)[:1]
  columns = max(1, _SERIAL // (max(1, min(n, _ROWS)) * width))
  if n <= _ROWS and out <= columns:
    return x @ w
  y = np.empty((n, out))
  for row in range(0, n, _ROWS):
    for column in range(0, out, columns):
      at = np.s_[row : row + _ROWS, column : column + columns]
      y[at] = x[at[0]] @ w[:, at[1]]
  return y


def apply_int(mlp: IntMLP, x: np.ndarray) -> np.ndarray:
  """Runs the network.

  Args:
    mlp: the network.
    x: integers [..., in] of any dtype, magnitudes up to ``mlp.input_max``.

  Returns:
    int64 [..., out]; the same for any batch size, BLAS and number of threads.

  Raises:
    CodaxError: an input is larger than promised.
  """
  x = np.asarray(x)
  if x.size and max(int(x.max()), -int(x.min())) > mlp.input_max:
    raise CodaxError(f'integer network: an input is above {mlp.input_max}')
  lead = x.shape[:-1]
  x = x.reshape(math.prod(lead), x.shape[-1]).astype(np.float64, copy=False)
  for i, (w, b, shift) in enumerate(zip(mlp.kernels, mlp.biases, mlp.shifts)):
    x = _product(x, w)
    x += b
    # Scaling by a power of two is exact and floor is exact: an arithmetic shift.
    x *= 2.0**-shift
    np.floor(x, out=x)
    if i + 1 < len(mlp.kernels):
      np.clip(x, 0, mlp.limit, out=x)
  return x.reshape(*lead, x.shape[-1]).astype(np.int64)


def to_arrays(mlp: IntMLP) -> dict[str, np.ndarray]:
  """Returns the network as named integer arrays, for a bundle."""
  arrays = {
    'shifts': np.array(mlp.shifts, np.int32),
    'bounds': np.array([mlp.input_max, mlp.limit], np.int64),
  }
  for i, (w, b, shift) in enumerate(zip(mlp.kernels, mlp.biases, mlp.shifts)):
    arrays[f'kernel_{i}'] = w.astype(np.int32)
    arrays[f'bias_{i}'] = b.astype(np.int64) - (1 << (shift - 1))
  return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> IntMLP:
  """Inverts `to_arrays`, with all the checks of `make`.

  Raises:
    CodaxError: arrays are missing, superfluous or do not form an exact network.
  """
  shifts, bounds = arrays.get('shifts'), arrays.get('bounds')
  if shifts is None or bounds is None or shifts.ndim != 1 or bounds.shape != (2,):
    raise CodaxError('integer network: shifts or bounds are missing')
  if shifts.dtype.kind != 'i' or bounds.dtype.kind != 'i':
    raise CodaxError('integer network: shifts or bounds are not integers')
  n = len(shifts)
  names = {f'{kind}_{i}' for kind in ('kernel', 'bias') for i in range(n)}
  if set(arrays) != names | {'shifts', 'bounds'}:
    raise CodaxError(f'integer network: arrays {sorted(arrays)} are not those of '
                     f'{n} layers')  # fmt: skip
  return make(
    [arrays[f'kernel_{i}'] for i in range(n)],
    [arrays[f'bias_{i}'] for i in range(n)],
    [int(s) for s in shifts],
    int(bounds[0]),
    int(bounds[1]),
  )

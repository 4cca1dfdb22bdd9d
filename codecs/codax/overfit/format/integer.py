"""The networks of the overfitted codec in integers, for the decoder.

The twin of :mod:`codax.overfit.model` in NumPy. Weights are integers times a power of
two; activations, sums and pixels are integers, held in float64, in which every product
and sum below 2**53 is exact whatever the order (see `codax.entropy.fixed_point`). So
not only the latents but the pixels too are the same on every machine. Nothing here
needs JAX.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import fixed_point, int_kan, laplace
from codax.errors import CodaxError
from codax.overfit.format import arch as archs
from codax.overfit.format import upsampling
from codax.overfit.format.arch import Arch
from codax.overfit.format.upsampling import GRID_FRAC

FRAC = 12  # fractional bits of activations
# The synthesis sees latents divided by 2**2 (model.INPUT_SCALE).
INPUT_FRAC = FRAC - GRID_FRAC
LIMIT = 2.0**24  # of hidden activations
# Of activations between KAN layers, whose cubes are in sums below 2**62.
KAN_LIMIT = 2.0**18
# log2(scale) of the entropy network is 1 less than its output, model.LOG2_SCALE_OFFSET
_SCALE_OFFSET = -1
_PWL_FRAC = 15  # of the values of a piecewise linear activation
_ROWS = 4096  # pixels handled at once, so that a block stays in the cache
_SERIAL = 2**18  # multiplications of a product that stays on its thread
_BAND, _BAND_ROWS = 2**17, 16  # pixels of a band of rows, and its rows at least


class Module(NamedTuple):
  """One network with quantized weights.

  Attributes:
    weights: int64 arrays by name, see `arch.tensors`.
    weight_frac: number of fractional bits of weights.
    bias_frac: number of fractional bits of biases.
  """

  weights: dict[str, np.ndarray]
  weight_frac: int
  bias_frac: int


class Network(NamedTuple):
  """A module ready to run.

  All arrays are float64, whole numbers times a power of two, such that the floor of a
  sum is an activation. Halves that round are in the biases.

  Attributes:
    layers: (weights, biases) of dense layers, or `int_kan.IntKAN`s.
    curves: values of the layers' piecewise linear activations.
    linear_skip: (weights, biases) of the skip over layers of splines, or None. Over
      dense layers it is the last columns of the first one.
    convs: (kernel, bias) of the convolutions.
    filters: taps of a learned upsampling, the last doubling first, `TAPS` each.
  """

  layers: tuple[Any, ...]
  curves: tuple[np.ndarray, ...]
  linear_skip: tuple[np.ndarray, np.ndarray] | None
  convs: tuple[tuple[np.ndarray, np.ndarray], ...]
  filters: tuple[np.ndarray, ...] = ()


def prepare(module: Module, arch: Arch, name: str, largest: int) -> Network:
  """Checks that a module runs exactly, and aligns its biases.

  Args:
    module: quantized weights.
    arch: architecture.
    name: 'synthesis' or 'entropy'.
    largest: largest magnitude of latents.

  Raises:
    BitstreamError: a sum could be too large, or a bias is finer than its sum.
  """
  if module.bias_frac > FRAC + module.weight_frac:
    raise BitstreamError('a network has biases finer than its sums')
  filters, inputs, unit = (), largest * 2.0**FRAC, 2.0**FRAC
  if name == 'synthesis':
    unit = 1.0
    filters, inputs = _filters(module, largest * 2.0**GRID_FRAC)
  dense = archs.splines(arch, name, 0) is None
  if dense:
    layers, curves, bound = _dense_layers(module, arch, name, inputs)
  else:
    first = largest if name == 'entropy' else inputs
    layers, curves, bound = _kan_layers(module, arch, name, first), (), LIMIT
  skip = None
  if 'linear' in module.weights:
    w = module.weights['linear'].astype(np.float64)
    bound += _exact(inputs * np.abs(w).sum(0)) * 2.0**-module.weight_frac
    skip = _align(module, w * unit, np.full(w.shape[1], _half(module.weight_frac)))
  convs = []
  for i in range(arch.convs if name == 'synthesis' else 0):
    k = module.weights[f'k{i}'].astype(np.float64)
    k, c = k.reshape(-1, k.shape[-1]), _bias(module, f'c{i}')
    bound += _exact(bound * np.abs(k).sum(0) + np.abs(c)) * 2.0**-module.weight_frac + 1
    convs.append(_align(module, k, c))
  _exact(np.float64(bound * 255))
  if dense:
    layers = [_align(module, w, b) for w, b in layers]
    layers[0] = layers[0][0] * unit, layers[0][1]
    if skip is not None:
      layers[0] = tuple(np.concatenate(pair, -1) for pair in zip(layers[0], skip))
      skip = None
  return Network(tuple(layers), tuple(curves), skip, tuple(convs), filters)


def _align(module: Module, w: np.ndarray, b: np.ndarray):
  """Scales weights and biases so that sums are floored and not shifted."""
  return w * 2.0**-module.weight_frac, b * 2.0**-module.weight_frac


def _filters(module: Module, largest: float) -> tuple[tuple[np.ndarray, ...], float]:
  """Prepares the filters of the upsampling, for latents up to `largest`.

  Returns:
    (filters, magnitude of the largest upsampled sample).
  """
  names = sorted(name for name in module.weights if name[0] == 'u')
  shift, start = max(module.bias_frac, 2), np.array(archs.TAPS)
  aligned = 2.0 ** (shift - module.bias_frac)
  filters, bound = [], largest
  for name in reversed(names):
    taps = start * 2.0**shift + module.weights[name] * aligned
    for _ in range(2):  # along columns, along rows
      bound = _exact(bound * np.abs(taps).sum() + 2.0 ** (shift - 1)) * 2.0**-shift + 1
    bound = max(bound, largest)
    filters.append(taps * 2.0**-shift)
  return tuple(filters[::-1]), bound


def _half(shift: int) -> float:
  return 2.0 ** (shift - 1) if shift else 0.0


def _bias(module: Module, name: str) -> np.ndarray:
  """Returns a bias in units of its sums, with the half that rounds them."""
  shift = module.weight_frac
  aligned = 2.0 ** (FRAC + shift - module.bias_frac)
  return module.weights[name].astype(np.float64) * aligned + _half(shift)


def _dense_layers(module: Module, arch: Arch, name: str, bound: float):
  """Prepares the layers of a perceptron, for inputs up to `bound`.

  Returns:
    (layers, curves, largest output in units of 2**-FRAC).
  """
  layers, curves = [], []
  count = archs.layers(arch, name)
  for i in range(count):
    w, b = module.weights[f'w{i}'].astype(np.float64), _bias(module, f'b{i}')
    bound = _exact(bound * np.abs(w).sum(0) + np.abs(b)) * 2.0**-module.weight_frac + 1
    layers.append((w, b))
    if i + 1 == count:
      break
    bound = min(bound, LIMIT)
    if arch.activation == 'pwl':
      curve = module.weights[f'p{i}'] << (_PWL_FRAC - module.bias_frac)
      bound = _exact(np.abs(curve) * 2.0 ** (FRAC + 1)) * 2.0**-_PWL_FRAC + 1
      curves.append(curve)
  return layers, curves, bound


def _kan_layers(module: Module, arch: Arch, name: str, largest: float):
  """Prepares layers of splines; the entropy network's first one sees integers."""
  layers, last = [], archs.layers(arch, name) - 1
  for i in range(last + 1):
    spec = archs.splines(arch, name, i)
    whole = name == 'entropy' and i == 0
    try:
      made = int_kan.make(
        spec,
        module.weights[f's{i}'],
        module.weights.get(f'w{i}'),
        module.weights[f'b{i}'],
        frac_in=0 if whole else FRAC,
        frac_w=module.weight_frac,
        frac_b=module.bias_frac,
        frac_out=FRAC,
        input_max=int(largest if i == 0 else KAN_LIMIT),
        output_max=int(LIMIT if i == last else KAN_LIMIT),
      )
    except CodaxError as e:
      raise BitstreamError(f'a network has splines that cannot run: {e}') from e
    layers.append(made)
  return layers


def _exact(sums: np.ndarray) -> float:
  """Returns the largest of bounds of sums; it must be below 2**52, for rounding."""
  worst = float(np.max(sums))
  if not worst < fixed_point.EXACT / 2:
    raise BitstreamError('a network has weights too large to run exactly')
  return worst


@functools.cache
def _gelu_table() -> np.ndarray:
  """Tabulates round(2**FRAC * gelu(x / 2**FRAC)) for x in [-8, 8) * 2**FRAC, float64.

  No entry is within 1e-9 of a half (a test checks it), so that no machine's erf, good
  to some 1e-16, rounds one differently.
  """
  x = np.arange(-8 << FRAC, 8 << FRAC) / 2**FRAC
  erf = np.array([math.erf(v / math.sqrt(2)) for v in x])
  return np.rint(2.0**FRAC * 0.5 * x * (1 + erf))


def _pwl(values: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Interpolates int64 [PWL_KNOTS] in units of 2**-_PWL_FRAC at x / 2**FRAC."""
  end = archs.PWL_END << FRAC
  # 9 intervals in 6 units of x: a knot is every 2/3, so 3 (x + 3) counts half knots.
  place = 3 * (np.clip(x, -end, end).astype(np.int64) + end)
  shift_x = FRAC + 1
  knot = np.minimum(place >> shift_x, archs.PWL_KNOTS - 2)
  rest = place - (knot << shift_x)
  low = values[knot]
  sums = (low << shift_x) + rest * (values[knot + 1] - low)
  shift = shift_x + _PWL_FRAC - FRAC
  return ((sums + (1 << (shift - 1))) >> shift).astype(np.float64)


def _product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
  """Multiplies x [n, in] by w [in, out], in parts that the BLAS runs on this thread.

  Small products gain nothing from more threads, and a busy machine loses (see
  `fixed_point`).
  """
  rows = max(1, _SERIAL // w.size)
  if len(x) <= rows:
    return x @ w
  y = np.empty((len(x), w.shape[1]))
  for start in range(0, len(x), rows):
    np.matmul(x[start : start + rows], w, out=y[start : start + rows])
  return y


def _activate(arch: Arch, net: Network, layer: int, x: np.ndarray) -> np.ndarray:
  """Applies an activation to units of 2**-FRAC, in place where possible."""
  if arch.activation == 'relu':
    # np.clip takes longer to begin, and waves are short
    return np.minimum(np.maximum(x, 0, out=x), LIMIT, out=x)
  if arch.activation == 'gelu':
    table = _gelu_table()
    index = np.clip(x, -8 << FRAC, (8 << FRAC) - 1).astype(np.int64) + (8 << FRAC)
    return np.where(x < 8 << FRAC, table[index], np.minimum(x, LIMIT))
  return _pwl(net.curves[layer], x)


def _sums(x: np.ndarray, layer: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
  """Computes floor(x @ weights + biases)."""
  y = _product(x, layer[0])
  y += layer[1]
  return np.floor(y, out=y)


def _run(net: Network, arch: Arch, x: np.ndarray) -> np.ndarray:
  """Applies the layers and the skip.

  Args:
    net: network from `prepare`.
    arch: architecture.
    x: float64 [N, C_in], integers in the units of `prepare`.

  Returns:
    float64 [N, C_out], integers in units of 2**-FRAC.
  """
  if isinstance(net.layers[0], int_kan.IntKAN):
    h = x.astype(np.int64)
    for layer in net.layers:
      h = int_kan.apply_int(layer, h)
    h = h.astype(np.float64)
    return h if net.linear_skip is None else h + _sums(x, net.linear_skip)
  first, *others = net.layers
  h = _sums(x, first)
  if not others:
    return h
  width = len(others[0][0])
  h, beside = h[:, :width], h[:, width:]
  for i, layer in enumerate(others):
    h = _sums(_activate(arch, net, i, h), layer)
  if beside.size:
    h += beside
  return h


# --- latents to pixels ----------------------------------------------------------------


def synthesize(
  net: Network, arch: Arch, grids: Sequence[np.ndarray], channels: int
) -> np.ndarray:
  """Computes the image uint8 [H, W, C] of integer grids.

  It is made in bands of rows, so that a large image needs little memory beside itself
  and its latents.

  Args:
    net: network from `prepare`, for inputs up to ``MAX_LATENT * 2**GRID_FRAC``.
    arch: architecture.
    grids: int [h, w], finest first.
    channels: number of channels of the image.
  """
  height, width = grids[0].shape
  out = np.empty((height, width, channels), np.uint8)
  rows = max(_BAND_ROWS, _BAND // width)
  reach = len(net.convs)  # rows that a convolution sees beyond its own, all together
  for top in range(0, height, rows):
    bottom = min(top + rows, height)
    first, last = max(0, top - reach), min(height, bottom + reach)
    band = _band(
      net, arch, upsampling.upsample(grids, first, last, net.filters), channels
    )
    out[top:bottom] = band[top - first : bottom - first]
  return out


def _band(net: Network, arch: Arch, x: np.ndarray, channels: int) -> np.ndarray:
  """Computes pixels [H, W, C], float64, of upsampled grids [G, H, W].

  The convolutions take the first and last rows for the edges of the image.
  """
  count, height, width = x.shape
  x = x.reshape(count, -1)
  y = np.empty((height * width, channels))
  for start in range(0, height * width, _ROWS):
    # Latents / 2**INPUT_FRAC in units of 2**-FRAC is latents in units of 2**-GRID_FRAC.
    block = x[:, start : start + _ROWS].T.astype(np.float64)
    y[start : start + _ROWS] = _run(net, arch, block)
  y = y.reshape(height, width, channels)
  for kernel, bias in net.convs:
    y += _conv3(y, kernel, bias)
  # to 0 .. 255: floor(255 y + 1/2)
  y *= 255 * 2.0**-FRAC
  y += 0.5
  return np.clip(np.floor(y, out=y), 0, 255, out=y)


def _conv3(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
  """Convolves [H, W, C] by 3 x 3 with repeated edges, in bands of rows."""
  height, width, channels = x.shape
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode='edge')
  out = np.empty_like(x)
  rows = max(1, _ROWS // width)
  for top in range(0, height, rows):
    n = min(rows, height - top)
    taps = [
      padded[top + i : top + i + n, j : j + width] for i in range(3) for j in range(3)
    ]
    patches = np.concatenate(taps, -1).reshape(n * width, -1)
    out[top : top + n] = _sums(patches, (kernel, bias)).reshape(n, width, channels)
  return out


# --- neighbors to distributions ------------------------------------------------------


def predict(
  net: Network, arch: Arch, neighbors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Predicts (scale level, mean), int64 [N] each, for `laplace`.

  Args:
    net: network from `prepare`.
    arch: architecture.
    neighbors: float64 [N, context], whole numbers.
  """
  out = _run(net, arch, neighbors)
  out *= _UNITS
  out += _ORIGIN
  np.floor(out, out=out)
  np.maximum(out, _LEAST, out=out)  # float64 holds what int64 may not
  mean, level = np.minimum(out, _MOST, out=out).T.astype(np.int64)
  return level, mean


# Scale, origin and limits of the entropy network's two outputs, mean and log2(scale).
_UNITS = 2.0**-FRAC * np.array([2**laplace.MEAN_FRAC, laplace.SCALE_STEPS])
_ORIGIN = 0.5 + laplace.SCALE_STEPS * np.array(
  [0, _SCALE_OFFSET - laplace.MIN_LOG2_SCALE]
)
_LEAST = np.array([-(2.0**30), 0])
_MOST = np.array([2.0**30, laplace.LEVELS - 1])

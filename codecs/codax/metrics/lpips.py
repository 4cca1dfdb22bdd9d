"""LPIPS v0.1 on SqueezeNet 1.1, a learnt distance between images, from a file.

Zhang, Isola, Efros, Shechtman and Wang, *The unreasonable effectiveness of deep
features as a perceptual metric* (CVPR 2018); Iandola et al., *SqueezeNet* (2016).
Features of seven layers are scaled to unit length at each position; their squared
differences, weighted by channel, are averaged over the positions and summed over the
layers.

The weights are no part of codax: the user names an ``.npz`` of float32 arrays, called
as in torchvision's ``squeezenet1_1`` (``features.0.weight`` [64, 3, 3, 3], out, in,
rows, columns; ``features.3.squeeze.bias`` ...), and ``lin0`` ... ``lin6``, the weights
of the layers' channels ([64], [128], [256], [384], [384], [512], [512]) of LPIPS v0.1.
A hash tells whether they are the published ones, however the file was written.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError

# SHA-256 of the published arrays, see `hash_arrays`.
SHA256 = '9c6bad63e6b4081b1ce1d8982071fcaac5a7ede0c04180308e5255eff04bd1f5'
# Fire modules whose outputs are features, by slice; a slice in `_POOLED` begins with a
# maximum over 3 x 3 positions, stride 2.
_SLICES = ((3, 4), (6, 7), (9,), (10,), (11,), (12,))
_POOLED = (0, 1, 2)
# Statistics of ImageNet on [-1, 1], which the published weights belong to.
_SHIFT = np.float32([-0.030, -0.088, -0.188])
_SCALE = np.float32([0.458, 0.448, 0.450])
_PARTS = ('squeeze', 'expand1x1', 'expand3x3')
# Squared length under which features count as this long: the root of 0 has no slope.
_LEAST_SQUARE = 1e-20
_EPS = 1e-10
# Pixels a side: smaller images leave nothing after three poolings.
MIN_SIDE = 17
_MAX_BYTES = 2**28

Weights = dict[str, jax.Array]


def load(path: str | os.PathLike, sha256: str | None = SHA256) -> Weights:
  """Loads weights and checks them.

  Args:
    path: ``.npz`` file that the module describes.
    sha256: hash that the arrays must have; None takes any weights that fit.

  Returns:
    Arrays by name, for `distance`; kernels are [rows, columns, in, out].

  Raises:
    CodaxError: no file is named, it cannot be read, or it holds other weights.
  """
  if not path:
    raise CodaxError('LPIPS needs a file with its weights, and none is named')
  arrays = _read(Path(path).expanduser())
  try:
    check(arrays)
  except CodaxError as e:
    raise CodaxError(f'{path} holds no weights of LPIPS: {e}') from e
  if sha256 is not None and hash_arrays(arrays) != sha256:
    raise CodaxError(
      f'{path} holds other weights than LPIPS v0.1 of SqueezeNet: their hash is '
      f'{hash_arrays(arrays)[:16]}, not {sha256[:16]}'
    )
  kernel = lambda x: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
  return {name: jnp.asarray(kernel(x)) for name, x in arrays.items()}


def _read(path: Path) -> dict[str, np.ndarray]:
  """Reads the arrays of an ``.npz`` file, without anything that is pickled."""
  try:
    if path.stat().st_size > _MAX_BYTES:
      raise CodaxError(f'{path} is larger than weights of LPIPS, {_MAX_BYTES} bytes')
    data = path.read_bytes()
  except OSError as e:
    raise CodaxError(f'weights of LPIPS: {path}: {e.strerror}') from e
  try:
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(found, np.ndarray):
      raise CodaxError(f'{path} holds one array and no names: no .npz file')
    with found:
      return {name: found[name] for name in found.files}
  except CodaxError:
    raise
  # damage can surface anywhere in three libraries
  except Exception as e:
    raise CodaxError(f'{path} is not a readable .npz file of weights: {e}') from e


def check(arrays: Mapping[str, np.ndarray]) -> None:
  """Checks names, types and shapes of weights, whose widths may be any.

  Args:
    arrays: weights by name, kernels [out, in, rows, columns].

  Raises:
    CodaxError: names the first array that is missing, unknown or of a wrong shape.
  """
  wanted = _shapes(arrays)
  for name, shape in wanted.items():
    array = arrays[name]
    if array.dtype != np.float32 or array.shape != shape:
      raise CodaxError(
        f'{name} is {array.dtype} {list(array.shape)}, not float32 {list(shape)}'
      )
    if not np.isfinite(array).all():
      raise CodaxError(f'{name} is not finite')
  unknown = sorted(set(arrays) - set(wanted))
  if unknown:
    raise CodaxError(f'{unknown[0]} is none of its arrays')


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array, given the widths of the biases."""

  def width(name: str) -> int:
    if name not in arrays:
      raise CodaxError(f'{name} is missing')
    if arrays[name].ndim != 1:
      raise CodaxError(f'{name} is {list(arrays[name].shape)}, not [channels]')
    return arrays[name].shape[0]

  shapes = {}

  def add(name: str, in_width: int, side: int) -> int:
    out_width = width(f'{name}.bias')
    if f'{name}.weight' not in arrays:
      raise CodaxError(f'{name}.weight is missing')
    shapes[f'{name}.weight'] = (out_width, in_width, side, side)
    shapes[f'{name}.bias'] = (out_width,)
    return out_width

  channels = add('features.0', 3, 3)
  widths = [channels]
  for layer in _SLICES:
    for i in layer:
      squeezed = add(f'features.{i}.squeeze', channels, 1)
      channels = add(f'features.{i}.expand1x1', squeezed, 1)
      channels += add(f'features.{i}.expand3x3', squeezed, 3)
    widths.append(channels)
  for i, channels in enumerate(widths):
    width(f'lin{i}')
    shapes[f'lin{i}'] = (channels,)
  return shapes


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
  """Returns the SHA-256 of names, shapes and little-endian values in name order."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name], '<f4')
    digest.update(f'{name} {list(array.shape)};'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def distance(weights: Weights, a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes LPIPS of pairs of images; its gradient is finite, also where a = b.

  Args:
    weights: result of `load`.
    a: float [B, H, W, 3] on [-1, 1], sides of `MIN_SIDE` pixels or more.
    b: float [B, H, W, 3], likewise.

  Returns:
    float32 [B]: 0 (up to rounding, 1e-14) for equal images, greater for less similar
    ones.
  """
  if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
    raise ValueError(f'LPIPS compares [B, H, W, 3], not {a.shape} and {b.shape}')
  if min(a.shape[1:3]) < MIN_SIDE:
    raise CodaxError(
      f'LPIPS needs images of {MIN_SIDE} pixels a side or more, not '
      f'{a.shape[2]}x{a.shape[1]}'
    )
  both = jnp.concatenate([a, b]).astype(jnp.float32)
  total = jnp.zeros(a.shape[0], jnp.float32)
  for i, x in enumerate(_features(weights, both)):
    x = _normalize(x)
    difference = jnp.square(x[: a.shape[0]] - x[a.shape[0] :])
    total += jnp.mean(difference @ weights[f'lin{i}'], axis=(1, 2))
  return total


def _features(weights: Weights, x: jax.Array) -> list[jax.Array]:
  """Returns the outputs of the seven layers, [B, h, w, C] each."""
  x = (x - _SHIFT.reshape(1, 1, 1, 3)) / _SCALE.reshape(1, 1, 1, 3)
  x = jax.nn.relu(_conv(weights, 'features.0', x, stride=2, padding='VALID'))
  features = [x]
  for i, layer in enumerate(_SLICES):
    x = _pool(x) if i in _POOLED else x
    for fire in layer:
      x = _fire(weights, f'features.{fire}', x)
    features.append(x)
  return features


def _fire(weights: Weights, name: str, x: jax.Array) -> jax.Array:
  squeeze, one, three = (f'{name}.{part}' for part in _PARTS)
  x = jax.nn.relu(_conv(weights, squeeze, x))
  y = [_conv(weights, one, x), _conv(weights, three, x)]
  return jax.nn.relu(jnp.concatenate(y, axis=-1))


def _conv(
  weights: Weights, name: str, x: jax.Array, stride: int = 1, padding: str = 'SAME'
) -> jax.Array:
  y = jax.lax.conv_general_dilated(
    x,
    weights[f'{name}.weight'],
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return y + weights[f'{name}.bias'].reshape(1, 1, 1, -1)


def _pool(x: jax.Array) -> jax.Array:
  """Takes maxima of 3 x 3 positions, stride 2; the last window may be cut short."""
  ends = [(0, (n - 3) % 2 if n >= 3 else 3 - n) for n in x.shape[1:3]]
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), *ends, (0, 0)]
  )


def _normalize(x: jax.Array) -> jax.Array:
  """Scales [B, h, w, C] to unit length over C."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x / (jnp.sqrt(jnp.maximum(square, _LEAST_SQUARE)) + _EPS)

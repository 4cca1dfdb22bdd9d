"""The networks of the overfitted codec in JAX, as training runs them.

Pure functions on plain pytrees: ``params`` has 'latents' (all grids as one float32 [N],
finest first, in units of `LATENT_GAIN` quantization steps; see `split`), 'synthesis'
and 'entropy' (dicts of float32 arrays, see `arch.tensors`).
:mod:`codax.overfit.format.integer` has the
same networks in integers, for the decoder.

Dense layers are pixel-major, [pixels, channels], which XLA runs fastest on CPUs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from codax.entropy import laplace
from codax.layers import fused_conv, fused_mlp, kan
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch
from codax.overfit.grids import contexts, upsample

# Quantization steps in a latent parameter of 1: with Adam, whose steps are about the
# learning rate, it sets the speed of latents against that of the networks.
LATENT_GAIN = 16.0
# The synthesis sees latents divided by this, the entropy network undivided ones.
INPUT_SCALE = 4.0
KAN_LIMIT = 64.0  # largest activation between KAN layers
# The entropy network's second output is log2(scale) minus this.
LOG2_SCALE_OFFSET = -1.0

Params = dict[str, Any]


def init(rng: jax.Array, arch: Arch, grids: int, channels: int) -> Params:
  """Draws networks before training, for an image's numbers of grids and channels."""
  listed = archs.tensors(arch, grids, channels)
  bounds = [init_bound(arch, t) for t in listed]
  # One draw for all arrays, each with a key of its own: one routine to compile.
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(len(listed)))
  sizes = [math.prod(t.shape) for t, most in zip(listed, bounds) if most]
  drawn = jax.vmap(lambda key: jax.random.uniform(key, (max(sizes, default=0),)))(keys)
  params: Params = {module: {} for module in archs.MODULES}
  for t, most, row in zip(listed, bounds, drawn):
    value = jnp.zeros(t.shape)
    if most:
      value = (2 * most * row[: math.prod(t.shape)] - most).reshape(t.shape)
    elif t.name[0] == 'p':
      value = jnp.array(gelu_at_knots())
    params[t.module][t.name] = value
  return params


def init_bound(arch: Arch, t: archs.Tensor) -> float:
  """Returns the bound of an array's random initial values; 0 for zeros."""
  if t.name[0] == 'w':
    # The last layers start small, so that training starts from the linear map.
    last = t.name == f'w{archs.layers(arch, t.module) - 1}'
    return (0.1 if last else 1.0) * math.sqrt(3.0 / t.shape[0])
  return 0.5 if t.module == 'synthesis' and t.name == 'linear' else 0.0


def split(flat: Any, shapes: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
  """Splits all latents [N] into grids of these shapes."""
  out, at = [], 0
  for h, w in shapes:
    out.append(flat[at : at + h * w].reshape(h, w))
    at += h * w
  return tuple(out)


def gelu_at_knots() -> list[float]:
  """Computes the initial values of a piecewise linear activation."""
  return [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in _knots()]


def _knots() -> list[float]:
  step = 2 * archs.PWL_END / (archs.PWL_KNOTS - 1)
  return [-archs.PWL_END + step * i for i in range(archs.PWL_KNOTS)]


def _pwl(values: jax.Array, x: jax.Array) -> jax.Array:
  """Evaluates the piecewise linear function with these values at the knots.

  As a sum of ramps: no gathers, and every knot's gradient is one reduction.
  """
  knots = _knots()
  slopes = jnp.diff(values) / (knots[1] - knots[0])
  bends = jnp.diff(slopes, prepend=0.0, append=0.0)
  return values[0] + sum(bends[i] * jnp.maximum(x - k, 0) for i, k in enumerate(knots))


def activate(arch: Arch, net: Params, layer: int, x: jax.Array) -> jax.Array:
  """Applies the activation after a hidden layer."""
  if arch.activation == 'relu':
    return jnp.maximum(x, 0)
  if arch.activation == 'gelu':
    return jax.nn.gelu(x, approximate=False)
  return _pwl(net[f'p{layer}'], x)


def _perceptron(net: Params, arch: Arch, module: str, x: jax.Array) -> jax.Array:
  """Applies a network to float [N, C_in]: [N, C_out]."""
  count = archs.layers(arch, module)
  if archs.splines(arch, module, 0) is not None:
    return _kan_layers(net, arch, module, x)
  h = x
  for i in range(count):
    h = h @ net[f'w{i}'] + net[f'b{i}'].reshape(1, -1)
    if i + 1 < count:
      h = activate(arch, net, i, h)
  return h + x @ net['linear'] if 'linear' in net else h


def _kan_layers(net: Params, arch: Arch, module: str, x: jax.Array) -> jax.Array:
  """Applies a network of spline layers, see `_perceptron`."""

  def run(x):
    h = x
    for i in range(archs.layers(arch, module)):
      names = {'spline': f's{i}', 'base': f'w{i}', 'bias': f'b{i}'}
      layer = {kind: net[name] for kind, name in names.items() if name in net}
      if i:
        h = jnp.clip(h, -KAN_LIMIT, KAN_LIMIT)
      h = kan.apply(layer, h, archs.splines(arch, module, i))
    return h + x @ net['linear'] if 'linear' in net else h

  # Twice as fast on CPUs, where all the basis functions of all pixels fit no cache.
  return kan.in_blocks(run, x) if jax.default_backend() == 'cpu' else run(x)


def filters(net: Params) -> dict[int, jax.Array]:
  """Collects the taps of learned doublings, by the grid that each ends at."""
  taps = jnp.array(archs.TAPS)
  return {int(k[1:]): taps + value for k, value in net.items() if k[0] == 'u'}


def _conv3(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Convolves [H, W, C] by a kernel [3, 3, C, C], edges repeated."""
  padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode='edge')
  dims = ('NHWC', 'HWIO', 'NHWC')
  out = lax.conv_general_dilated(
    padded[None], kernel, (1, 1), 'VALID', dimension_numbers=dims
  )
  return out[0] + bias.reshape(1, 1, -1)


def _conv3_as_product(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Computes `_conv3` as one matrix product, for `vmap` over kernels.

  XLA would make a grouped convolution of that, for which it has no fast routine.
  """
  padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode='edge')
  h, w, c = x.shape
  shifted = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
  patches = jnp.concatenate(shifted, -1).reshape(h * w, 9 * c)
  out = (patches @ kernel.reshape(9 * c, c)).reshape(h, w, c)
  return out + bias.reshape(1, 1, -1)


def _rows(x: jax.Array) -> jax.Array:
  """Turns upsampled grids [G, H, W] into inputs of the synthesis, [H W, G]."""
  return x.reshape(x.shape[0], -1).T / INPUT_SCALE


def synthesize(
  net: Params, arch: Arch, grids: Sequence[jax.Array], forward: bool = False
) -> jax.Array:
  """Computes the image of latents.

  Args:
    net: arrays of the synthesis network.
    arch: architecture.
    grids: float [h, w] each, finest first, in quantization steps.
    forward: see `grids.upsample`.

  Returns:
    float [H, W, C], near [0, 1]; not clipped.
  """
  x = upsample(grids, filters(net), forward)
  y = _perceptron(net, arch, 'synthesis', _rows(x)).reshape(*x.shape[1:], -1)
  for i in range(arch.convs):
    y = y + _conv3(y, net[f'k{i}'], net[f'c{i}'])
  return y


def _map_cheap(f: Callable, *args: Any) -> Any:
  """Maps a cheap f over leading axes.

  On CPUs one after the other, so that each stays in the cache: two to three times as
  fast, measured on eight images of 256 x 256.
  """
  if jax.default_backend() == 'cpu':
    return lax.map(lambda x: f(*x), args)
  return jax.vmap(f)(*args)


def _perceptrons(nets: Params, arch: Arch, module: str, x: jax.Array) -> jax.Array:
  """Applies `_perceptron` to nets and x [P, N, C_in]; in blocks on CPUs."""

  def apply(net, x):
    run = lambda rows: _perceptron(net, arch, module, rows)
    return kan.in_blocks(run, x, 2048) if jax.default_backend() == 'cpu' else run(x)

  return jax.vmap(apply)(nets, x)


def is_fused(arch: Arch, module: str) -> bool:
  """Returns whether a module runs in `layers.fused_mlp`'s kernels.

  Modules of dense layers with ReLU do, on GPUs.
  """
  dense = archs.splines(arch, module, 0) is None and arch.activation == 'relu'
  return dense and fused_mlp.available()


def _fused_perceptrons(nets: Params, arch: Arch, module: str, x: jax.Array):
  """Applies `_perceptrons` to x [P, C_in, N] by a kernel: [P, C_out, N]."""
  samples = x.shape[2]
  width, padded = fused_mlp.padded_shape(*x.shape[1:])
  x = jnp.pad(x, ((0, 0), (0, width - x.shape[1]), (0, padded - samples)))
  layers = [(nets[f'w{i}'], nets[f'b{i}']) for i in range(archs.layers(arch, module))]
  interpret = jax.default_backend() == 'cpu'
  out = fused_mlp.apply(x, layers, nets.get('linear'), interpret=interpret)
  return out[:, :, :samples]


def _synthesize_planes(nets: Params, arch: Arch, grids: Sequence[jax.Array]):
  """Computes `synthesize_many` on GPUs."""
  interpret = jax.default_backend() == 'cpu'
  count, height, width = grids[0].shape
  taps = jax.vmap(filters)(nets)
  x = jax.vmap(lambda taps, *g: upsample(g, taps))(taps, *grids) / INPUT_SCALE
  y = _fused_perceptrons(nets, arch, 'synthesis', x.reshape(*x.shape[:2], -1))
  y = y.reshape(count, -1, height, width)
  for i in range(arch.convs):
    y = y + fused_conv.conv3(y, nets[f'k{i}'], nets[f'c{i}'], interpret)
  return jnp.moveaxis(y, 1, -1)


def synthesize_many(nets: Params, arch: Arch, grids: Sequence[jax.Array]) -> jax.Array:
  """Computes `synthesize` for arrays that all lead with P.

  On CPUs the convolutions of the images stand one after the other: XLA has a fast
  routine for one kernel only.
  """
  if is_fused(arch, 'synthesis'):
    return _synthesize_planes(nets, arch, grids)
  taps = jax.vmap(filters)(nets)
  x = _map_cheap(lambda taps, *g: _rows(upsample(g, taps)), taps, *grids)
  y = _perceptrons(nets, arch, 'synthesis', x)
  y = y.reshape(*grids[0].shape, -1)
  for i in range(arch.convs):
    kernels, biases = nets[f'k{i}'], nets[f'c{i}']
    if jax.default_backend() == 'cpu':
      y = y + jnp.stack([_conv3(*args) for args in zip(y, kernels, biases)])
    else:
      y = y + jax.vmap(_conv3_as_product)(y, kernels, biases)
  return y


def _distribution(out: jax.Array) -> tuple[jax.Array, jax.Array]:
  lowest, highest = laplace.MIN_LOG2_SCALE, laplace.MAX_LOG2_SCALE
  return out[..., 0], jnp.clip(out[..., 1] + LOG2_SCALE_OFFSET, lowest, highest)


def predict(net: Params, arch: Arch, grids: Sequence[jax.Array]):
  """Predicts mean and log2(scale) of latents, float [N] each, finest grid first."""
  return predict_from(net, arch, contexts(arch, grids))


def predict_from(net: Params, arch: Arch, around: jax.Array):
  """Predicts mean and log2(scale), float [N] each, from contexts [N, inputs]."""
  return _distribution(_perceptron(net, arch, 'entropy', around))


def predict_many(nets: Params, arch: Arch, grids: Sequence[jax.Array]):
  """Computes `predict` for arrays that all lead with P: float [P, N] each."""
  if is_fused(arch, 'entropy'):
    planes = jax.vmap(lambda *g: contexts(arch, g, axis=0))(*grids)
    out = _fused_perceptrons(nets, arch, 'entropy', planes)
    return _distribution(jnp.moveaxis(out, 1, -1))
  around = _map_cheap(lambda *g: contexts(arch, g), *grids)
  return _distribution(_perceptrons(nets, arch, 'entropy', around))


def laplace_bits(value: jax.Array, mean: jax.Array, log2_scale: jax.Array) -> jax.Array:
  """Computes -log2 of the Laplace mass of [value - 1/2, value + 1/2], float [N].

  Two forms, so that neither a far tail (whose difference of exponentials would be 0)
  nor the middle loses digits.
  """
  inverse = jnp.exp2(-log2_scale)
  distance = jnp.abs(value - mean)
  outside = jnp.maximum(distance - 0.5, 0.0) * inverse
  tail = outside * math.log2(math.e) + 1 - jnp.log2(-jnp.expm1(-inverse))
  inside = jnp.minimum(distance, 0.5)
  left, right = jnp.exp((inside - 0.5) * inverse), jnp.exp(-(inside + 0.5) * inverse)
  middle = -jnp.log2(jnp.maximum(1 - 0.5 * (left + right), 1e-6))
  return jnp.where(distance > 0.5, tail, middle)


def rate(net: Params, arch: Arch, grids: Sequence[jax.Array]) -> jax.Array:
  """Computes the bits of all latents, a scalar."""
  values = jnp.concatenate([g.reshape(-1) for g in grids])
  return laplace_bits(values, *predict(net, arch, grids)).sum()

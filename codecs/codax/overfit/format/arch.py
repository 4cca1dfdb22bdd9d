"""The architecture of an overfitted codec, for encoder, decoder and cost counter.

An image is a pyramid of integer latent grids, an upsampling, a synthesis network
that turns the upsampled grids into pixels, and an entropy network that predicts each
latent from its causal neighbors (COOL-CHIC, Ladune et al. 2023; C3, Kim et al. 2023).
Nothing here needs JAX or NumPy.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from codax.entropy import wavefront
from codax.errors import CodaxError, unknown
from codax.layers import kan_spec
from codax.layers.kan_spec import Spec

ACTIVATIONS = ('relu', 'gelu', 'pwl')  # numbers in a file: append only
BASES = ('linear', 'relu', 'none')  # of splines, likewise
UPSAMPLINGS = ('linear', 'learned')  # likewise
MODULES = ('synthesis', 'entropy')
MAX_GRIDS = 8
MAX_WIDTH = 64
MAX_LAYERS = 3
MAX_CONVS = 4
MAX_KNOTS = 64

PWL_KNOTS, PWL_END = 10, 3

# The causal half of a 7 x 7 window, nearest first. All but the last two look at most
# one column to the right in the row above, so that waves have slope 2.
WINDOW = (
  (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1),
  (-2, -2), (-2, 2), (0, -3), (-3, 0), (-1, -3), (-3, -1), (-3, 1), (-2, -3), (-2, 3),
  (-3, -2), (-3, 2), (-3, -3), (-3, 3), (-1, 2), (-1, 3),
)  # fmt: skip

# Latents of coarser grids, which are coded first: (levels up, dy, dx) from the cell
# that the latent lies in, (y >> up, x >> up).
PARENT_OFFSETS = (
  (1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (3, 0, 0), (1, -1, 0), (1, 0, -1),
  (1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1), (2, 1, 0), (2, 0, 1), (4, 0, 0),
)  # fmt: skip

# Weights of the samples 1/4, 3/4, 5/4 and 7/4 cells away: the initial filter of a
# learned upsampling.
TAPS = (0.75, 0.25, 0.0, 0.0)


class Arch(NamedTuple):
  """An architecture. Hashable, so fit for a static argument of `jax.jit`.

  Attributes:
    grids: number of latent grids, 1 to 8, of 1/1, 1/2, 1/4 ... of the image's sides,
      rounded up. A small image has fewer, see `grid_shapes`.
    context: number of causal neighbors that the entropy network sees, 1 to 24, the
      first of `WINDOW`.
    entropy: widths of the hidden layers of the entropy network.
    synthesis: widths of the hidden 1 x 1 layers of the synthesis network.
    convs: number of residual 3 x 3 convolutions after them, 0 to 4.
    activation: 'relu'; 'gelu'; or 'pwl', a piecewise linear function with `PWL_KNOTS`
      knots on [-3, 3], constant outside, that is learned and shared by the units of a
      layer (for comparison with Kolmogorov-Arnold layers).
    linear_skip: whether a linear map from input to output is added to each network.
    synthesis_kan, entropy_kan: splines of a network of Kolmogorov-Arnold layers; None
      for dense layers with activations. `base` is that of the layers after the first,
      whose inputs are no activations (its base is linear, or none).
    inter_grid_context: number of latents of coarser grids that the entropy network
      sees beside its neighbors, 0 to 14, the first of `PARENT_OFFSETS`.
    upsampling: 'linear'; or 'learned', a symmetric filter for each doubling.
  """

  grids: int = 7
  context: int = 14
  entropy: tuple[int, ...] = (16, 16)
  synthesis: tuple[int, ...] = (24,)
  convs: int = 2
  activation: str = 'relu'
  linear_skip: bool = True
  synthesis_kan: Spec | None = None
  entropy_kan: Spec | None = None
  inter_grid_context: int = 0
  upsampling: str = 'linear'

  @property
  def inputs(self) -> int:
    """Number of inputs of the entropy network."""
    return self.context + self.inter_grid_context

  @property
  def offsets(self) -> tuple[tuple[int, int], ...]:
    """(dy, dx) of the neighbors."""
    return WINDOW[: self.context]

  @property
  def parent_offsets(self) -> tuple[tuple[int, int, int], ...]:
    """(levels up, dy, dx) of the latents that are seen of coarser grids."""
    return PARENT_OFFSETS[: self.inter_grid_context]

  @property
  def slope(self) -> int:
    """Slope of the waves in which a grid is decoded."""
    return wavefront.slope(self.offsets)


# Architecture by a file's profile; a file of profile 0 spells it out. Append only.
PROFILES = {
  1: Arch(),
  2: Arch(context=10, inter_grid_context=4),
  3: Arch(context=10, inter_grid_context=4, upsampling='learned', synthesis=(48,)),
}


def profile(arch: Arch) -> int:
  """Returns the number of an architecture in `PROFILES`, 0 for one that has none."""
  return next((n for n, known in PROFILES.items() if known == arch), 0)


# C3's setting for Kodak (Kim et al. 2023, appendix), whose published cost is a test.
C3 = Arch(7, 24, (18, 18), (18, 18), 2, 'gelu', False)


def splines(arch: Arch, module: str, layer: int) -> Spec | None:
  """Returns the splines of a layer; None for a dense one."""
  spec = getattr(arch, f'{module}_kan')
  if spec is None or layer or spec.base == 'none':
    return spec
  return spec._replace(base='linear')


class Tensor(NamedTuple):
  """One array of a network.

  Attributes:
    module: 'synthesis' or 'entropy'.
    name: weights 'w0' ... and biases 'b0' ... of layers, 's0' ... (coefficients of
      splines), 'p0' ... (values of a layer's activation at its knots), 'linear' (the
      skip), 'k0', 'c0' ... (kernel and bias of a convolution), 'u0' ... (a doubling's
      filter less `TAPS`, the last doubling first).
    shape: shape of the array.
    bias: whether the array has the quantization step of biases.
  """

  module: str
  name: str
  shape: tuple[int, ...]
  bias: bool


def check(arch: Arch) -> Arch:
  """Checks an architecture, and turns its lists into tuples.

  Raises:
    CodaxError: a number is out of range.
  """

  def between(name, value, low, high):
    if (
      isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
    ):
      raise CodaxError(f'{name} is {value!r}; valid: {low} to {high}')
    return value

  between('grids', arch.grids, 1, MAX_GRIDS)
  between('context', arch.context, 1, len(WINDOW))
  between('convs', arch.convs, 0, MAX_CONVS)
  between('inter_grid_context', arch.inter_grid_context, 0, len(PARENT_OFFSETS))
  widths = {}
  for name in ('entropy', 'synthesis'):
    value = tuple(getattr(arch, name))
    between(f'number of {name} layers', len(value), 0, MAX_LAYERS)
    widths[name] = tuple(between(f'{name} width', w, 1, MAX_WIDTH) for w in value)
  if arch.activation not in ACTIVATIONS:
    raise unknown('activation', arch.activation, ACTIVATIONS)
  if arch.upsampling not in UPSAMPLINGS:
    raise unknown('upsampling', arch.upsampling, UPSAMPLINGS)
  for name in ('synthesis_kan', 'entropy_kan'):
    spec = getattr(arch, name)
    if spec is not None:
      widths[name] = _check_splines(name, Spec(*spec))
  return arch._replace(linear_skip=bool(arch.linear_skip), **widths)


def _check_splines(name: str, spec: Spec) -> Spec:
  """Checks splines against files and integer layers."""
  kan_spec.check(spec)
  if spec.grid > MAX_KNOTS or spec.base not in BASES:
    raise CodaxError(
      f'{name} has grid {spec.grid} and base {spec.base!r}; valid: grids to '
      f'{MAX_KNOTS}, bases linear, relu and none'
    )
  if math.log2(spec.spacing) % 1 or not 2**-4 <= spec.spacing <= 2**4:
    raise CodaxError(f'{name} has spacing {spec.spacing}; valid: a power of 2')
  for end in (spec.low, spec.high):
    if not (abs(end) < 32 and end * 4 % 1 == 0 and end / spec.spacing % 1 == 0):
      raise CodaxError(
        f'{name} has an end at {end}; valid: multiples of 1/4 and of the spacing '
        f'{spec.spacing} within 32'
      )
  if not spec.low <= 0 <= spec.high:
    raise CodaxError(f'{name} must have 0 within its grid')
  if name == 'entropy_kan' and (spec.spacing < 1 or spec.low % 1):
    # Its first layer sees latents, which are whole numbers.
    raise CodaxError(
      f'{name} has an end at {spec.low} and spacing {spec.spacing}; valid: whole '
      'numbers'
    )
  return spec._replace(low=float(spec.low), high=float(spec.high))


def grid_shapes(arch: Arch, height: int, width: int) -> tuple[tuple[int, int], ...]:
  """Computes (rows, columns) of each grid, finest first.

  A grid of a single latent is the last: more would only repeat it.
  """
  shapes = [(height, width)]
  while len(shapes) < arch.grids and shapes[-1] != (1, 1):
    h, w = shapes[-1]
    shapes.append((-(-h // 2), -(-w // 2)))
  return tuple(shapes)


def tensors(arch: Arch, grids: int, channels: int) -> tuple[Tensor, ...]:
  """Lists every array of the networks, in the order in which a file has them.

  Args:
    arch: architecture.
    grids: number of grids of this image.
    channels: number of channels of the image, 1 or 3.
  """
  out = []

  def perceptron(module, widths):
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
      spec = splines(arch, module, i)
      if spec is not None:
        out.append(Tensor(module, f's{i}', (spec.size, a, b), False))
      if spec is None or spec.base != 'none':
        out.append(Tensor(module, f'w{i}', (a, b), False))
      out.append(Tensor(module, f'b{i}', (b,), True))
      if spec is None and arch.activation == 'pwl' and i + 2 < len(widths):
        out.append(Tensor(module, f'p{i}', (PWL_KNOTS,), True))
    if arch.linear_skip and len(widths) > 2:
      out.append(Tensor(module, 'linear', (widths[0], widths[-1]), False))

  perceptron('synthesis', (grids, *arch.synthesis, channels))
  for i in range(arch.convs):
    out.append(Tensor('synthesis', f'k{i}', (3, 3, channels, channels), False))
    out.append(Tensor('synthesis', f'c{i}', (channels,), True))
  for i in range(grids - 1 if arch.upsampling == 'learned' else 0):
    out.append(Tensor('synthesis', f'u{i}', (len(TAPS),), True))
  perceptron('entropy', (arch.inputs, *arch.entropy, 2))
  return tuple(out)


def layers(arch: Arch, module: str) -> int:
  """Counts the dense layers of a module's perceptron."""
  return 1 + len(getattr(arch, module))


def upsampling_products(shapes: Sequence[tuple[int, int]]) -> int:
  """Counts the multiplications of a learned upsampling.

  Args:
    shapes: (rows, columns) of the grids, finest first.
  """
  steps = enumerate(zip(shapes, shapes[1:]))
  doubled = lambda h, w, narrow: len(TAPS) * h * (narrow + w)
  return sum(
    (len(shapes) - 1 - i) * doubled(h, w, narrow) for i, ((h, w), (_, narrow)) in steps
  )


class Macs(NamedTuple):
  """Multiply-accumulates a pixel, as C3 and Cool-Chic count them."""

  upsampling: float
  entropy: float
  synthesis: float

  @property
  def total(self) -> float:
    return sum(self)


def mac_counts(
  arch: Arch, grids: int, channels: int, dense: bool = False
) -> dict[str, int]:
  """Counts the multiplications by weights for one sample, a pixel or a latent.

  An activation counts nothing. KAN layers count as in `kan_spec.cost`: only the basis
  functions that are not zero, or all with `dense`.

  Returns:
    Number of multiplications by module.
  """
  found = dict.fromkeys(MODULES, 0)
  for t in tensors(arch, grids, channels):
    spec = splines(arch, t.module, int(t.name[1:])) if t.name[0] in 'sw' else None
    if spec is not None:
      if t.name[0] == 's':
        found[t.module] += kan_spec.cost(spec, *t.shape[1:])[dense]
    elif not t.bias:
      found[t.module] += math.prod(t.shape)
  return found


def macs(
  arch: Arch, height: int, width: int, channels: int = 3, dense: bool = False
) -> Macs:
  """Computes the decoder's cost for an image, by the published convention.

  Multiplications by the networks' weights, see `mac_counts`, and 8 a pixel for the
  bilinear upsampling of each grid but the first. A learned upsampling counts as it
  runs: along columns, then along rows. (`codax.metrics.complexity` counts the
  operations of a traced program.)
  """
  shapes = grid_shapes(arch, height, width)
  found = mac_counts(arch, len(shapes), channels, dense)
  latents = sum(h * w for h, w in shapes)
  upsampling = 8.0 * (len(shapes) - 1)
  if arch.upsampling == 'learned':
    upsampling = upsampling_products(shapes) / (height * width)
  return Macs(
    upsampling,
    found['entropy'] * latents / (height * width),
    found['synthesis'],
  )

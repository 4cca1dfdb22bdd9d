"""The shape of an overfitted codec: what encoder, decoder and cost counter agree on.

One picture is a pyramid of integer latent grids, an upsampling, a synthesis network
that turns the upsampled grids into pixels, and an entropy network that predicts each
latent from its causal neighbours (COOL-CHIC, Ladune et al. 2023; C3, Kim et al. 2023).
Nothing here needs JAX or NumPy.
"""

from typing import NamedTuple

from codax.entropy import wavefront
from codax.errors import CodaxError, unknown

ACTIVATIONS = ('relu', 'gelu', 'pwl')
MODULES = ('synthesis', 'entropy')
MAX_GRIDS = 8
MAX_WIDTH = 64
MAX_LAYERS = 3
MAX_CONVS = 4

PWL_KNOTS, PWL_END = 10, 3

# The causal half of a 7 x 7 window, nearest first. All but the last two look at most
# one column to the right in the row above, so that waves have slope 2.
WINDOW = (
  (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1),
  (-2, -2), (-2, 2), (0, -3), (-3, 0), (-1, -3), (-3, -1), (-3, 1), (-2, -3), (-2, 3),
  (-3, -2), (-3, 2), (-3, -3), (-3, 3), (-1, 2), (-1, 3),
)  # fmt: skip


class Arch(NamedTuple):
  """The shape of the networks. Hashable, so fit for a static argument of `jax.jit`.

  Attributes:
    grids: latent grids, of 1/1, 1/2, 1/4 ... of the picture's sides, rounded up. A
      small picture has fewer, see `grid_shapes`.
    context: neighbours that the entropy network sees, the first of `WINDOW`.
    entropy: widths of the hidden layers of the entropy network.
    synthesis: widths of the hidden 1 x 1 layers of the synthesis network.
    convs: residual 3 x 3 convolutions after them.
    activation: 'relu'; 'gelu'; or 'pwl', a piecewise linear function with `PWL_KNOTS`
      knots on [-3, 3], constant outside, that is learnt and shared by the units of a
      layer (what the sheet that this family starts from calls KAN; for comparison).
    linear: whether a linear map from input to output stands beside both networks.
  """

  grids: int = 7
  context: int = 14
  entropy: tuple[int, ...] = (16, 16)
  synthesis: tuple[int, ...] = (24,)
  convs: int = 2
  activation: str = 'relu'
  linear: bool = True

  @property
  def offsets(self) -> tuple[tuple[int, int], ...]:
    """(dy, dx) of the neighbours."""
    return WINDOW[: self.context]

  @property
  def slope(self) -> int:
    """Of the waves in which a grid is decoded."""
    return wavefront.slope(self.offsets)


# Number of a file's profile -> shape; profile 0 spells the shape out. Append only.
PROFILES = {1: Arch()}

# C3's setting for Kodak (Kim et al. 2023, appendix), whose published cost is a test.
C3 = Arch(7, 24, (18, 18), (18, 18), 2, 'gelu', False)


class Tensor(NamedTuple):
  """One array of a network.

  Attributes:
    module: 'synthesis' or 'entropy'.
    name: 'w0', 'b0' ... of the dense layers, 'p0' ... (values of a layer's activation at
      its knots), 'linear', 'k0', 'c0' ... (kernel and bias of a convolution).
    shape: its shape.
    bias: whether it has a bias's step.
  """

  module: str
  name: str
  shape: tuple[int, ...]
  bias: bool


def check(arch: Arch) -> Arch:
  """The shape with lists turned into tuples.

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
  widths = {}
  for name in ('entropy', 'synthesis'):
    value = tuple(getattr(arch, name))
    between(f'number of {name} layers', len(value), 0, MAX_LAYERS)
    widths[name] = tuple(between(f'{name} width', w, 1, MAX_WIDTH) for w in value)
  if arch.activation not in ACTIVATIONS:
    raise unknown('activation', arch.activation, ACTIVATIONS)
  return arch._replace(linear=bool(arch.linear), **widths)


def grid_shapes(arch: Arch, height: int, width: int) -> tuple[tuple[int, int], ...]:
  """(rows, columns) of each grid, finest first.

  A grid of a single latent is the last: more would only repeat it.
  """
  shapes = [(height, width)]
  while len(shapes) < arch.grids and shapes[-1] != (1, 1):
    h, w = shapes[-1]
    shapes.append((-(-h // 2), -(-w // 2)))
  return tuple(shapes)


def tensors(arch: Arch, grids: int, channels: int) -> tuple[Tensor, ...]:
  """Every array of the networks, in the order in which a file has them.

  Args:
    arch: the shape.
    grids: number of grids of this picture.
    channels: of the picture, 1 or 3.
  """
  out = []

  def perceptron(module, widths):
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
      out.append(Tensor(module, f'w{i}', (a, b), False))
      out.append(Tensor(module, f'b{i}', (b,), True))
      if arch.activation == 'pwl' and i + 2 < len(widths):
        out.append(Tensor(module, f'p{i}', (PWL_KNOTS,), True))
    if arch.linear and len(widths) > 2:
      out.append(Tensor(module, 'linear', (widths[0], widths[-1]), False))

  perceptron('synthesis', (grids, *arch.synthesis, channels))
  for i in range(arch.convs):
    out.append(Tensor('synthesis', f'k{i}', (3, 3, channels, channels), False))
    out.append(Tensor('synthesis', f'c{i}', (channels,), True))
  perceptron('entropy', (arch.context, *arch.entropy, 2))
  return tuple(out)


def layers(arch: Arch, module: str) -> int:
  """Number of dense layers of a module's perceptron."""
  return 1 + len(getattr(arch, module))


class Macs(NamedTuple):
  """Multiply-accumulates a pixel, as C3 and Cool-Chic count them."""

  upsampling: float
  entropy: float
  synthesis: float

  @property
  def total(self) -> float:
    return sum(self)


def macs(arch: Arch, height: int, width: int, channels: int = 3) -> Macs:
  """The decoder's cost for a picture, by the published convention.

  Multiplications of the networks' weights; 8 a pixel for the bilinear upsampling of
  each grid but the first. An activation counts nothing (a ReLU costs nothing; what
  others cost is in `codax.metrics.complexity`, which counts the traced program).
  """
  shapes = grid_shapes(arch, height, width)
  pixels = height * width
  latents = sum(h * w for h, w in shapes)
  weights = {module: 0 for module in MODULES}
  for t in tensors(arch, len(shapes), channels):
    if not t.bias:
      size = 1
      for n in t.shape:
        size *= n
      weights[t.module] += size
  return Macs(
    8.0 * (len(shapes) - 1), weights['entropy'] * latents / pixels, weights['synthesis']
  )

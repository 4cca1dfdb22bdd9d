"""Sizes of a causal context model, shared by its float and its integer side."""

from typing import NamedTuple

from codax.entropy import wavefront
from codax.errors import CodaxError

# Left, above and their diagonals, and second neighbours; nothing further right than one
# column, so that the wavefront slope is 2 and waves stay long.
DEFAULT_OFFSETS = (
  (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, 1),
)  # fmt: skip

# Hidden activations are clipped to [0, ACTIVATION_MAX], in float and in fixed point, so
# that the bound of every sum of the integer network is known from its weights alone.
ACTIVATION_MAX = 256.0


class ContextConfig(NamedTuple):
  """Sizes of a context model; hashable, so fit for a static argument of `jax.jit`.

  Attributes:
    codes: number of values of a code, K >= 1.
    groups: number of codes at a position, G. Group g also sees groups < g there.
    offsets: position (dy, dx) of each causal neighbour.
    hidden: width of the first hidden layer.
    layers: widths of further hidden layers.
    embed: width of the embedding of a neighbour's code.
  """

  codes: int
  groups: int = 1
  offsets: tuple[tuple[int, int], ...] = DEFAULT_OFFSETS
  hidden: int = 64
  layers: tuple[int, ...] = ()
  embed: int = 16


MAX_CODES = 2**16
MAX_GROUPS = 64
MAX_OFFSETS = 64
MAX_REACH = 16
MAX_WIDTH = 4096
MAX_LAYERS = 4


def check_config(config: ContextConfig) -> ContextConfig:
  """Returns the config after checks, lists turned into tuples (JSON has none).

  Raises:
    CodaxError: a size is out of range or an offset is not causal.
  """

  def between(name, value, low, high):
    is_valid = isinstance(value, int) and not isinstance(value, bool)
    if not (is_valid and low <= value <= high):
      raise CodaxError(f'context {name} is {value!r}; valid: {low} to {high}')
    return value

  offsets = wavefront.check_causal(config.offsets)
  between('number of offsets', len(offsets), 1, MAX_OFFSETS)
  for dy, dx in offsets:
    between('offset dy', dy, -MAX_REACH, 0)
    between('offset dx', dx, -MAX_REACH, MAX_REACH)
  between('number of extra layers', len(config.layers), 0, MAX_LAYERS)
  return ContextConfig(
    codes=between('codes', config.codes, 1, MAX_CODES),
    groups=between('groups', config.groups, 1, MAX_GROUPS),
    offsets=offsets,
    hidden=between('hidden', config.hidden, 1, MAX_WIDTH),
    layers=tuple(between('layers', n, 1, MAX_WIDTH) for n in config.layers),
    embed=between('embed', config.embed, 1, MAX_WIDTH),
  )


def margins(offsets) -> tuple[int, int, int]:
  """Returns the rows above, columns left and right of a map that `offsets` reach."""
  top = max(-dy for dy, _ in offsets)
  left = max([0] + [-dx for _, dx in offsets])
  right = max([0] + [dx for _, dx in offsets])
  return top, left, right

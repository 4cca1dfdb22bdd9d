"""What a KAN layer is, without JAX: shared by training (`kan`) and by the files."""

import math
from typing import NamedTuple

from codax.errors import CodaxError, unknown

DEGREES = 1, 3
BASES = 'linear', 'relu', 'silu', 'none'


class Spec(NamedTuple):
  """The uniform grid and the base branch of a layer's edge functions. Hashable.

  Layers that are to be coded (`codax.entropy.int_kan`) need a spacing
  ``h = (high - low) / grid`` that is a power of two (2, 1, 1/2, ...), `low` and h
  multiples of the inputs' integer step, and a base other than silu; with relu, 0 must
  lie within the grid. For integer inputs, tables over {-R ... R} that go on as straight
  lines are ``Spec(2 * R, 1, -R, R, base)``: degree 1 with h = 1.

  Attributes:
    grid: intervals G between `low` and `high`.
    degree: k, 1 (hat functions) or 3 (cubic).
    low, high: ends of the grid. Outside it an edge function is its tangent there.
    base: activation of the base branch: 'linear' (the input itself), 'relu', 'silu',
      or 'none' for a layer that has no such branch.
  """

  grid: int = 5
  degree: int = 3
  low: float = -2.0
  high: float = 2.0
  base: str = 'silu'

  @property
  def size(self) -> int:
    """Spline coefficients of an edge, G + k."""
    return self.grid + self.degree

  @property
  def spacing(self) -> float:
    """Distance h between two knots."""
    return (self.high - self.low) / self.grid


def check(spec: Spec) -> Spec:
  """`spec` itself.

  Raises:
    CodaxError: a field has no meaning.
  """
  if spec.base not in BASES:
    raise unknown('base', spec.base, BASES)
  if spec.degree not in DEGREES:
    raise CodaxError(f'KAN: degree {spec.degree!r} is not one of {DEGREES}')
  if not (isinstance(spec.grid, int) and 1 <= spec.grid <= 2**16):
    raise CodaxError(f'KAN: a grid of {spec.grid!r} intervals (valid: 1 to 65536)')
  # Written so that NaN fails too.
  if not (math.isfinite(spec.high - spec.low) and spec.low < spec.high):
    raise CodaxError(f'KAN: a grid from {spec.low} to {spec.high}')
  return spec


def centres(spec: Spec) -> list[float]:
  """Where the basis functions have their middle, in spacings from `low`. [G + k]."""
  return [j - (spec.degree - 1) / 2 for j in range(spec.size)]


def cost(spec: Spec, d_in: int, d_out: int) -> tuple[int, int]:
  """MACs of a layer for each sample, by the project's formulas.

  Returns:
    (sparse, dense): with only the k + 1 basis functions that are not zero, and with
    all G + k of them. What `codax.layers.kan` runs is its `executed`: fewer.
  """
  check(spec)
  k, size, edges = spec.degree, spec.size, d_in * d_out
  sparse = edges * (k + 1) + edges + d_in * k * (k + 1)
  return sparse, edges * (size + 1) + d_in * 3 * k * size

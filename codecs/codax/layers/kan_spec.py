"""Form of a KAN layer, without JAX: shared by training (`kan`) and by the files."""

import math
from typing import NamedTuple

from codax.errors import CodaxError, unknown

DEGREES = 1, 3
BASES = 'linear', 'relu', 'silu', 'none'


class Spec(NamedTuple):
  """Uniform grid and base branch of a layer's edge functions; hashable.

  Layers for files (`codax.entropy.int_kan`) need a spacing
  ``h = (high - low) / grid`` that is a power of two (2, 1, 1/2, ...), `low` and h
  multiples of the inputs' integer step, and a base other than silu; with relu, 0 must
  lie within the grid. For integer inputs, tables over {-R ... R} that go on as straight
  lines are ``Spec(2 * R, 1, -R, R, base)``: degree 1 with h = 1.

  Attributes:
    grid: number of intervals G between `low` and `high`.
    degree: degree k, 1 (hat functions) or 3 (cubic).
    low: lower end of the grid; outside it an edge function is its tangent there.
    high: upper end of the grid.
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
    """Returns the number of spline coefficients of an edge, G + k."""
    return self.grid + self.degree

  @property
  def spacing(self) -> float:
    """Returns the distance h between two knots."""
    return (self.high - self.low) / self.grid


def check(spec: Spec) -> Spec:
  """Returns `spec` after checks.

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


def centers(spec: Spec) -> list[float]:
  """Returns the middles of the basis functions, in spacings from `low`, [G + k]."""
  return [j - (spec.degree - 1) / 2 for j in range(spec.size)]


def cost(spec: Spec, d_in: int, d_out: int) -> tuple[int, int]:
  """Counts the MACs of a layer for a sample, by the project's formulas.

  Returns:
    (sparse, dense): counts with the k + 1 basis functions that are not zero, and with
    all G + k of them. `codax.layers.kan.executed` counts the program: fewer.
  """
  check(spec)
  k, size, edges = spec.degree, spec.size, d_in * d_out
  sparse = edges * (k + 1) + edges + d_in * k * (k + 1)
  return sparse, edges * (size + 1) + d_in * 3 * k * size

"""Figures of an overfitted image's networks: the edge functions of KAN layers."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from codax.errors import CodaxError
from codax.layers import kan
from codax.layers.kan_spec import Spec
from codax.overfit.format import arch as archs
from codax.overfit.format import container, integer

_ROWS, _COLUMNS = 3, 6  # of edges in a figure
_POINTS = 201  # of a drawn edge function
_BEYOND = 0.25  # drawn to each side of the grid, as a share of it


class Edges(NamedTuple):
  """Edge functions of a KAN layer, as a file has them.

  Attributes:
    x: float64 [n], inputs, over the grid and a quarter of it to each side.
    values: float64 [n, d_in, d_out], the functions there, base branch included.
    spec: form of the layer.
  """

  x: np.ndarray
  values: np.ndarray
  spec: Spec


def evaluate_edges(data: bytes, module: str, layer: int = 0) -> Edges:
  """Evaluates the edge functions of a layer of a file's network.

  Args:
    data: a `.cdx` file of this family.
    module: 'entropy' or 'synthesis'.
    layer: index of the layer.

  Raises:
    BitstreamError: the file is unsound.
    CodaxError: the network has no KAN layers, or none of this index.
  """
  payload = container.unpack(data)
  count = archs.layers(payload.arch, module)
  spec = archs.splines(payload.arch, module, layer)
  if spec is None:
    raise CodaxError(f'the {module} network of this file has dense layers, no splines')
  if not 0 <= layer < count:
    raise CodaxError(f'layer is {layer}; valid: 0 to {count - 1}')
  margin = _BEYOND * (spec.high - spec.low)
  x = np.linspace(spec.low - margin, spec.high + margin, _POINTS)
  return Edges(x, _evaluate(payload.modules[module], layer, spec, x), spec)


def _evaluate(module: integer.Module, layer: int, spec: Spec, x: np.ndarray) -> Any:
  """Returns the values [n, d_in, d_out] of the edge functions of a layer."""
  scaled = {
    kind: module.weights[name] * 2.0**-module.weight_frac
    for kind, name in {'spline': f's{layer}', 'base': f'w{layer}'}.items()
    if name in module.weights
  }
  columns = np.stack(list(kan.basis(x, spec, np)), 1)
  values = np.tensordot(columns, scaled['spline'], 1)
  if 'base' in scaled:
    base = np.maximum(x, 0) if spec.base == 'relu' else x
    values = values + base[:, None, None] * scaled['base'][None]
  return values


def draw_edges(data: bytes, module: str, layer: int = 0) -> Figure:
  """Draws the edge functions that vary most over their grid.

  Args:
    data, module, layer: see `evaluate_edges`.
  """
  edges = evaluate_edges(data, module, layer)
  x, values, spec = edges
  is_inside = (spec.low <= x) & (x <= spec.high)
  spread = values[is_inside].std(0)
  order = np.argsort(-spread, axis=None)[: _ROWS * _COLUMNS]
  figure = Figure(figsize=(10, 1.7 * _ROWS), layout='constrained')
  for k, index in enumerate(order):
    i, o = np.unravel_index(index, spread.shape)
    axes = figure.add_subplot(_ROWS, _COLUMNS, k + 1)
    axes.plot(x, values[:, i, o], linewidth=1.2)
    for end in (spec.low, spec.high):
      axes.axvline(end, color='0.8', linewidth=0.8)
    axes.set_title(f'{i} to {o}', fontsize=7)
    axes.tick_params(labelsize=6)
  figure.suptitle(
    f'{module} network, layer {layer}: edges that vary most, grid between the lines'
  )
  return figure

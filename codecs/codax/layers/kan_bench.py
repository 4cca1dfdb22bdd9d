"""Times of wide KAN layers beside dense ones and peers, for ``launch/bench.py``.

Peers come from the extra `[peers]`: jaxKAN (JAX) and pykan (PyTorch). Each runs on the
same cores, in the same process, in turn with ours.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from codax.errors import unknown
from codax.layers import kan_wide, timing
from codax.layers.kan_wide import Spec

FORMS = {
  'bspline': {},
  'bspline, bfloat16': {'dtype': 'bfloat16'},
  'bspline, scan': {'form': 'scan'},
  'bspline, recursion': {'form': 'recursion'},
  'rbf': {'basis': 'rbf'},
  'chebyshev': {'basis': 'chebyshev'},
}
DENSE = ('dense, same shape', 'dense, equal parameters')
# Layers of jaxKAN: class and how it takes G + 3 basis functions.
_JAXKAN = {
  'jaxkan spline': ('SplineLayer', lambda grid: {'k': 3, 'G': grid}),
  'jaxkan chebyshev': ('ChebyshevLayer', lambda grid: {'D': grid + 2}),
  'jaxkan rbf': ('RBFLayer', lambda grid: {'D': grid + 3}),
}
PEERS = (*_JAXKAN, 'pykan')


def measure_layers(
  shape: tuple[int, int],
  grid: int,
  batch: int,
  times: int,
  only: Sequence[str] | None = None,
) -> dict[str, Any]:
  """Measures times of layers, forward, and forward and backward.

  They take turns, and the least time of each counts. The dense layer of equal
  parameters is square and has about as many weights as ours.

  Args:
    shape: number of inputs and of outputs.
    grid: number of intervals G.
    batch: number of samples.
    times: measurements of each.
    only: names to measure; None is all that are installed.

  Returns:
    JSON-able; 'layers' has a dict for each with 'layer', 'parameters', 'forward_ms' and
    'step_ms'.

  Raises:
    CodaxError: unknown name, or a peer that is not installed.
  """
  known = (*FORMS, *DENSE, *list_peers())
  for name in only or ():
    if name not in known:
      raise unknown('layer', name, known)
  rows, programs = [], {}
  for name in tqdm(only or known, unit='program', disable=None):
    parameters, kinds = _make(name, shape, grid, batch)
    rows.append({'layer': name, 'parameters': parameters})
    programs |= {(name, kind): program for kind, program in kinds.items()}
  least = timing.measure_in_turns(programs, times)
  for row in rows:
    row |= {kind: 1e3 * s for (name, kind), s in least.items() if name == row['layer']}
  return {
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'shape': f'{shape[0]} to {shape[1]}',
    'grid': grid,
    'batch': batch,
    'times': times,
    'layers': rows,
  }


def list_peers() -> list[str]:
  """Lists the peers that can be imported."""
  has = lambda package: importlib.util.find_spec(package) is not None
  peers = [*_JAXKAN] if has('jaxkan') else []
  return peers + (['pykan'] if has('kan') and has('torch') else [])


def _make(name: str, shape: tuple[int, int], grid: int, batch: int):
  """Returns the number of parameters of a layer and its programs by kind."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  (d_in, d_out), spec = shape, Spec(grid)
  if name == 'pykan':
    return _make_pykan(shape, grid, draw(batch, d_in), draw(batch, d_out))
  if name in DENSE:
    if name == DENSE[1]:
      d_in = d_out = round(math.sqrt(d_in * d_out * (spec.size + 2)))
    params, function = draw(d_in, d_out), lambda w, x: x @ w
  elif name in _JAXKAN:
    params, function = _make_jaxkan(name, shape, grid)
  else:
    spec = spec._replace(**FORMS[name])
    params, grids = kan_wide.init(jax.random.key(0), d_in, d_out, spec)
    function = lambda p, x: kan_wide.apply(p, grids, x, spec)
  args = jax.device_put((params, draw(batch, d_in), draw(batch, d_out)))
  count = sum(x.size for x in jax.tree.leaves(params))
  both = timing.make_programs(function)
  return count, {kind: (program, args) for kind, program in both.items()}


def _make_jaxkan(name: str, shape: tuple[int, int], grid: int):
  """Returns parameters and function of a layer of jaxKAN."""
  from flax import nnx
  from jaxkan import layers

  kind, options = _JAXKAN[name]
  ours = {'n_in': shape[0], 'n_out': shape[1], 'residual': nnx.silu, 'seed': 0}
  layer = getattr(layers, kind)(**ours, external_weights=True, **options(grid))
  definition, params, rest = nnx.split(layer, nnx.Param, ...)
  return params, lambda p, x: nnx.merge(definition, p, rest)(x)


def _make_pykan(shape: tuple[int, int], grid: int, x: np.ndarray, g: np.ndarray):
  """Returns the number of parameters and programs of pykan's layer, in PyTorch."""
  import kan
  import torch

  layer = kan.KANLayer(in_dim=shape[0], out_dim=shape[1], num=grid, k=3)
  x, g = torch.tensor(x, requires_grad=True), torch.tensor(g)

  def step() -> Any:
    layer.zero_grad()
    layer(x)[0].backward(g)
    return ()

  def forward() -> Any:
    with torch.no_grad():
      layer(x)
    return ()

  count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
  return count, {'forward_ms': (forward, ()), 'step_ms': (step, ())}

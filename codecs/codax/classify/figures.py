"""Figures of a trained classifier: confusions, accuracy over steps, edge functions."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from codax import files
from codax.classify.architecture import ModelConfig
from codax.training import plots, writers

FOLDER = 'figures'
_ROWS, _COLUMNS = 4, 6  # of edges in the figure of a layer
_MOST_NAMED = 30  # classes of a confusion matrix with numbers
_POINTS = 200  # of a drawn edge function


def write(
  workdir: str | Path, counts: np.ndarray, network: Any, config: ModelConfig
) -> list[Path]:
  """Draws the figures of a run into the folder ``figures`` of its work directory.

  Args:
    workdir: work directory of the run.
    counts: float [K, K], number of images of class i (row) that were taken for j.
    network: `network.Network` of NumPy arrays.
    config: architecture.

  Returns:
    The files written.
  """
  folder = Path(workdir) / FOLDER
  drawn = {'confusion.png': draw_confusion(counts)}
  rows = writers.read(Path(workdir) / writers.METRICS)
  series = {
    key: [(row['step'], row[key]) for row in rows if key in row]
    for key in ('train/accuracy', 'eval/accuracy', 'eval/top5')
  }
  series = {key: points for key, points in series.items() if points}
  if series:
    figure = Figure(figsize=(6, 4), layout='constrained')
    plots.draw_lines(figure.add_subplot(), series, 'accuracy')
    drawn['learning_curve.png'] = figure
  for name in network.grids:
    drawn[f'edges_{name}.png'] = draw_edges(
      network.params[name], network.grids[name], config, name
    )
  for name, figure in drawn.items():
    files.write_bytes(folder / name, plots.format_png(figure))
  return [folder / name for name in drawn]


def draw_confusion(counts: np.ndarray) -> Figure:
  """Draws a confusion matrix, each row in shares of its class.

  Args:
    counts: see `write`.
  """
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  size = len(counts)
  side = 0.35 * min(size, _MOST_NAMED)
  figure = Figure(figsize=(2 + side, 1.6 + side), layout='constrained')
  axes = figure.add_subplot()
  axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
  axes.set(xlabel='predicted class', ylabel='class')
  axes.set_title('% of each class', fontsize=9)
  if size > _MOST_NAMED:
    return figure
  axes.set_xticks(range(size))
  axes.set_yticks(range(size))
  for i, j in np.ndindex(shares.shape):
    if counts[i, j]:
      color = 'white' if shares[i, j] > 0.5 else 'black'
      text = f'{100 * shares[i, j]:.0f}'
      axes.text(j, i, text, ha='center', va='center', color=color, fontsize=7)
  return figure


def draw_edges(params: Any, grids: Any, config: ModelConfig, name: str) -> Figure:
  """Draws the edge functions of greatest norm, over their grids and half as far again.

  Args:
    params: parameters of a KAN layer.
    grids: its grids.
    config: architecture.
    name: name of the layer, for the title.
  """
  import jax

  from codax.layers import kan_grids

  norms = np.asarray(kan_grids.compute_edge_norms(params, grids, config.spec))
  order = np.argsort(-norms, axis=None)[: _ROWS * _COLUMNS]
  inputs, outputs = np.unravel_index(order, norms.shape)
  edges = {
    'base': params['base'][inputs, outputs][:, None],
    'scale': params['scale'][inputs, outputs][:, None],
    'spline': params['spline'][:, inputs, outputs][..., None],
  }
  grid = {key: value[inputs] for key, value in grids.items()}
  share = np.linspace(-0.25, 1.25, _POINTS)[:, None]
  x = np.float32(grid['low'] + share * (grid['high'] - grid['low']))
  values = np.asarray(jax.jit(kan_grids.evaluate_edges, static_argnums=3)(
    edges, grid, x, config.spec
  ))[..., 0]  # fmt: skip
  figure = Figure(figsize=(10, 6), layout='constrained')
  for k, (i, o) in enumerate(zip(inputs, outputs)):
    axes = figure.add_subplot(_ROWS, _COLUMNS, k + 1)
    axes.plot(x[:, k], values[:, k], linewidth=1.2)
    for end in ('low', 'high'):
      axes.axvline(grid[end][k], color='0.8', linewidth=0.8)
    axes.set_title(f'{i} to {o}', fontsize=7)
    axes.tick_params(labelsize=6)
  figure.suptitle(f'{name}: edges of greatest norm, grids between the lines')
  return figure

"""Figures of a training: overview, losses, KL, learning rates, step times."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from codax import files
from codax.training import plots

FOLDER = 'figures'
Series = Mapping[str, list[tuple[int, float]]]
# Panels of each figure: (pattern of the metrics' names, label of the axis).
_LOSS = (r'(train|eval)/loss', 'loss')
_TERMS = (r'(train|eval)/(loss_.+|mse|l1|lpips)', 'terms of the loss')
_KL = (r'(train|eval)/kl', 'KL, nats a position')
_WEIGHT = (r'train/kl_weight', 'weight of the KL')
_UNITS = (r'(train|eval)/(active_units|free_dims)', 'dimensions of the latent')
_PSNR = (r'(eval|outside)/psnr(_luma|_chroma|_mean)?', 'PSNR, dB')
_RATES = (r'train/learning_rate.*', 'learning rate')
_NORM = (r'train/(grad_norm|clipped.*)', 'gradient norm, clipped share')
_TIME = (r'timing/step_ms', 'milliseconds a step')
FIGURES = {
  'overview.png': (_LOSS, _TERMS, _PSNR, _KL, _RATES, _TIME),
  'losses.png': (_LOSS, _TERMS),
  'kl.png': (_KL, _WEIGHT, _UNITS),
  'learning_rates.png': (_RATES, _NORM),
  'step_times.png': (_TIME,),
}


def write(
  workdir: str | Path, series: Series, timing: Sequence[Mapping[str, float]]
) -> list[Path]:
  """Draws the figures into the folder ``figures`` of a work directory.

  Args:
    workdir: work directory of a run.
    series: (step, value) of the metrics by name.
    timing: lines of ``timing.jsonl``.

  Returns:
    The files written; panels and figures without metrics are left out.
  """
  speeds = [(x['step'], x['steps_per_s']) for x in timing if x.get('steps_per_s')]
  times = [(step, 1000 / speed) for step, speed in speeds]
  series = {**series, **({'timing/step_ms': times} if times else {})}
  written = []
  for name, panels in FIGURES.items():
    found = [(_select(series, pattern), label) for pattern, label in panels]
    found = [(lines, label) for lines, label in found if lines]
    if found:
      path = Path(workdir) / FOLDER / name
      files.write_bytes(path, plots.format_png(_draw(found)))
      written.append(path)
  return written


def _select(series: Series, pattern: str) -> Series:
  """Selects the series whose whole names match a pattern."""
  return {k: points for k, points in series.items() if re.fullmatch(pattern, k)}


def _draw(panels: Sequence[tuple[Series, str]]) -> Figure:
  """Draws panels, three in a row at most."""
  columns = min(len(panels), 3)
  rows = -(-len(panels) // columns)
  figure = Figure(figsize=(4.6 * columns + 0.4, 3.4 * rows), dpi=100)
  figure.subplots_adjust(
    left=0.9 / (4.6 * columns), right=0.99, top=0.97, bottom=0.55 / (3.4 * rows),
    wspace=0.3, hspace=0.25,
  )  # fmt: skip
  for i, (lines, label) in enumerate(panels):
    plots.draw_lines(figure.add_subplot(rows, columns, i + 1), lines, label)
  return figure

"""Images of a run: grids of reconstructions, and curves from ``metrics.jsonl``."""

import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from codax import files
from codax.training import writers

# File -> pattern of metrics' names (after 'train/' or 'eval/'), and the axis.
CURVES = {
  'loss.png': (r'loss|loss_.*|mse', 'loss'),
  'perplexity.png': (r'.*perplexity', 'perplexity'),
  'rate.png': (r'.*(bpp|bits).*', 'rate'),
}


def curves(workdir: Path, min_age: float = 0.0) -> list[Path]:
  """Draws loss, perplexity and rate over steps.

  Args:
    workdir: folder of the run, with ``metrics.jsonl``; gets the PNG files.
    min_age: seconds; nothing is done if the files are younger.

  Returns:
    The files written; a curve without metrics is left out.
  """
  drawn = [Path(workdir) / name for name in CURVES if (Path(workdir) / name).exists()]
  if drawn and time.time() - max(p.stat().st_mtime for p in drawn) < min_age:
    return []
  rows = writers.read(Path(workdir) / writers.METRICS)
  written = []
  for name, (pattern, label) in CURVES.items():
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
      for key, value in row.items():
        split, _, rest = key.partition('/')
        if split in ('train', 'eval') and re.fullmatch(pattern, rest):
          series.setdefault(key, []).append((row['step'], value))
    if series:
      files.write_bytes(Path(workdir) / name, _plot(series, label))
      written.append(Path(workdir) / name)
  return written


def grid(images: np.ndarray, columns: int = 1, gap: int = 2) -> np.ndarray:
  """Lays out images in rows.

  Args:
    images: uint8 [N, H, W, 3].
    columns: number of images in a row.
    gap: number of white pixels between images.

  Returns:
    uint8 [rows * (H + gap) - gap, columns * (W + gap) - gap, 3].
  """
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f'images must be uint8 [N, H, W, 3], not {images.dtype} {images.shape}'
    )
  n, h, w, _ = images.shape
  columns = min(columns, n)
  rows = -(-n // columns)
  shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, 3)
  canvas = np.full(shape, 255, np.uint8)
  for i, image in enumerate(images):
    y, x = i // columns * (h + gap), i % columns * (w + gap)
    canvas[y : y + h, x : x + w] = image
  return canvas


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes uint8 [H, W, 3] as PNG, whole or not at all."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(buffer, 'png')
  files.write_bytes(path, buffer.getvalue())


def save_mosaic(workdir: Path, step: int, mosaic: np.ndarray, keep: int) -> None:
  """Writes ``images/step_XXXXXX.png`` and removes all but the newest `keep`.

  Args:
    workdir: folder of the run.
    step: number in the file's name.
    mosaic: uint8 [H, W, 3]; see `grid`.
    keep: number of files that stay, at least 1.
  """
  folder = Path(workdir) / 'images'
  save_png(folder / f'step_{step:06d}.png', mosaic)
  mosaics = [
    (int(m[1]), p)
    for p in folder.iterdir()
    if (m := re.fullmatch(r'step_(\d+)\.png', p.name))
  ]
  for _, path in sorted(mosaics)[:-keep]:
    path.unlink()


def draw_lines(
  axes: Any, series: Mapping[str, list[tuple[int, float]]], label: str
) -> None:
  """Draws a line for each name over steps; far values make the axis logarithmic.

  Args:
    axes: matplotlib's axes.
    series: name -> (step, value) in order of the steps.
    label: name of the values.
  """
  for name, points in sorted(series.items()):
    steps, values = zip(*points)
    axes.plot(steps, values, label=name, linewidth=1.2)
  finite = [v for points in series.values() for _, v in points if np.isfinite(v)]
  if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
    axes.set_yscale('log')
  axes.set_xlabel('step')
  axes.set_ylabel(label)
  axes.grid(alpha=0.3)
  if series:
    axes.legend(fontsize=8)


def format_png(figure: Figure) -> bytes:
  """Renders a figure as PNG."""
  FigureCanvasAgg(figure)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  return buffer.getvalue()


def _plot(series: dict[str, list[tuple[int, float]]], label: str) -> bytes:
  """Returns a PNG with one line for each name."""
  figure = Figure(figsize=(7, 4), dpi=110)
  draw_lines(figure.add_axes((0.1, 0.12, 0.87, 0.84)), series, label)
  return format_png(figure)

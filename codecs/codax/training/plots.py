"""Pictures of a run: grids of reconstructions, and curves from ``metrics.jsonl``."""

import io
import re
import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from codax import files
from codax.training import writers

# File -> what a metric's name (after 'train/' or 'eval/') looks like, and the axis.
CURVES = {
  'loss.png': (r'loss|loss_.*|mse', 'loss'),
  'perplexity.png': (r'.*perplexity', 'perplexity'),
  'rate.png': (r'.*(bpp|bits).*', 'rate'),
}


def curves(workdir: Path, min_age: float = 0.0) -> list[Path]:
  """Draws loss, perplexity and rate over steps.

  Args:
    workdir: of the run; ``metrics.jsonl`` is read and the PNG files written here.
    min_age: do nothing if they were drawn less than so many seconds ago.

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


def grid(pictures: np.ndarray, columns: int = 1, gap: int = 2) -> np.ndarray:
  """Lays out pictures in rows.

  Args:
    pictures: uint8 [N, H, W, 3].
    columns: pictures in a row.
    gap: white pixels between pictures.

  Returns:
    uint8 [rows * (H + gap) - gap, columns * (W + gap) - gap, 3].
  """
  pictures = np.asarray(pictures)
  if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
    raise ValueError(
      f'pictures must be uint8 [N, H, W, 3], not {pictures.dtype} {pictures.shape}'
    )
  n, h, w, _ = pictures.shape
  columns = min(columns, n)
  rows = -(-n // columns)
  shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, 3)
  canvas = np.full(shape, 255, np.uint8)
  for i, picture in enumerate(pictures):
    y, x = i // columns * (h + gap), i % columns * (w + gap)
    canvas[y : y + h, x : x + w] = picture
  return canvas


def save_png(path: Path, image: np.ndarray) -> None:
  """Writes uint8 [H, W, 3] as PNG, whole or not at all."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(buffer, 'png')
  files.write_bytes(path, buffer.getvalue())


def save_pictures(workdir: Path, step: int, pictures: np.ndarray, keep: int) -> None:
  """Writes ``pictures/step_XXXXXX.png`` and removes all but the newest `keep`.

  Args:
    workdir: of the run.
    step: number in the file's name.
    pictures: uint8 [N, H, W, 3], one below the other.
    keep: at least 1.
  """
  folder = Path(workdir) / 'pictures'
  save_png(folder / f'step_{step:06d}.png', grid(pictures))
  found = [
    (int(m[1]), p)
    for p in folder.iterdir()
    if (m := re.fullmatch(r'step_(\d+)\.png', p.name))
  ]
  for _, path in sorted(found)[:-keep]:
    path.unlink()


def _plot(series: dict[str, list[tuple[int, float]]], label: str) -> bytes:
  """A PNG with one line for each name."""
  figure = Figure(figsize=(7, 4), dpi=110)
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.1, 0.12, 0.87, 0.84))
  for name, points in sorted(series.items()):
    steps, values = zip(*points)
    axes.plot(steps, values, label=name, linewidth=1.2)
  finite = [v for points in series.values() for _, v in points if np.isfinite(v)]
  if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
    axes.set_yscale('log')
  axes.set_xlabel('step')
  axes.set_ylabel(label)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  return buffer.getvalue()

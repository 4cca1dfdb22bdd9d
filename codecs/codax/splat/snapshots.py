"""Pictures of a fit: its image after each stage, and the outlines of its Gaussians."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codax.metrics import distortion
from codax.splat import binning, step
from codax.splat.fit_config import FitConfig
from codax.splat.fit_state import Stage
from codax.splat.format import container, integer, lookup
from codax.splat.render import Gaussians
from codax.training import plots

_MIN_WIDTH = 320  # of a panel in pixels: titles need them
_MAX_PIXELS = 1 << 24  # of an enlarged image
_COLUMNS = 4
_CORNERS = 24  # of the polygon drawn for an ellipse
# |W d| one standard deviation from the center: squares are octaves, e = 1/2 is in nats
_DEVIATION = math.sqrt(0.5 / math.log(2))


class Panel(NamedTuple):
  """One image of the mosaic.

  Attributes:
    title: text above it.
    image: uint8 [H, W, 3].
  """

  title: str
  image: np.ndarray


def make_recorder(stages: list[Stage]) -> Callable:
  """Returns a `look` for `fit.run` that appends to `stages`.

  Drawing is left for later, so that a fit takes no longer for it.
  """

  def look(name: str, step: int, gaussians: Gaussians) -> None:
    copied = jax.tree.map(np.array, jax.device_get(gaussians))
    stages.append(Stage(name, step, copied))

  return look


def draw_panels(
  image: np.ndarray, stages: Sequence[Stage], recipe: FitConfig, data: bytes, steps: int
) -> list[Panel]:
  """Draws a panel for each stage, one of the decoded file, and one of its Gaussians.

  Args:
    image: uint8 [H, W, C], the original.
    stages: snapshots from `make_recorder`.
    recipe: settings of the fit.
    data: the file.
    steps: number of steps of the whole fit, for the title.
  """
  size, capacity = image.shape[:2], None
  for stage in stages:  # the largest of all: one program renders every stage
    needed = binning.choose_capacity((stage.gaussians,), size, recipe, None)
    capacity = needed if capacity is None else max(capacity, needed)
  panels = []
  for stage in stages:
    pixels = step.render_pixels(stage.gaussians, size, recipe, capacity)
    pixels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    panels.append(_make_panel(stage.name, stage.step, image, pixels))
  payload = container.unpack(data)
  decoded = integer.render(payload)
  panels.append(_make_panel('file', steps, image, decoded))
  outlines = draw_outlines(payload, decoded, _choose_scale(size))
  return [*panels, Panel(f'{len(payload.cells)} Gaussians', outlines)]


def _make_panel(name: str, step: int, image: np.ndarray, fitted: np.ndarray) -> Panel:
  title = f'{name}, step {step}: {distortion.psnr(image, fitted):.2f} dB'
  return Panel(title, _to_rgb(fitted))


def _to_rgb(image: np.ndarray) -> np.ndarray:
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _choose_scale(size: tuple[int, int]) -> int:
  """Chooses the enlargement of an image: wide enough for titles, and not too large."""
  wanted = -(-_MIN_WIDTH // size[1])
  largest = math.isqrt(_MAX_PIXELS // (size[0] * size[1]))
  return max(1, min(wanted, largest))


def draw_outlines(
  payload: integer.Payload, image: np.ndarray, scale: int
) -> np.ndarray:
  """Draws every Gaussian's ellipse of one standard deviation, and its center.

  They are white on the darkened image.

  Args:
    payload: content of a file.
    image: uint8 [H, W, C], the decoded file.
    scale: pixels drawn for each of the image, an axis.

  Returns:
    uint8 [scale * H, scale * W, 3].
  """
  dark = np.repeat(np.repeat(_to_rgb(image) // 3, scale, 0), scale, 1)
  canvas = Image.fromarray(dark)
  draw = ImageDraw.Draw(canvas)
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  centers = integer.compute_centers(payload, white) / 64 * scale
  inverse = np.linalg.inv(white / (1 << lookup.WHITE))
  turn = 2 * math.pi * np.arange(_CORNERS) / _CORNERS
  circle = _DEVIATION * scale * np.stack([np.cos(turn), np.sin(turn)])
  edges = np.swapaxes(inverse @ circle[None], 1, 2) + centers[:, None]
  for center, edge in zip(centers, edges, strict=True):
    draw.polygon([tuple(p) for p in edge], outline=(150, 150, 150))
    x, y = center
    draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(255, 255, 255))
  return np.asarray(canvas)


def save(path: Path, panels: list[Panel]) -> None:
  """Saves the panels as one PNG, each under its title, small ones enlarged."""
  wide = max(panel.image.shape[1] for panel in panels)
  drawn = []
  for title, image in panels:
    if image.shape[1] < wide:
      times = wide // image.shape[1]
      image = np.repeat(np.repeat(image, times, 0), times, 1)
    head = Image.new('RGB', (wide, 24), 'white')
    font = ImageFont.load_default(14)
    ImageDraw.Draw(head).text((4, 3), title, fill='black', font=font)
    drawn.append(np.concatenate([np.asarray(head), image]))
  plots.save_png(path, plots.grid(np.stack(drawn), _COLUMNS, gap=4))

"""Pictures of a fit: what is there after each stage, and where the Gaussians are."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codax.metrics import distortion
from codax.splat import binning, step
from codax.splat.fit_state import Stage
from codax.splat.format import container, integer
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians
from codax.training import plots

_LEAST = 320  # pixels that a panel is wide, at least: titles need them
_DRAWN = 1 << 24  # pixels of an enlarged picture, at most
_COLUMNS = 4
_CORNERS = 24  # of what is drawn for an ellipse
# |W d| one standard deviation from the centre: squares are octaves, e = 1/2 is in nats
_DEVIATION = math.sqrt(0.5 / math.log(2))


class Panel(NamedTuple):
  """One picture of the grid: a title, and uint8 [H, W, 3]."""

  title: str
  picture: np.ndarray


def make_recorder(stages: list[Stage]) -> Callable:
  """Returns a `look` for `fit.run` that appends to `stages`. Drawing is left for later,
  so that a fit takes no longer for it."""

  def look(name: str, step: int, gaussians: Gaussians) -> None:
    copied = jax.tree.map(np.array, jax.device_get(gaussians))
    stages.append(Stage(name, step, copied))

  return look


def panels(
  image: np.ndarray, seen: Sequence[Stage], recipe: Recipe, data: bytes, steps: int
) -> list[Panel]:
  """A panel a stage, one of the decoded file, and one of its Gaussians.

  Args:
    image: uint8 [H, W, C], the original.
    seen: what `make_recorder` appended.
    recipe: of the fit.
    data: the file.
    steps: of the whole fit, for the title.
  """
  size, rooms = image.shape[:2], None
  for stage in seen:  # the largest of all: one program renders every stage
    room = binning.room_for((stage.gaussians,), size, recipe, None)
    rooms = room if rooms is None else max(rooms, room)
  out = []
  for stage in seen:
    made = np.asarray(step.pixels(stage.gaussians, size, recipe, rooms))
    made = np.round(np.clip(made, 0, 1) * 255).astype(np.uint8)
    out.append(_panel(stage.name, stage.step, image, made))
  picture = container.unpack(data)
  made = integer.render(picture)
  out.append(_panel('file', steps, image, made))
  drawn = outlines(picture, made, _scale(size))
  return [*out, Panel(f'{len(picture.cells)} Gaussians', drawn)]


def _panel(name: str, step: int, image: np.ndarray, made: np.ndarray) -> Panel:
  title = f'{name}, step {step}: {distortion.psnr(image, made):.2f} dB'
  return Panel(title, _coloured(made))


def _coloured(picture: np.ndarray) -> np.ndarray:
  return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _scale(size: tuple[int, int]) -> int:
  """How often as large pictures are drawn: so wide, if they are not very high then."""
  wanted, room = -(-_LEAST // size[1]), math.isqrt(_DRAWN // (size[0] * size[1]))
  return max(1, min(wanted, room))


def outlines(picture: integer.Picture, made: np.ndarray, scale: int) -> np.ndarray:
  """Every Gaussian's ellipse of one standard deviation, and its centre, in white on the
  darkened picture.

  Args:
    picture: what a file holds.
    made: uint8 [H, W, C], what it decodes to.
    scale: pixels drawn for each of the picture, an axis.

  Returns:
    uint8 [scale * H, scale * W, 3].
  """
  dark = np.repeat(np.repeat(_coloured(made) // 3, scale, 0), scale, 1)
  canvas = Image.fromarray(dark)
  draw = ImageDraw.Draw(canvas)
  white = integer.whiten(picture.kind, picture.steps, picture.shape)
  centres = integer.centres(picture, white) / 64 * scale
  inverse = np.linalg.inv(white / (1 << integer.WHITE))
  turn = 2 * math.pi * np.arange(_CORNERS) / _CORNERS
  circle = _DEVIATION * scale * np.stack([np.cos(turn), np.sin(turn)])
  edges = np.swapaxes(inverse @ circle[None], 1, 2) + centres[:, None]
  for centre, edge in zip(centres, edges, strict=True):
    draw.polygon([tuple(p) for p in edge], outline=(150, 150, 150))
    x, y = centre
    draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(255, 255, 255))
  return np.asarray(canvas)


def save(path: Path, found: list[Panel]) -> None:
  """Writes the panels as one PNG, each under its title, enlarged if it is small."""
  wide = max(panel.picture.shape[1] for panel in found)
  drawn = []
  for title, picture in found:
    if picture.shape[1] < wide:
      times = wide // picture.shape[1]
      picture = np.repeat(np.repeat(picture, times, 0), times, 1)
    head = Image.new('RGB', (wide, 24), 'white')
    font = ImageFont.load_default(14)
    ImageDraw.Draw(head).text((4, 3), title, fill='black', font=font)
    drawn.append(np.concatenate([np.asarray(head), picture]))
  plots.save_png(path, plots.grid(np.stack(drawn), _COLUMNS, gap=4))

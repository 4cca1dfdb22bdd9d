"""An image outside the training set, reconstructed every few steps of a training.

``config.outside_image`` names it: a file, or an embedded photograph that is not trained
on. Its reconstructions are kept in the folder ``outside`` of the work directory, and
``outside.png`` shows them over time. ``metrics.jsonl`` gets, under 'outside/', PSNR of
all colors, of luma and of chroma, the range of each color, the spread of chroma as a
share of the original's (below 1: colors are pale) and the size of the reconstruction as
WebP, which grows with the structure in it.

What is shown is the second of the images that `Task.images` draws side by side, so that
every family that draws reconstructions has this.
"""

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw

from codax import image_io
from codax.data import embedded, sources
from codax.errors import CodaxError
from codax.metrics import chroma, distortion
from codax.training import mesh as mesh_lib
from codax.training import plots, settings, writers
from codax.training.task import Task

FOLDER, GALLERY = 'outside', 'outside.png'
# Networks halve the sides of an image up to five times.
_MULTIPLE = 32
_WEBP_QUALITY = 80
_MAX_SHOWN, _COLUMNS, _TITLE = 23, 6, 14  # of the gallery; pixels of a title's line
_NAME = re.compile(r'step_(\d+)\.png')


class Outside(NamedTuple):
  """An image ready to be reconstructed.

  Attributes:
    pixels: uint8 [H, W, 3].
    batch: {'image': uint8 [1, H, W, 3]} on the devices.
    draw: compiled (state, batch) -> uint8 [1, H, W * k, 3].
    folder: folder of the reconstructions.
  """

  pixels: np.ndarray
  batch: Any
  draw: Callable[..., jax.Array]
  folder: Path


def prepare(
  config: Mapping[str, Any],
  options: settings.Settings,
  task: Task,
  pipeline: Any,
  workdir: Path,
  mesh: Any,
) -> Outside | None:
  """Reads the image that a configuration names; None if it names none.

  Raises:
    CodaxError: no such image, one that is trained on or too small, or a task that
      draws no reconstructions.
  """
  name = options.outside_image
  if not name:
    return None
  if task.images is None:
    raise CodaxError('config.outside_image: this family draws no reconstructions')
  _check_unseen(name, config.get('data') or {}, getattr(pipeline, 'source', None))
  pixels = fit(read(name), options.outside_size, name)
  batch = mesh_lib.put_replicated({'image': pixels[None]}, mesh)
  draw = jax.jit(task.images, out_shardings=mesh_lib.replicated(mesh))
  return Outside(pixels, batch, draw, Path(workdir) / FOLDER)


def read(name: str) -> np.ndarray:
  """Reads an embedded photograph, or a file, as uint8 [H, W, 3].

  Raises:
    CodaxError: there is neither; names the embedded photographs.
  """
  photographs = _list_photographs()
  if name in photographs:
    return embedded.read_photo(photographs[name])
  path = Path(name).expanduser()
  if not path.is_file():
    raise CodaxError(
      f'config.outside_image: {name} is neither a file nor an embedded photograph '
      f'({", ".join(sorted(photographs))})'
    )
  return sources.as_rgb(image_io.read(path).pixels)


def _list_photographs() -> dict[str, Path]:
  """Returns the file of every embedded photograph by its name."""
  photographs = embedded.photo_files()
  return photographs['train'] | photographs['test']


def _check_unseen(name: str, data: Mapping[str, Any], source: Any) -> None:
  """Raises `CodaxError` if an image is one of those that are trained on."""
  kind, label = data.get('name'), name
  if kind == 'folder' and name not in _list_photographs():
    root, path = (os.path.realpath(os.path.expanduser(p)) for p in (data['path'], name))
    label = Path(os.path.relpath(path, root)).as_posix()
  elif kind != 'photos':
    return
  if source is not None and label in source.names:
    raise CodaxError(
      f'config.outside_image: {name} is trained on; name an image outside the training '
      'set'
    )


def fit(image: np.ndarray, size: int, name: str) -> np.ndarray:
  """Reduces an image to a longer side of `size` and crops its middle.

  Args:
    image: uint8 [H, W, 3].
    size: greatest number of pixels a side; smaller images keep their size.
    name: name of the image, for messages.

  Returns:
    uint8 [H, W, 3] with sides that are multiples of 32.
  """
  h, w = image.shape[:2]
  if max(h, w) > size:
    scale = size / max(h, w)
    shape = max(round(w * scale), 1), max(round(h * scale), 1)
    resized = Image.fromarray(image).resize(shape, Image.Resampling.LANCZOS)
    image = np.asarray(resized)
    h, w = image.shape[:2]
  rows, columns = (n // _MULTIPLE * _MULTIPLE for n in (h, w))
  if not rows or not columns:
    raise CodaxError(
      f'config.outside_image: {name} has {w}x{h} pixels at outside_size {size}; valid: '
      f'{_MULTIPLE} a side or more'
    )
  top, left = (h - rows) // 2, (w - columns) // 2
  return np.ascontiguousarray(image[top : top + rows, left : left + columns])


def discard_after(workdir: Path, step: int) -> None:
  """Removes the reconstructions after `step`, which are made again."""
  for at, path in _list_steps(Path(workdir) / FOLDER):
    if at > step:
      path.unlink()


def _list_steps(folder: Path) -> list[tuple[int, Path]]:
  """Returns (step, file) of the reconstructions in order."""
  paths = folder.iterdir() if folder.is_dir() else ()
  return sorted((int(m[1]), p) for p in paths if (m := _NAME.fullmatch(p.name)))


def show(outside: Outside, state: Any, step: int, writer: writers.Writer) -> str:
  """Reconstructs the image; writes metrics, the reconstruction and the gallery.

  Args:
    outside: result of `prepare`.
    state: state of the training.
    step: its step.
    writer: open writers of the run.

  Returns:
    A line for the log.
  """
  width = outside.pixels.shape[1]
  drawn = jax.device_get(outside.draw(state, outside.batch))
  decoded = np.asarray(drawn[0][:, width : 2 * width])
  metrics = measure(outside.pixels, decoded)
  writers.write(writer, step, {f'outside/{k}': v for k, v in metrics.items()})
  if jax.process_index() == 0:
    plots.save_png(outside.folder / f'step_{step:06d}.png', decoded)
    gallery = draw_gallery(outside.pixels, _list_steps(outside.folder))
    plots.save_png(outside.folder.parent / GALLERY, gallery)
    writers.write_images(writer, step, {'outside/image': decoded})
  names = ('psnr', 'psnr_luma', 'psnr_chroma', 'chroma_ratio', 'webp_bytes')
  shown = '  '.join(f'{name} {metrics[name]:.4g}' for name in names)
  return f'outside image at {step}  {shown}'


def measure(image: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
  """Measures a reconstruction beside its original.

  Args:
    image: uint8 [H, W, 3].
    decoded: uint8 [H, W, 3].

  Returns:
    'psnr', 'psnr_luma', 'psnr_chroma' in dB; 'color_min/red' and so on, see
    `chroma.color_ranges`; 'chroma_ratio', spread of chroma as a share of the
    original's; 'webp_bytes' and 'webp_ratio', size as WebP and its share of the
    original's.
  """
  luma, color = chroma.luma_chroma_psnr(decoded, image)
  spread = max(float(chroma.chroma_spread(image)), 1e-3)
  size, original = (count_webp_bytes(x) for x in (decoded, image))
  metrics = {
    'psnr': min(distortion.psnr(image, decoded), float(chroma.MAX_PSNR)),
    'psnr_luma': luma,
    'psnr_chroma': color,
    'chroma_ratio': chroma.chroma_spread(decoded) / spread,
    'webp_bytes': size,
    'webp_ratio': size / original,
    **chroma.color_ranges(decoded),
  }
  return {name: float(value) for name, value in metrics.items()}


def count_webp_bytes(image: np.ndarray) -> int:
  """Counts the bytes of an image as WebP of quality 80."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'webp', quality=_WEBP_QUALITY, method=4)
  return buffer.tell()


def draw_gallery(image: np.ndarray, steps: Sequence[tuple[int, Path]]) -> np.ndarray:
  """Draws the original and reconstructions over time, 23 at most, evenly spaced.

  Args:
    image: uint8 [H, W, 3], the original.
    steps: (step, PNG file) in order.

  Returns:
    uint8 [h, w, 3], a title above each image.
  """
  if len(steps) > _MAX_SHOWN:
    places = np.linspace(0, len(steps) - 1, _MAX_SHOWN).round().astype(int)
    steps = [steps[i] for i in places]
  tiles = [_add_title(image, 'original')]
  for step, path in steps:
    with Image.open(path) as decoded:
      tiles.append(_add_title(np.asarray(decoded.convert('RGB')), f'step {step}'))
  return plots.grid(np.stack(tiles), _COLUMNS)


def _add_title(image: np.ndarray, text: str) -> np.ndarray:
  """Puts a line of text above an image."""
  strip = Image.new('RGB', (image.shape[1], _TITLE), 'white')
  ImageDraw.Draw(strip).text((2, 1), text, fill='black')
  return np.concatenate([np.asarray(strip), image])

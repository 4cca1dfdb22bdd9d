"""The table at the end of a run: real files of held-out pictures beside JPEG and WebP.

Every number comes from a file: it is written, read back, decoded, and compared with the
original as 8-bit pixels. Beside each of our files stand a JPEG (4:4:4) and a WebP of
the nearest size that their quality scales allow.
"""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codax import files, provenance
from codax.baselines import codec as baselines
from codax.codec import Codec
from codax.errors import CodaxError
from codax.metrics import distortion, rate

RESULTS = 'results.json'
TABLE = 'table.md'
BESIDE = ('jpeg', 'webp')
_COLUMNS = (
  ('picture', 'picture', '{}'),
  ('codec', 'codec', '{}'),
  ('bytes', 'bytes', '{:d}'),
  ('bpp', 'bpp', '{:.3f}'),
  ('PSNR', 'psnr', '{:.2f}'),
  ('SSIM', 'ssim', '{:.4f}'),
)


def held_out(
  codec: Codec,
  images: Iterable[tuple[str, np.ndarray]],
  out_dir: str | Path,
  progress: Callable[[str], Any] | None = None,
) -> list[dict[str, Any]]:
  """Encodes and decodes pictures, and measures the files.

  Args:
    codec: the trained codec.
    images: (name, uint8 [H, W, C]) pairs.
    out_dir: gets ``files/NAME.cdx`` and ``images/NAME.png`` (original, decoded, JPEG
      and WebP side by side).
    progress: called with each picture's name when it is done.

  Returns:
    One dict a picture and codec: picture, codec, bytes, bpp, psnr (dB), ssim; ours also
    has estimated_bits, the others quality.

  Raises:
    CodaxError: a file does not decode to the encoder's own reconstruction.
  """
  rows, out_dir = [], Path(out_dir)
  for name, image in images:
    encoded = codec.encode(image)
    path = out_dir / 'files' / (name + codec.suffix)
    if not path.is_file() or path.read_bytes() != encoded.data:
      files.write_bytes(path, encoded.data)
    data = path.read_bytes()
    decoded = codec.decode(data)
    if not np.array_equal(decoded, encoded.reconstruction):
      raise CodaxError(f'{path} does not decode to what its encoder saw')
    row = _row(name, codec.name, image, data, decoded)
    rows.append({**row, 'estimated_bits': float(encoded.estimated_bits)})
    strip = [image, decoded]
    for other in BESIDE:
      beside = baselines.nearest_size(image, other, len(data))
      row = _row(name, other, image, beside.data, beside.reconstruction)
      rows.append({**row, 'quality': beside.details.get('quality')})
      strip.append(beside.reconstruction)
    _save_strip(out_dir / 'images' / f'{name}.png', strip)
    if progress is not None:
      progress(name)
  return rows


def summary(rows: list[dict[str, Any]], metrics: dict[str, float]) -> str:
  """Formats a run: the table of its files or, without files, its metrics."""
  if rows:
    return table(rows)
  lines = [f'| {name} | {value:.4g} |' for name, value in sorted(metrics.items())]
  return '\n'.join(['| metric | value |', '|---|--:|', *lines]) + '\n'


def table(rows: list[dict[str, Any]]) -> str:
  """Rows as a Markdown table that reads well as plain text, with the means below.

  Args:
    rows: what `held_out` returned.
  """
  shown = rows + (mean_rows(rows) if len({r['picture'] for r in rows}) > 1 else [])
  cells = [[head for head, _, _ in _COLUMNS]]
  cells += [[form.format(row[key]) for _, key, form in _COLUMNS] for row in shown]
  widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]

  def text(line: list[str]) -> str:
    left = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(_zip(line))]
    return '| ' + ' | '.join(left) + ' |'

  def _zip(line: list[str]) -> Any:
    return zip(line, widths, strict=True)

  rule = ['-' * w if i < 2 else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
  return '\n'.join([text(cells[0]), text(rule), *map(text, cells[1:])]) + '\n'


def mean_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """For each codec a row of plain means over the pictures; bytes are rounded."""
  out = []
  for name in dict.fromkeys(row['codec'] for row in rows):
    mine = [row for row in rows if row['codec'] == name]
    mean = {k: float(np.mean([r[k] for r in mine])) for k in ('bpp', 'psnr', 'ssim')}
    size = round(float(np.mean([r['bytes'] for r in mine])))
    out.append({'picture': '(mean)', 'codec': name, 'bytes': size, **mean})
  return out


def save(
  workdir: str | Path,
  rows: list[dict[str, Any]],
  *,
  command: str,
  seed: int,
  metrics: dict[str, float],
  **more: Any,
) -> str:
  """Writes ``table.md`` and then ``results.json``, whose presence marks the end.

  Args:
    workdir: of the run.
    rows: what `held_out` returned.
    command: what made them.
    seed: of the run.
    metrics: the last evaluation's.
    more: to be kept beside these, JSON-able.

  Returns:
    The table.
  """
  text = summary(rows, metrics)
  content = {
    'command': command,
    'seed': seed,
    **provenance.source(),
    'metrics': metrics,
    **more,
    'rows': rows,
  }
  files.write_text(Path(workdir) / TABLE, text)
  files.write_text(Path(workdir) / RESULTS, files.json_text(content))
  return text


def load(workdir: str | Path) -> dict[str, Any] | None:
  """What `save` wrote, or None if it has not been written (or is damaged)."""
  try:
    content = json.loads((Path(workdir) / RESULTS).read_bytes())
    rows = [
      {**row, 'psnr': float(row['psnr']), 'ssim': float(row['ssim'])}
      for row in content['rows']
    ]
    return {**content, 'rows': rows}
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _row(name: str, codec: str, image: Any, data: bytes, decoded: Any) -> dict:
  height, width = image.shape[:2]
  return {
    'picture': name,
    'codec': codec,
    'bytes': len(data),
    'bpp': rate.bpp(len(data), height, width),
    'psnr': distortion.psnr(image, decoded),
    'ssim': distortion.ssim(image, decoded),
  }


def _save_strip(path: Path, pictures: list[np.ndarray]) -> None:
  """Pictures of one size side by side, as PNG."""
  colour = [np.broadcast_to(p, (*p.shape[:2], 3)) for p in pictures]
  buffer = io.BytesIO()
  Image.fromarray(np.concatenate(colour, axis=1)).save(buffer, 'png')
  files.write_bytes(path, buffer.getvalue())

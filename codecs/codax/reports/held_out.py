"""Report at the end of a run: real files of held-out images beside JPEG and WebP.

Every number comes from a file: it is written, read back, decoded, and compared with the
original as 8-bit pixels. Beside each of our files stand a JPEG (4:4:4) and a WebP of
the nearest size that their quality scales allow.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codax import files, provenance
from codax.baselines import codec as baselines
from codax.codec import Codec
from codax.errors import CodaxError
from codax.reports import measure, store, upgrade
from codax.reports.layout import Column, markdown_table
from codax.reports.measure import Row

RESULTS = 'results.json'
TABLE = 'table.md'
BASELINES = ('jpeg', 'webp')
COLUMNS = (
  Column('image', 'image'),
  Column('codec', 'codec'),
  Column('point', 'point'),
  Column('bytes', 'bytes', '.0f'),
  Column('bpp', 'bpp', '.3f'),
  Column('PSNR', 'psnr', '.2f'),
  Column('SSIM', 'ssim', '.4f'),
)


def held_out(
  codec: Codec,
  images: Iterable[tuple[str, np.ndarray]],
  out_dir: str | Path,
  progress: Callable[[str], Any] | None = None,
) -> list[Row]:
  """Encodes and decodes images, and measures the files.

  Args:
    codec: the trained codec.
    images: (name, uint8 [H, W, C]) pairs.
    out_dir: gets ``files/NAME.cdx`` and ``pictures/NAME.png`` (original, decoded, JPEG
      and WebP side by side).
    progress: called with each image's name when it is done.

  Returns:
    One row for each image and codec, ours before the baselines, whose extras have
    their 'quality'.

  Raises:
    CodaxError: a file does not decode to the encoder's own reconstruction.
  """
  rows = []
  for name, image in images:
    rows += _rows_of(codec, name, name, measure.DEFAULT, image, {}, Path(out_dir))
    if progress is not None:
      progress(name)
  return rows


def of_finished(
  family: str,
  decode: Callable[[bytes], np.ndarray],
  finished: Iterable[Any],
  out_dir: str | Path,
) -> list[Row]:
  """Measures the files of a codec that has trained on each image.

  Args:
    family: name of the codec.
    decode: its decoder.
    finished: records with 'label', 'image' (uint8 [H, W, C]), 'encoded' and 'facts':
      the further figures of a file, with the image's name under 'image' and, unless the
      label tells it, the operating point under 'point'.
    out_dir: as for `held_out`; files are named by their labels.

  Returns:
    As `held_out`.
  """
  rows = []
  for one in finished:
    facts = dict(one.facts)
    image = facts.pop('image', one.label)
    point = upgrade.point_of(one.label, image, facts)
    facts.pop('point', None)
    codec = Codec(family, lambda _, one=one: one.encoded, decode)
    args = codec, image, one.label, point, one.image, facts
    rows += _rows_of(*args, Path(out_dir))
  return rows


def _rows_of(
  codec: Codec,
  name: str,
  label: str,
  point: str,
  image: np.ndarray,
  facts: Mapping[str, Any],
  out_dir: Path,
) -> list[Row]:
  """Writes one file and measures it beside the baselines."""
  encoded = codec.encode(image)
  path = out_dir / 'files' / (label + codec.suffix)
  files.write_bytes(path, encoded.data)
  read = encoded._replace(data=path.read_bytes())
  row = measure.row_of(
    name, codec.name, point, image, read, codec.decode(read.data), extras=facts
  )
  if not row.decoded_as_encoded:
    raise CodaxError(f'{path} does not decode to what its encoder saw')
  rows, strip = [row], [image, read.reconstruction]
  for baseline in BASELINES:
    found = baselines.nearest_size(image, baseline, len(read.data))
    quality = {'quality': found.details.get('quality')}
    rows.append(
      measure.row_of(
        name, baseline, point, image, found, found.reconstruction, extras=quality
      )
    )
    strip.append(found.reconstruction)
  _save_strip(out_dir / 'pictures' / f'{label}.png', strip)
  return rows


def table(rows: Sequence[Row]) -> str:
  """Lays rows out as a Markdown table that reads well as plain text; means of several
  images come last."""
  means = []
  if len({row.image for row in rows}) > 1:
    means = [measure.mean(group) for group in measure.by_point(rows).values()]
  several = len({row.point for row in rows}) > 1
  columns = [c for c in COLUMNS if several or c.value != 'point']
  return markdown_table(columns, [*rows, *means], is_padded=True)


def save(
  workdir: str | Path,
  rows: Sequence[Row],
  *,
  command: str,
  seed: int,
  metrics: Mapping[str, float],
  **more: Any,
) -> str:
  """Writes ``table.md`` and then ``results.json``, whose presence marks the end.

  Args:
    workdir: of the run.
    rows: rows of `held_out`.
    command: command line of the run.
    seed: of the run.
    metrics: metrics of the last evaluation.
    more: further content, JSON-able.

  Returns:
    The table.
  """
  text = table(rows)
  content = {
    'command': command,
    'seed': seed,
    **provenance.source(),
    'metrics': metrics,
    **more,
    'rows': [measure.to_json(row) for row in rows],
  }
  files.write_text(Path(workdir) / TABLE, text)
  store.save(Path(workdir) / RESULTS, 'held_out', content)
  return text


def load(workdir: str | Path) -> dict[str, Any] | None:
  """Reads the results of `save`.

  Returns:
    The content, its 'rows' as `measure.Row`; None if there is none yet, or a damaged
    one.

  Raises:
    CodaxError: results of another kind or a newer schema.
  """
  try:
    content = store.load(Path(workdir) / RESULTS, 'held_out')
    rows = [measure.from_json(row) for row in content['rows']]
    return {**content, 'rows': rows}
  except (store.Damaged, OSError, ValueError, KeyError, TypeError) as e:
    if isinstance(e, CodaxError) and not isinstance(e, store.Damaged):
      raise
    return None


def _save_strip(path: Path, images: Sequence[np.ndarray]) -> None:
  """Writes images of one size side by side, as PNG."""
  in_color = [np.broadcast_to(x, (*x.shape[:2], 3)) for x in images]
  buffer = io.BytesIO()
  Image.fromarray(np.concatenate(in_color, axis=1)).save(buffer, 'png')
  files.write_bytes(path, buffer.getvalue())

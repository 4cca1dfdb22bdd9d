"""Report at the end of a run: real files of held-out images beside JPEG and WebP.

Every number comes from a file: it is written, read back, decoded, and compared with the
original as 8-bit pixels. Beside each of our files stand a JPEG (4:4:4) and a WebP of
the nearest size that their quality scales allow.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from codax import bitstream, files, provenance
from codax.baselines import codec as baselines
from codax.codec import Codec
from codax.errors import CodaxError
from codax.reports import measure, store, upgrade
from codax.reports.layout import Column, markdown_table
from codax.reports.measure import Row
from codax.training import writers

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


def measure_file(
  codec: Codec,
  label: str,
  image: np.ndarray,
  out_dir: str | Path,
  facts: Mapping[str, Any] | None = None,
) -> list[Row]:
  """Encodes an image, decodes the file and measures it beside the baselines.

  Args:
    codec: the codec; of one that has trained on the image, `encode` returns the file.
    label: name of the file; of the image too, unless `facts` name it.
    image: uint8 [H, W, C].
    out_dir: gets ``files/LABEL.cdx`` and ``images/LABEL.png`` (original, decoded,
      JPEG and WebP side by side).
    facts: further figures of the file, JSON-able, with the name of the image under
      'image' and, unless the label tells it, the operating point under 'point'.

  Returns:
    One row for each codec: ours, whose extras are the facts, before the baselines,
    whose extras have their 'quality'.

  Raises:
    CodaxError: the file does not decode to the encoder's own reconstruction.
  """
  facts, out_dir = dict(facts or {}), Path(out_dir)
  name = facts.pop('image', label)
  point = upgrade.point_of(label, name, facts)
  facts.pop('point', None)
  encoded = codec.encode(image)
  path = out_dir / 'files' / (label + codec.suffix)
  if not path.is_file() or path.read_bytes() != encoded.data:
    files.write_bytes(path, encoded.data)
  read = encoded._replace(data=path.read_bytes())
  row = measure.row_of(
    name, codec.name, point, image, read, codec.decode(read.data), extras=facts
  )
  if not row.decoded_as_encoded:
    raise CodaxError(f'{path} does not decode to what its encoder saw')
  rows, strip = [row], [image, read.reconstruction]
  for baseline in BASELINES:
    found = baselines.encode_nearest_size(image, baseline, len(read.data))
    extras = {'quality': found.details.get('quality')}
    args = name, baseline, point, image, found, found.reconstruction
    rows.append(measure.row_of(*args, extras=extras))
    strip.append(found.reconstruction)
  _save_strip(out_dir / 'images' / f'{label}.png', strip)
  return rows


def summary(rows: Sequence[Row], metrics: Mapping[str, float]) -> str:
  """Lays out a run: the table of its files or, without files, its metrics."""
  if rows:
    return table(rows)
  columns = Column('metric', lambda x: x[0]), Column('value', lambda x: x[1], '.4g')
  return markdown_table(columns, sorted(metrics.items()))


def table(rows: Sequence[Row]) -> str:
  """Lays rows, and means of several images, out as a padded Markdown table."""
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
    workdir: work directory of the run.
    rows: rows of `measure_file`.
    command: command line of the run.
    seed: seed of the run.
    metrics: metrics of the last evaluation.
    more: further content, JSON-able.

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
    'rows': [measure.to_json(row) for row in rows],
  }
  files.write_text(Path(workdir) / TABLE, text)
  store.save(Path(workdir) / RESULTS, 'held_out', content)
  return text


def load(workdir: str | Path) -> dict[str, Any] | None:
  """Reads the results of `save`.

  Returns:
    The content, its 'rows' as `measure.Row`; None if there is none yet, or a damaged
    one, which a warning says.

  Raises:
    CodaxError: results of another kind or a newer schema.
    OSError: the file cannot be read.
  """
  path = Path(workdir) / RESULTS
  try:
    content = store.load(path, 'held_out')
    rows = [measure.from_json(row) for row in content['rows']]
    held = {'metrics': dict(content['metrics']), 'rows': rows}
    return {**content, **held}
  except FileNotFoundError:
    return None
  except (store.Damaged, ValueError, KeyError, TypeError) as e:
    if isinstance(e, CodaxError) and not isinstance(e, store.Damaged):
      raise
    reason = e if isinstance(e, store.Damaged) else f'{path} is damaged ({e!r})'
    logging.warning('%s; it is made again', reason)
    return None


def load_training(workdir: str | Path) -> dict[str, Any] | None:
  """Reads how the model of a complete run was trained.

  Args:
    workdir: work directory of a run.

  Returns:
    JSON-able: command, commit, seed, versions, hardware, and 'seconds' of wall time
    over all sessions; None if it is no work directory of a complete run.
  """
  if not Path(workdir).is_dir():
    return None
  content = load(workdir)
  if content is None:
    return None
  keys = 'command', 'commit', 'seed', 'versions', 'hardware'
  sessions = {
    line['session']: line['seconds']  # the last of each counts
    for line in writers.read(Path(workdir) / writers.TIMING)
  }
  return {key: content[key] for key in keys} | {'seconds': sum(sessions.values())}


def has_file(row: Row, workdir: str | Path) -> bool:
  """Tells whether the file of a row is there and whole, else a warning names it.

  Args:
    row: row of `measure_file` whose label is the image's name.
    workdir: work directory of the run.
  """
  path = Path(workdir) / 'files' / f'{row.image}.cdx'
  try:
    data = path.read_bytes()
    bitstream.read(data, known=None)
    if len(data) == row.bytes:
      return True
    reason = f'it has {len(data)} bytes, and the results say {row.bytes}'
  except OSError as e:
    reason = e.strerror
  except CodaxError as e:
    reason = str(e)
  logging.warning('%s is damaged (%s): it is made again', path, reason)
  return False


def _save_strip(path: Path, images: Sequence[np.ndarray]) -> None:
  """Writes images of one size side by side, as PNG."""
  in_color = [np.broadcast_to(x, (*x.shape[:2], 3)) for x in images]
  buffer = io.BytesIO()
  Image.fromarray(np.concatenate(in_color, axis=1)).save(buffer, 'png')
  files.write_bytes(path, buffer.getvalue())

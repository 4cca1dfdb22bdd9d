"""What `codax info` says of a picture of Gaussians, without JAX."""

from collections.abc import Mapping

import numpy as np

from codax.entropy import range_coder
from codax.splat.format import container, integer, vector_stream
from codax.splat.format.vectors import GROUPS


def _first_layer(row: Mapping) -> str | None:
  """PSNR and share of the bytes of a file's first quality layer."""
  if not row.get('prefixes'):
    return None
  first = row['prefixes'][0]
  share = 100 * first['bytes'] / row['bytes']
  return f'{first["psnr"]:.2f} dB with {share:.0f} % of the bytes'


# Columns of this family in tables: heading, figure of a file's row, format.
COLUMNS = (
  ('Gaussians', 'gaussians', '.0f'),
  ('bits a Gaussian', lambda row: 8 * row['bytes'] / row['gaussians'], '.1f'),
  ('of them positions', lambda row: row['positions_bits'] / row['gaussians'], '.1f'),
  ('positions one by one', lambda row: row['positions_raw'] / row['gaussians'], '.1f'),
  ('PSNR before rounding', 'psnr_float', '.2f'),
  ('s a file', 'seconds', '.0f'),
  ('first layer alone', _first_layer, ''),
)
# Published codec at whose sizes this family is compared.
RIVAL = 'GaussianImage'


def describe(data: bytes) -> dict:
  """JSON-able facts about a file of this family.

  Args:
    data: the file.

  Returns:
    gaussians (their number), covariance ('cholesky' or 'rotation'), render, steps (of
    quantisation: of logarithms in octaves, of ratios or angles, of colours in levels,
    and how fine positions are), coding ('scalar' or 'vector'), codebooks (of vectors:
    entries of each stage and bytes, for shape and colour), bits_per_gaussian,
    median_deviations (pixels, across and down), layers (their number, 1 of a file that
    has none), prefixes (list of gaussians and bytes: of each layer how many payload
    bytes there are to its end; without layers how much of the payload, to the last
    whole word, has so many Gaussians' shapes and colours, coarse positions of all
    included).

  Raises:
    BitstreamError: the file is unsound.
  """
  payloads, size = container.parse(data)
  picture, marks = container.prefixes(payloads, size)
  steps, count = picture.steps, len(picture.cells)
  white = integer.whiten(picture.kind, steps, picture.shape)
  # without the margin of two pixels
  deviations = (integer.reaches(white) - 2) / np.sqrt(2 * np.log(2) * integer.OCTAVES)
  third = steps.third / (
    integer.RATIO_STEPS if picture.kind == 'cholesky' else 2**integer.ANGLE_BITS
  )
  return {
    'gaussians': count,
    'covariance': picture.kind,
    'render': picture.render,
    'steps': {
      'scale_octaves': steps.log / integer.LOG_STEPS,
      'ratio' if picture.kind == 'cholesky' else 'half_turns': third,
      'luma': steps.luma / integer.COLOUR_STEPS,
      'chroma': steps.chroma / integer.COLOUR_STEPS,
      'fine': steps.fine,
    },
    'coding': 'scalar' if picture.vectors is None else 'vector',
    'codebooks': _codebooks(picture),
    'layers': len(payloads),
    'bits_per_gaussian': 8 * sum(map(len, payloads)) / count,
    'median_deviations': [round(float(x), 2) for x in np.median(deviations, axis=0)],
    'prefixes': [{'gaussians': n, 'bytes': end} for n, end in marks],
  }


def _codebooks(picture: integer.Picture) -> dict:
  """Entries and bytes, by group."""
  pairs = zip(GROUPS, picture.vectors or (), strict=False)
  return {
    name: {
      'entries': [len(book) for book in group.books],
      'bytes': vector_stream.put_books(range_coder.Encoder(), group.books) / 8,
    }
    for name, group in pairs
  }

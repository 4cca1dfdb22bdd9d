"""Facts about files of Gaussians for `codax info`, without JAX."""

from collections.abc import Mapping

import numpy as np

from codax.entropy import range_coder
from codax.splat.format import container, integer, lookup, vector_stream
from codax.splat.format.vectors import GROUPS


def _first_layer(row: Mapping) -> str | None:
  """Returns PSNR and share of the bytes of a file's first quality layer."""
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
  """Returns JSON-able facts about a file of this family.

  Args:
    data: the file.

  Returns:
    gaussians (their number), covariance ('cholesky' or 'rotation'), render (the
    blend), steps (quantization steps: of logarithms in octaves, of ratios or angles,
    of colors in levels, and the fineness of positions), coding ('scalar' or
    'vector'), codebooks (of vectors: entries of each stage and bytes, for shape and
    colour), bits_per_gaussian, median_deviations (pixels, across and down), layers
    (their number, 1 of a file without layers), prefixes (list of gaussians and bytes:
    payload bytes to the end of each layer; without layers, payload bytes to the last
    whole word that hold so many Gaussians' shapes and colors, with the coarse
    positions of all).

  Raises:
    BitstreamError: the file is unsound.
  """
  streams, size = container.parse(data)
  payload, marks = container.prefixes(streams, size)
  count = len(payload.cells)
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  # without the margin of two pixels
  deviations = (integer.compute_reaches(white) - 2) / np.sqrt(
    2 * np.log(2) * lookup.OCTAVES
  )
  return {
    'gaussians': count,
    'covariance': payload.covariance,
    'render': payload.blend,
    'steps': _describe_steps(payload),
    'coding': 'scalar' if payload.vectors is None else 'vector',
    'codebooks': _describe_codebooks(payload),
    'layers': len(streams),
    'bits_per_gaussian': 8 * sum(map(len, streams)) / count,
    'median_deviations': [round(float(x), 2) for x in np.median(deviations, axis=0)],
    'prefixes': [{'gaussians': n, 'bytes': end} for n, end in marks],
  }


def _describe_steps(payload: integer.Payload) -> dict:
  """Returns quantization steps in octaves, ratios or half turns, and levels."""
  q_steps, is_ratio = payload.q_steps, payload.covariance == 'cholesky'
  unit = integer.RATIO_STEPS if is_ratio else 2**lookup.ANGLE_BITS
  return {
    'scale_octaves': q_steps.log / lookup.LOG_STEPS,
    'ratio' if is_ratio else 'half_turns': q_steps.third / unit,
    'luma': q_steps.luma / integer.COLOR_STEPS,
    'chroma': q_steps.chroma / integer.COLOR_STEPS,
    'fine': q_steps.fine,
  }


def _describe_codebooks(payload: integer.Payload) -> dict:
  """Returns entries and bytes, by group."""
  pairs = zip(GROUPS, payload.vectors or (), strict=False)
  return {
    name: {
      'entries': [len(book) for book in group.books],
      'bytes': vector_stream.put_books(range_coder.Encoder(), group.books) / 8,
    }
    for name, group in pairs
  }

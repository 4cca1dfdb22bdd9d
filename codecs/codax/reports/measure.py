"""One row for each file, and means of rows: the only place where files are measured.

Every number is of the file and of the 8-bit pixels that it decodes to. A mean has PSNR
by both conventions: the mean of the images' PSNR, which codec papers report, and the
PSNR of the mean squared error over all samples.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codax import rate_control
from codax.codec import Codec, Encoded
from codax.errors import CodaxError
from codax.metrics import distortion, rate

DEFAULT = 'default'  # point of a codec that has one only
_UNKNOWN = math.nan


class Row(NamedTuple):
  """Measurements of one file.

  Attributes:
    image: name of the image.
    codec: name of the codec, followed by ':' and its model if one was given.
    point: operating point, such as 'lmbda 0.01', 'bpp 0.5', 'q50' or 'default'.
    bytes: size of the file.
    bpp: bits per pixel of the file, header and all.
    psnr: dB, over all channels; infinite for equal images.
    ssim: structural similarity; NaN for images under 11 pixels on a side.
    height: pixels; None in results that do not record it.
    width: pixels; None likewise.
    channels: 1 or 3; None likewise.
    mse: mean squared error in 8-bit levels squared; NaN likewise.
    ms_ssim: multi-scale SSIM; NaN for images under 161 pixels on a side.
    encode_s: seconds of wall time; NaN where nobody measured it.
    decode_s: seconds of wall time; NaN likewise.
    estimated_bits: the rate model's estimate; NaN for a codec without one.
    decoded_as_encoded: whether decoding gives the encoder's own reconstruction.
    target_missed: a line about the target that the file misses; None if it meets it.
    psnr_above_one_color: dB above the best image of one color; NaN for images of one
      color, and where it is not recorded.
    extras: further figures of the codec, by name, JSON-able.
  """

  image: str
  codec: str
  point: str
  bytes: int
  bpp: float
  psnr: float
  ssim: float = _UNKNOWN
  height: int | None = None
  width: int | None = None
  channels: int | None = None
  mse: float = _UNKNOWN
  ms_ssim: float = _UNKNOWN
  encode_s: float = _UNKNOWN
  decode_s: float = _UNKNOWN
  estimated_bits: float = _UNKNOWN
  decoded_as_encoded: bool = True
  target_missed: str | None = None
  psnr_above_one_color: float = _UNKNOWN
  extras: Mapping[str, Any] = {}


class Mean(NamedTuple):
  """Means over the rows of one codec at one point.

  Attributes:
    image: 'mean of N'.
    codec: name of the codec, as in its rows.
    point: operating point, as in its rows; '' for rows of several points.
    images: number of rows, N.
    bytes: mean size of the files.
    bpp: mean bits per pixel.
    psnr: mean of the images' PSNR in dB.
    psnr_pooled: PSNR in dB of the mean squared error over all samples of all images.
    ssim: mean over the images that are large enough for it; NaN without any.
    ms_ssim: mean likewise.
    encode_s: mean seconds; NaN where nobody measured them.
    decode_s: mean seconds likewise.
    psnr_above_one_color: mean in dB; NaN where it is not recorded.
    extras: means of the extras that are numbers in every row.
  """

  image: str
  codec: str
  point: str
  images: int
  bytes: float
  bpp: float
  psnr: float
  psnr_pooled: float
  ssim: float
  ms_ssim: float
  encode_s: float
  decode_s: float
  psnr_above_one_color: float = _UNKNOWN
  extras: Mapping[str, float] = {}


def measure(
  codec: Codec,
  image: np.ndarray,
  name: str,
  point: str = DEFAULT,
  *,
  label: str | None = None,
  progress: Callable[[int, int], None] | None = None,
  judge: Callable[[str, np.ndarray], Mapping[str, Any]] = lambda name, decoded: {},
) -> Row:
  """Encodes an image, decodes the bytes and compares.

  Args:
    codec: the codec at this operating point.
    image: uint8 [H, W, C], C in {1, 3}.
    name: name of the image.
    point: operating point, for the row.
    label: codec's name for the row; `codec.name` if None.
    progress: called as ``progress(done, total)`` while encoding.
    judge: called as ``judge(name, decoded)``; gives further figures of the row.

  Raises:
    OutOfReach: the codec cannot meet its target for this image.
    CodaxError: the encoder refuses the image, or the decoder gives another shape. All
      messages begin with the names of image and codec.
  """
  label = label or codec.name
  start = time.perf_counter()
  try:
    encoded = codec.encode(image, progress=progress)
    middle = time.perf_counter()
    decoded = codec.decode(encoded.data)
  except CodaxError as e:
    e.args = (f'{name} with {label}: {e}',)  # of whatever class, with its attributes
    raise
  seconds = middle - start, time.perf_counter() - middle
  extras = judge(name, decoded)
  return row_of(name, label, point, image, encoded, decoded, seconds, extras)


def row_of(
  name: str,
  codec: str,
  point: str,
  image: np.ndarray,
  encoded: Encoded,
  decoded: np.ndarray,
  seconds: tuple[float, float] = (_UNKNOWN, _UNKNOWN),
  extras: Mapping[str, Any] | None = None,
) -> Row:
  """Compares a decoded file with its original.

  Args:
    name: name of the image.
    codec: name of the codec.
    point: operating point.
    image: uint8 [H, W, C], the original.
    encoded: the file and its encoder's reconstruction.
    decoded: uint8 [H, W, 1 or 3], decoded from the file's bytes.
    seconds: wall time of encoding and of decoding.
    extras: further figures, JSON-able.

  Raises:
    CodaxError: the decoded image has another shape.
  """
  from codax.baselines.codec import match_channels

  decoded = match_channels(decoded, image.shape[-1])
  if decoded.shape != image.shape:
    raise CodaxError(
      f'{name}: {codec} decodes to shape {decoded.shape}, not {image.shape}'
    )
  mse, miss = distortion.mse(image, decoded), rate_control.get_miss(encoded)
  gain = distortion.psnr_above_one_color(image, decoded)
  return Row(
    image=name,
    codec=codec,
    point=point,
    bytes=len(encoded.data),
    bpp=rate.bpp(len(encoded.data), *image.shape[:2]),
    psnr=distortion.psnr_of_mse(mse),
    ssim=distortion.ssim(image, decoded),
    height=image.shape[0],
    width=image.shape[1],
    channels=image.shape[2],
    mse=mse,
    ms_ssim=distortion.ms_ssim(image, decoded),
    encode_s=seconds[0],
    decode_s=seconds[1],
    estimated_bits=float(encoded.estimated_bits),
    decoded_as_encoded=bool(np.array_equal(decoded, encoded.reconstruction)),
    target_missed=miss and rate_control.explain(miss, encoded.stop_reason),
    psnr_above_one_color=_UNKNOWN if gain is None else gain,
    extras=dict(extras or {}),
  )


def mean(rows: Sequence[Row]) -> Mean:
  """Averages rows of one codec.

  Args:
    rows: one or more, of the same codec.

  Raises:
    CodaxError: there is no row.
  """
  if not rows:
    raise CodaxError('no row to average')
  points = {row.point for row in rows}
  weights = [_samples(row) for row in rows]
  pooled = distortion.summarize([_mse(row) for row in rows], weights).pooled
  return Mean(
    image=f'mean of {len(rows)}',
    codec=rows[0].codec,
    point=points.pop() if len(points) == 1 else '',
    images=len(rows),
    bytes=_average([row.bytes for row in rows]),
    bpp=_average([row.bpp for row in rows]),
    psnr=_average([row.psnr for row in rows]),
    psnr_pooled=pooled,
    ssim=_average([row.ssim for row in rows]),
    ms_ssim=_average([row.ms_ssim for row in rows]),
    encode_s=_average([row.encode_s for row in rows]),
    decode_s=_average([row.decode_s for row in rows]),
    psnr_above_one_color=_average([row.psnr_above_one_color for row in rows]),
    extras=_mean_extras(rows),
  )


def list_notes(row: Row) -> list[str]:
  """Lists sentences for the user about a file that is not all it could be."""
  found = [row.target_missed, distortion.explain_gain(row.psnr_above_one_color)]
  return [f'{row.image} with {row.codec}: {text}' for text in found if text]


def by_point(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
  """Groups rows by (codec, point), in the order in which these appear."""
  found: dict[tuple[str, str], list[Row]] = {}
  for row in rows:
    found.setdefault((row.codec, row.point), []).append(row)
  return found


def by_image(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
  """Groups rows by (codec, image), in the order in which these appear."""
  found: dict[tuple[str, str], list[Row]] = {}
  for row in rows:
    found.setdefault((row.codec, row.image), []).append(row)
  return found


def to_json(row: Row | Mean) -> dict[str, Any]:
  """Lays a row out as a flat dict: its fields, None for NaN, then its extras."""
  found = row._asdict()
  extras = found.pop('extras')
  is_nan = lambda x: isinstance(x, float) and math.isnan(x)
  return {k: None if is_nan(v) else v for k, v in {**found, **extras}.items()}


def from_json(content: Mapping[str, Any]) -> Row:
  """Reads a dict of `to_json`, as JSON gives it back; unknown keys are extras.

  Raises:
    KeyError, TypeError, ValueError: it is no such dict.
  """
  known = {k: v for k, v in content.items() if k in Row._fields and k != 'extras'}
  for key, kind in Row.__annotations__.items():
    if kind is float and key in known:
      known[key] = math.nan if known[key] is None else float(known[key])
  for key in ('image', 'codec', 'bytes', 'bpp', 'psnr'):
    known[key]
  extras = {k: v for k, v in content.items() if k not in Row._fields}
  return Row(**{'point': DEFAULT, **known}, extras=extras)


def _average(values: Sequence[float]) -> float:
  """Averages the values that are known; NaN if none is."""
  known = [value for value in values if not math.isnan(value)]
  return float(np.mean(known)) if known else math.nan


def _samples(row: Row) -> float:
  """Counts the samples of an image; its pixels if its shape is not recorded."""
  if row.height is None:
    return round(8 * row.bytes / row.bpp)
  return row.height * row.width * row.channels


def _mse(row: Row) -> float:
  """Returns the mean squared error; from the PSNR where it is not recorded."""
  if not math.isnan(row.mse):
    return row.mse
  return distortion.PEAK**2 * 10 ** (-row.psnr / 10)


def _mean_extras(rows: Sequence[Row]) -> dict[str, float]:
  is_number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  return {
    key: _average([float(row.extras[key]) for row in rows])
    for key in rows[0].extras
    if all(is_number(row.extras.get(key)) for row in rows)
  }

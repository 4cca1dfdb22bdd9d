"""Images x codecs: rows, means, BD-rates, and what could not be measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codax import signals
from codax.codec import Codec
from codax.data import checks
from codax.errors import CodaxError, OutOfReach
from codax.metrics import rate
from codax.per_image.result import hash_image
from codax.reports import layout, measure, resuming
from codax.reports.inputs import Input
from codax.reports.layout import Column, markdown_table, text_line
from codax.reports.measure import Mean, Row

COLUMNS = (
  Column('image', 'image'),
  Column('codec', 'codec'),
  Column('point', 'point'),
  Column('bytes', 'bytes', '.0f'),
  Column('bpp', 'bpp', '.4f'),
  Column('psnr', 'psnr', '.2f'),
  Column('ssim', 'ssim', '.4f'),
  Column('ms_ssim', 'ms_ssim', '.4f'),
  Column('encode_s', 'encode_s', '.3f'),
  Column('decode_s', 'decode_s', '.3f'),
  Column('psnr_above_one_color', 'psnr_above_one_color', '.2f'),
)
TEXT_COLUMNS = (
  Column('image', 'image'),
  Column('codec', 'codec'),
  Column('bytes', 'bytes', '.0f'),
  Column('bpp', 'bpp', '.4f'),
  Column('PSNR dB', 'psnr', '.2f'),
  Column('SSIM', 'ssim', '.4f'),
  Column('enc s', 'encode_s', '.2f'),
  Column('dec s', 'decode_s', '.2f'),
  Column('gain dB', 'psnr_above_one_color', '.2f'),
)
_WIDTHS = (9, 8, 7, 7, 8, 8, 7)  # of the columns of numbers
_ACCURACY = Column('accuracy', 'accuracy', '.4f')  # where a probe judges
_POOLED = Column('psnr of pooled mse', 'psnr_pooled', '.2f')
MEAN_COLUMNS = (*COLUMNS[:6], _POOLED, *COLUMNS[6:])


Judge = Callable[[str, np.ndarray], Mapping[str, Any]]


class Point(NamedTuple):
  """One codec at one operating point.

  Attributes:
    label: codec's name, with its model if one was given.
    setting: operating point: 'q50', 'lmbda 0.01', 'bpp 0.5' or 'default'.
    codec: the codec.
  """

  label: str
  setting: str
  codec: Codec


class Measured(NamedTuple):
  """Outcome of `measure_all`.

  Attributes:
    rows: one for each image and point that could be measured.
    missed: targets out of reach: dicts of image, codec, point and reason.
    passed_over: images that cannot be read, dicts of image and reason; and those that
      an encoder refuses, dicts with its codec and point too.
    interrupted: the measurement that a signal ended, a dict of image, codec and point;
      empty for all others. It is in none of the rows.
  """

  rows: list[Row]
  missed: list[dict[str, str]]
  passed_over: list[dict[str, str]]
  interrupted: dict[str, str] = {}

  @property
  def unreadable(self) -> list[dict[str, str]]:
    """Images that cannot be read."""
    return [one for one in self.passed_over if 'codec' not in one]


def measure_all(
  images: Sequence[Input],
  points: Sequence[Point],
  progress: Callable[[str, Point], Any] = lambda name, point: None,
  *,
  keep: Callable[[Measured], Any] = lambda found: None,
  each: Callable[[Row], Any] = lambda row: None,
  finish: Callable[[str], Any] = lambda name: None,
  grow: Callable[[Callable[[], Measured]], Any] = lambda so_far: None,
  is_skipped: bool = False,
  earlier: Sequence[Row] = (),
  judge: Judge = lambda name, decoded: {},
) -> Measured:
  """Measures every image at every point.

  An image that cannot be read any more is passed over; one for which a codec cannot
  meet its target has no row there.

  Args:
    images: images of `inputs.list_inputs`.
    points: codecs at their operating points.
    progress: called as ``progress(name, point)`` before each measurement.
    keep: called with the outcome so far when an error or a signal ends the work.
    each: called with each row.
    finish: called as ``finish(name)`` when an image is done.
    grow: called after each row with a function that returns all rows so far.
    is_skipped: whether an image that an encoder refuses is passed over by it, too.
    earlier: rows to take instead of measuring, for the same image, pixel for pixel.
    judge: called as ``judge(name, decoded)``; gives further figures of each row.

  Raises:
    CodaxError: an encoder refuses an image, no target was met, or no image is readable.
  """
  found, known = Measured([], [], []), resuming.index_rows(earlier)
  # with the earlier rows whose turn has not come yet
  so_far = lambda: found._replace(rows=[*found.rows, *known.values()])
  try:
    for image in images:
      pixels = _load(image, found)
      digest = '' if pixels is None else hash_image(pixels)
      for point in points if digest else ():
        row = known.pop((point.label, point.setting, digest, image.name), None)
        if row is None:
          progress(image.name, point)
          with signals.allow():
            row = _measure_one(image.name, pixels, point, found, is_skipped, judge)
        if row is not None:
          extras = {**row.extras, resuming.DIGEST: digest}
          found.rows.append(row._replace(extras=extras))
          each(row)
          grow(so_far)
      finish(image.name)
  except KeyboardInterrupt:
    keep(so_far()._replace(interrupted=_name_next(found, images, points)))
    raise
  except BaseException:
    if so_far().rows:
      keep(so_far())
    raise
  _check_rows(found)
  return found


def _load(image: Input, found: Measured) -> np.ndarray | None:
  """Reads an image; one that cannot be read is noted in `found`, and None."""
  try:
    return image.load()
  except CodaxError as e:
    found.passed_over.append({'image': image.name, 'reason': str(e)})
    return None


def list_passed_over(
  found: Measured, bad: Sequence[checks.BadImage], is_skipped: bool
) -> list[str]:
  """Lists the images that a comparison passed over, a line each.

  Args:
    found: outcome of `measure_all`.
    bad: images that were passed over before it.
    is_skipped: whether the user asked for that.

  Raises:
    CodaxError: images were damaged meanwhile, and the user did not ask for that.
  """
  reasons = [x.reason for x in bad] + [x['reason'] for x in found.passed_over]
  lines = checks.list_reasons(reasons)
  if found.unreadable and not is_skipped:
    raise CodaxError(f'passed over: {"; ".join(lines)}')
  return [f'passed over: {line}' for line in lines]


def _name_next(found: Measured, images, points) -> dict[str, str]:
  """Names the first measurement that has no outcome yet; empty if all have one."""
  passed_over = {one['image'] for one in found.unreadable}
  done = {(row.image, row.codec, row.point) for row in found.rows}
  done |= {
    (one['image'], one['codec'], one['point'])
    for one in (*found.missed, *found.passed_over)
    if 'codec' in one
  }
  for image in images:
    for point in points:
      key = image.name, point.label, point.setting
      if image.name not in passed_over and key not in done:
        return dict(zip(('image', 'codec', 'point'), key))
  return {}


def _check_rows(found: Measured) -> None:
  """Raises `CodaxError` if nothing could be measured."""
  if not found.rows:
    reasons = found.missed or found.passed_over
    what = 'no target was met' if found.missed else 'no image can be measured'
    raise CodaxError(f'{what}: {reasons[0]["reason"]}' if reasons else 'no image')


def _measure_one(
  name: str,
  pixels: np.ndarray,
  point: Point,
  found: Measured,
  is_skipped: bool,
  judge: Judge,
) -> Row | None:
  """Measures an image at a point; a failure that stops nothing is noted in `found`."""
  try:
    return measure.measure(
      point.codec, pixels, name, point.setting, label=point.label, judge=judge
    )
  except CodaxError as e:
    if not (is_skipped or isinstance(e, OutOfReach)):
      raise CodaxError(f'{e} ({checks.FLAG_ADVICE})') from e
    where = {'image': name, 'codec': point.label, 'point': point.setting}
    out = found.missed if isinstance(e, OutOfReach) else found.passed_over
    out.append({**where, 'reason': str(e)})
    return None


def means(rows: Sequence[Row], points: Sequence[Point], images: int) -> list[Mean]:
  """Averages the rows of each point that every readable image has.

  Args:
    rows: rows of `measure_all`.
    points: the operating points, in the order of the means.
    images: number of readable images; a point with fewer rows has no mean, which would
      be of other images than its neighbours'.
  """
  groups = measure.by_point(rows)
  of_points = [groups.get((point.label, point.setting), []) for point in points]
  return [measure.mean(group) for group in of_points if len(group) == images]


def bd_rates(averages: Sequence[Mean], reference: str) -> dict[str, dict[str, Any]]:
  """Computes the BD-rate of every codec's mean curve against that of `reference`.

  Returns:
    Codec to {'percent', 'overlap'}, or to {'reason'} where there is no BD-rate.
  """
  curves = mean_curves(averages)
  if reference not in curves:
    return {}
  anchor = list(zip(*curves[reference], strict=True))
  out = {}
  for name, curve in curves.items():
    if name == reference:
      continue
    test = list(zip(*curve, strict=True))
    try:
      percent = rate.bd_rate(*anchor, *test)
    except CodaxError as e:
      out[name] = {'reason': str(e)}
      continue
    out[name] = {'percent': percent, 'overlap': rate.overlap(anchor[1], test[1])}
  return out


def mean_curves(
  averages: Sequence[Mean], key: str = 'psnr'
) -> dict[str, list[tuple[float, float]]]:
  """Collects (bpp, figure) of means whose figure is finite, by codec.

  Args:
    averages: means of `means`.
    key: name of the figure, a field or an extra of the means.
  """
  curves: dict[str, list[tuple[float, float]]] = {}
  for row in averages:
    value = layout.get(row, key)
    if value is not None and math.isfinite(value):
      curves.setdefault(row.codec, []).append((row.bpp, value))
  return curves


def markdown(
  rows: Sequence[Row],
  averages: Sequence[Mean],
  bd: Mapping[str, Mapping[str, Any]],
  reference: str,
) -> str:
  """Lays out every row, the means and the BD-rates, as Markdown."""
  parts = []
  for columns, lines in ((COLUMNS, rows), (MEAN_COLUMNS, averages)):
    if lines:
      columns = [*columns, *layout.filled([_ACCURACY], lines)]
      parts.append(markdown_table(columns, lines, is_padded=True).rstrip())
  for name, value in bd.items():
    if 'reason' in value:
      parts.append(f'BD-rate of {name} against {reference}: none ({value["reason"]})')
      continue
    note = f', over {value["overlap"]:.0%} of the PSNR range'
    note += ' only' if value['overlap'] < 0.75 else ''
    parts.append(
      f'BD-rate of {name} against {reference}: {value["percent"]:+.2f} %{note}'
    )
  return '\n\n'.join(parts) + '\n'


def text_table(
  images: Sequence[Input], points: Sequence[Point], write: Callable[[str], Any]
) -> Callable[[Row | Mean], None]:
  """Begins a table in plain text that grows while images are measured.

  Args:
    images: images of the table, for the width of its first column.
    points: codecs of the table, for the width of its second column.
    write: called with the heading, and with each further line.

  Returns:
    A function that adds a row.
  """
  widths = [
    max(map(len, ['image', 'mean', *(image.name for image in images)])),
    max(map(len, ['codec', *(point.label for point in points)])),
    *_WIDTHS,
  ]
  write(text_line(TEXT_COLUMNS, widths))
  return lambda row: write(text_line(TEXT_COLUMNS, widths, row))

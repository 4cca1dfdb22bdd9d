"""Markdown tables of kept results.

Every table is a function of the contents of results/ (see `store.load_all`) and of
patterns of names, such as 'kodak_*', and returns text that ends with a line break, or
nothing where there are no results. Columns of one family come from the family.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from codax import families
from codax.errors import CodaxError
from codax.metrics import rate
from codax.reports import layout, measure
from codax.reports.held_out import BASELINES
from codax.reports.layout import Column, markdown_table
from codax.reports.measure import Mean, Row

Results = Sequence[Mapping[str, Any]]
_MANY = 8  # more images than this are averaged


def select(results: Results, kind: str, patterns: Sequence[str] = ()) -> list[Mapping]:
  """Picks the results of a kind whose names match a pattern, pattern by pattern.

  Args:
    results: all of them.
    kind: one of `store.KINDS`.
    patterns: shell patterns of names; all results without any.
  """
  found: dict[str, Mapping] = {}
  for pattern in patterns or ('*',):
    for result in results:
      if result['kind'] == kind and fnmatch.fnmatchcase(result['name'], pattern):
        found.setdefault(result['name'], result)
  return list(found.values())


def config_of(result: Mapping[str, Any]) -> str:
  """Finds the configuration that a run was started with, in its command."""
  return re.search(r'--config=(\S+)', result['command'])[1]


def preset_of(result: Mapping[str, Any]) -> str:
  """Names the preset of a comparison, ' --preset=fast', unless it is the default."""
  preset = result['request']['preset']
  return '' if preset == 'medium' else f' --preset={preset}'


def hardware(result: Mapping[str, Any]) -> str:
  """Names the hardware of the training: '2 CPU cores', or the accelerators."""
  where = result.get('trained', [result])[0]['hardware']
  if where.get('platform', 'cpu') == 'cpu':  # none where JAX had no part in it
    return f'{where["cores"]} CPU core{"s" * (where["cores"] > 1)}'
  return ', '.join(f'{n} x {name}' for name, n in where['devices'].items())


def codec_of(result: Mapping[str, Any]) -> str:
  """Names the codec of a held-out report: that of its first row."""
  return result['rows'][0]['codec']


def family_of(codec: str) -> Any:
  """Imports the module that describes a codec's family; None if it has none."""
  owner = families.FAMILIES.get(codec.partition(':')[0])
  if owner is None or 'describe' not in owner.entries:
    return None
  return families.entry(owner, 'describe')


def columns_of(codec: str, rows: Sequence[Any]) -> list[Column]:
  """Lists the columns that a codec's family declares, less those that are empty.

  Args:
    codec: name of the codec.
    rows: rows of the table: `Row`, `Mean`, or mappings of their figures.
  """

  def value_of(value):
    def find(row):
      figures = row if isinstance(row, Mapping) else measure.to_json(row)
      try:
        return value(figures) if callable(value) else figures[value]
      except (KeyError, TypeError):  # a figure that is missing or unknown
        return None

    return find

  declared = getattr(family_of(codec), 'COLUMNS', ())
  columns = [Column(head, value_of(value), form) for head, value, form in declared]
  return layout.filled(columns, rows)


# --- held-out reports ---------------------------------------------------------------


def runs(results: Results, *patterns: str) -> str:
  """Lays out every image of every run, with the run's command and hardware."""
  lines = []
  for result in select(results, 'held_out', patterns):
    rows = [measure.from_json(row) for row in result['rows']]
    pairs = _pair_with_baselines(rows, codec_of(result))
    lines += [{'result': result, **pair} for pair in pairs]
  columns = [
    Column('config', lambda x: f'`{config_of(x["result"])}`'),
    Column('command', lambda x: f'`{x["result"]["command"]}`'),
    Column('image', lambda x: x['ours'].image),
    Column('bytes', lambda x: x['ours'].bytes, '.0f'),
    Column('bpp from file', lambda x: x['ours'].bpp, '.3f'),
    Column('PSNR', lambda x: x['ours'].psnr, '.2f'),
    Column('SSIM', lambda x: x['ours'].ssim, '.4f'),
    *_NEAR,
    Column('hardware', lambda x: hardware(x['result'])),
  ]
  return markdown_table(columns, lines) if lines else ''


def points(results: Results, *patterns: str) -> str:
  """Lays out the operating points of each run beside JPEG and WebP of like sizes.

  Rows are means of many images, or every image of a few.
  """
  out = []
  for result in select(results, 'held_out', patterns):
    rows = [measure.from_json(row) for row in result['rows']]
    codec = codec_of(result)
    lines = _pair_with_baselines(rows, codec)
    is_mean = len({row.image for row in rows}) > _MANY
    if is_mean:
      lines = _mean_lines(lines)
    several = len({row.point for row in rows}) > 1
    ours = [line['ours'] for line in lines]
    columns = [
      *([] if is_mean else [Column('image', lambda x: x['ours'].image)]),
      *([Column('point', lambda x: x['ours'].point)] if several else []),
      Column('bpp from file', lambda x: x['ours'].bpp, '.3f'),
      Column('PSNR', lambda x: x['ours'].psnr, '.2f'),
      *(_OF_MEANS if is_mean else []),
      *_NEAR,
      *(_ABOVE if is_mean else []),
      *(
        c._replace(value=lambda x, c=c: c.value(x['ours']))
        for c in columns_of(codec, ours)
      ),
    ]
    head = f'`{result["command"]}` on {hardware(result)}:\n\n'
    note = f'\n{result["note"]}\n' if 'note' in result else ''
    out.append(head + markdown_table(columns, lines) + note)
  return '\n'.join(out)


def _near(name: str):
  def text(line: Mapping[str, Any]) -> str:
    other = line['near'][name]
    return f'{other.psnr:.2f} dB, {other.bpp:.3f} bpp'

  return text


_TITLES = {'jpeg': 'JPEG', 'webp': 'WebP'}
_NEAR = [Column(f'{_TITLES[n]} near that size', _near(n), '') for n in BASELINES]
_OF_MEANS = [Column('PSNR of pooled MSE', lambda x: x['ours'].psnr_pooled, '.2f')]
_ABOVE = [
  Column(f'images above {_TITLES[n]}', lambda x, n=n: x['above'][n], '.0f')
  for n in BASELINES
]


def _pair_with_baselines(rows: Sequence[Row], codec: str) -> list[dict[str, Any]]:
  """Pairs each of our rows with the baselines' files near its size."""
  baselines = {(r.image, r.point, r.codec): r for r in rows if r.codec in BASELINES}
  return [
    {
      'ours': row,
      'near': {name: baselines[row.image, row.point, name] for name in BASELINES},
    }
    for row in rows
    if row.codec == codec
  ]


def _mean_lines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Averages by operating point, sizes rising, and counts images of higher PSNR.

  Where a baseline cannot be so small, its larger file counts.
  """
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for line in lines:
    groups.setdefault(line['ours'].point, []).append(line)
  found = [
    {
      'ours': measure.mean([x['ours'] for x in group]),
      'near': {n: measure.mean([x['near'][n] for x in group]) for n in BASELINES},
      'above': {
        n: sum(x['ours'].psnr > x['near'][n].psnr for x in group) for n in BASELINES
      },
    }
    for group in groups.values()
  ]
  return sorted(found, key=lambda line: line['ours'].bpp)


def against(results: Results, anchor: str, *patterns: str) -> str:
  """Compares runs over the same images with one of them: means, and mean BD-rate.

  Args:
    results: all of them.
    anchor: name of the result that the others are compared with.
    patterns: see `select`.
  """
  found = select(results, 'held_out', patterns)
  base = next((r for r in found if r['name'] == anchor), None)
  if base is None:
    return ''
  settings = _distinct_overrides(found)
  lines, codec = [], codec_of(base)
  for result, setting in zip(found, settings, strict=True):
    rows = _ours(result)
    change = None if result is base else _mean_bd_rate(_ours(base), rows)
    name = f'`{config_of(result)} {setting}`'.replace(' `', '`')
    lines.append({'name': name, 'mean': measure.mean(rows), 'change': change})
  columns = [
    Column('config', 'name'),
    Column('mean bpp from file', lambda x: x['mean'].bpp, '.3f'),
    Column('mean PSNR', lambda x: x['mean'].psnr, '.2f'),
    Column(
      f'bits at equal PSNR against `{config_of(base)}`, %',
      lambda x: 0.0 if x['change'] is None else x['change'],
      '+.1f',
    ),
    *(
      c._replace(value=lambda x, c=c: c.value(x['mean']))
      for c in columns_of(codec, [line['mean'] for line in lines])
    ),
  ]
  return markdown_table(columns, lines)


# --- comparisons --------------------------------------------------------------------


def comparison(results: Results, *patterns: str) -> str:
  """Lays out the means of learned codecs beside baselines at the same sizes."""
  out = []
  for result in select(results, 'comparison', patterns):
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for mean in result['means']:
      curves.setdefault(mean['codec'], []).append(mean)
    lines = [
      {**mean, 'off': _estimate_error(result['rows'], mean)}
      for codec, means in curves.items()
      if families.family(codec.partition(':')[0]).kind != 'baseline'
      for mean in sorted(means, key=lambda x: x['bpp'])
    ]
    columns = [
      Column('codec', 'codec'),
      Column('point', 'point'),
      Column('bpp from file', 'bpp', '.3f'),
      Column('PSNR', 'psnr', '.2f'),
      Column('PSNR of pooled MSE', 'psnr_pooled', '.2f'),
      Column('MS-SSIM', 'ms_ssim', '.4f'),
      *(
        Column(f'{_TITLES[name]} at that size', _psnr_of(curves[name]), '.2f')
        for name in BASELINES
        if name in curves
      ),
      Column('estimate off by at most, bytes', 'off', '.0f'),
      Column('s to encode', 'encode_s', '.2f'),
      Column('s to decode', 'decode_s', '.2f'),
    ]
    head = f'`{result["command"]}` on {hardware(result)}:\n\n'
    notes = [_training_note(*x) for x in result.get('trainings', {}).items()]
    notes += [result['note']] if 'note' in result else []
    note = ''.join(f'\n{text}\n' for text in notes)
    out.append(head + markdown_table(layout.filled(columns, lines), lines) + note)
  return '\n'.join(out)


def _psnr_of(curve: Sequence[Mapping[str, float]]):
  """Returns the function that interpolates a mean curve at a line's size."""
  points = sorted((mean['bpp'], mean['psnr']) for mean in curve)
  return lambda line: rate.psnr_at(*zip(*points), line['bpp'])


def _estimate_error(rows, mean: Mapping[str, Any]) -> float | None:
  """Finds the greatest distance of an estimate from its file, in bytes."""
  found = [
    abs(row['estimated_bits'] / 8 - row['bytes'])
    for row in rows
    if (row['codec'], row['point']) == (mean['codec'], mean['point'])
    and row.get('estimated_bits') is not None
  ]
  return max(found, default=None)


def _training_note(codec: str, training: Mapping[str, Any]) -> str:
  """Says how a model was trained."""
  hours = training['seconds'] / 3600
  command = training['command']
  return f'`{codec}`: `{command}`, {hours:.1f} hours on {hardware(training)}.'


# --- arithmetic ---------------------------------------------------------------------


def bd_rate(anchor: Sequence[Row | Mean], test: Sequence[Row | Mean]) -> float | None:
  """Computes the BD-rate of one curve against another, in %; None without overlap."""
  axes = [[getattr(r, k) for r in c] for c in (anchor, test) for k in ('bpp', 'psnr')]
  try:
    return rate.bd_rate(*axes)
  except CodaxError:
    return None


def _ours(result: Mapping[str, Any]) -> list[Row]:
  codec = codec_of(result)
  rows = [measure.from_json(row) for row in result['rows']]
  return [row for row in rows if row.codec == codec]


def _mean_bd_rate(anchor: Sequence[Row], test: Sequence[Row]) -> float:
  """Averages the BD-rate over the images; NaN if an image has none."""
  base = {image: rows for (_, image), rows in measure.by_image(anchor).items()}
  changes = [
    bd_rate(base[image], rows) for (_, image), rows in measure.by_image(test).items()
  ]
  return float('nan') if None in changes else sum(changes) / len(changes)


def _distinct_overrides(results: Results) -> list[str]:
  """Finds the overrides of every command that not all of the commands have."""
  given = [re.findall(r'--config\.(\S+=\S+)', r['command']) for r in results]
  shared = set.intersection(*map(set, given)) if given else set()
  return [' '.join(o for o in overrides if o not in shared) for overrides in given]

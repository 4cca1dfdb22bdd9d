"""Markdown tables of what `sweeps` and comparisons like it have measured.

Every function takes the contents of results/ (see ``launch/tables.py``), finds those
that it knows, and returns text that ends with a line break, or nothing.
"""

import re

KODAK = 24  # pictures
_POSITIONS = ('positions_bits', 'positions_raw')
_TIMES = ('_seconds', '_time')  # how columns end that need no digits after the point


def number(value: dict, form: str, times: float = 1.0) -> str:
  """A mean with its standard error: '1.23 ± 0.04'; a dash where there is none."""
  if value['mean'] is None:
    return '–'
  text = format(times * value['mean'], form)
  if value['error'] is not None:
    text += f' ± {format(times * value["error"], form.replace("+", ""))}'
  return text


def table(heads: list[str], lines: list[list[str]]) -> str:
  """Cells as Markdown: the first column to the left, the others to the right."""
  lines = [heads, ['---', *['--:'] * (len(heads) - 1)], *lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def config_of(result: dict) -> str:
  """The configuration that a run was started with, from its command."""
  return re.search(r'--config=(\S+)', result['command'])[1]


def hardware(result: dict) -> str:
  """'2 CPU cores' or the accelerator's name, of where the training was."""
  kind = result.get('trained', [result])[0]['hardware']
  if kind.get('platform', 'cpu') == 'cpu':  # none where JAX had no part in it
    return f'{kind["cores"]} CPU cores'
  return ', '.join(f'{n} x {name}' for name, n in kind['devices'].items())


def sweep(results: list[dict]) -> str:
  """Every setting of every sweep: means over seeds ± standard error."""
  out = []
  for result in (r for r in results if 'summary' in r):
    heads = ['setting', 'hard perplexity', 'usage, %', 'PSNR of crops']
    heads += ['bpp of files', 'PSNR of files'] if result['nominal'] is not None else []
    # a setting that no other one's curve reaches has no column
    saved = [
      (f'saving_{how}', other)
      for how in ('nearest', 'searched')
      for other in result[how]
      if any(
        row[f'saving_{how}'][other]['mean'] is not None
        for row in result['summary']
        if row['setting'] != other
      )
    ]
    for how, other in saved:
      heads.append(f'bits saved on `{other}`, {how.removeprefix("saving_")}, %')
    lines = []
    for row in result['summary']:
      cells = [
        f'`{row["setting"]}`',
        number(row['perplexity'], '.1f'),
        number(row['usage'], '.0f', 100),
        number(row['psnr'], '.2f'),
      ]
      if result['nominal'] is not None:
        cells += [number(row['file_bpp'], '.3f'), number(row['file_psnr'], '.2f')]
      for how, other in saved:
        itself = other == row['setting']
        cells.append('' if itself else number(row[how][other], '+.1f'))
      lines.append(cells)
    out.append(table(heads, lines))
  return '\n'.join(out)


def switches(results: list[dict]) -> str:
  """What every setting of a sweep changes against its baseline, in % with standard
  errors over the problems."""
  percent = lambda value: number(value, '+.2f', 100)
  out = []
  for result in (r for r in results if 'switches' in r):
    lines = [
      f'| against `{result["baseline"]}`, %, of {result["switches"][0]["problems"]} '
      'files | J | file size | MAC/pixel |',
      '|---|--:|--:|--:|',
    ]
    for row in result['switches']:
      itself = row['setting'] == result['baseline']
      cells = [f'`{row["setting"]}`', *map(percent, (row['log_j'], row['log_bytes']))]
      cells = [cells[0], '', ''] if itself else cells
      lines.append('| ' + ' | '.join([*cells, f'{row["macs_per_pixel"]:.0f}']) + ' |')
    out.append('\n'.join(lines) + '\n')
  return '\n'.join(out)


def gains(results: list[dict]) -> str:
  """What every setting gains or loses against its baseline at equal bytes."""
  out = []
  for result in (r for r in results if 'gains' in r):
    base = next(r for r in result['gains'] if r['setting'] == result['baseline'])
    lines = [
      f'| against `{result["baseline"]}`, {base["files"]} files | dB at equal bytes '
      '| file size, % | PSNR | before rounding | s a file |',
      '|---|--:|--:|--:|--:|--:|',
    ]
    for row in result['gains']:
      cells = [number(row['gain'], '+.2f'), number(row['log_bytes'], '+.1f', 100)]
      cells = ['', ''] if row is base else cells
      cells += [_or_dash(row, 'psnr', '.2f'), _or_dash(row, 'psnr_float', '.2f')]
      cells = [f'`{row["setting"]}`', *cells, _or_dash(row, 'seconds', '.0f')]
      lines.append('| ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + '\n'
    if {'positions_bits', 'positions_raw', 'gaussians'} <= set(base):
      coded, raw = (base[k] / base['gaussians'] for k in _POSITIONS)
      text += (
        f'\nPositions take {coded:.1f} bits a Gaussian in the files of '
        f'`{result["baseline"]}`, and would take {raw:.1f} one by one.\n'
      )
    out.append(text)
  return '\n'.join(out)


def claims(results: list[dict]) -> str:
  """What the ways to render and to quantise are worth, picture by picture."""
  out = []
  for result in (r for r in results if 'claims' in r):
    names = result['columns']
    form = {key: '.0f' if key.endswith(_TIMES) else '.2f' for key in names}
    rows, several = result['claims'], len(result['claims']) > 1
    heads = ['', *(row['picture'] for row in rows), *['mean'][: int(several)]]
    lines = [['Gaussians', *(str(row['count']) for row in rows)] + [''] * several]
    for key, name in names.items():
      cells = [_or_dash(row['numbers'], key, form[key]) for row in rows]
      mean = [number(result['means'][key], form[key])] if several else []
      lines.append([name, *cells, *mean])
    out.append(table(heads, lines))
  return '\n'.join(out)


def splat(results: list[dict]) -> str:
  """For every run of the Gaussian codec its command, and its files beside JPEG's and
  WebP's of the same size: of whole Kodak means, of less every picture."""
  out = []
  for result in results:
    if 'rows' not in result or 'gaussians' not in result['rows'][0]:
      continue
    rows = [r for r in result['rows'] if r['codec'] == 'splat']
    whole = len({r['image'] for r in rows}) == KODAK
    heads = ['Gaussians', 'bpp from file', 'PSNR', 'JPEG near that size']
    heads += ['WebP near that size', 'bits a Gaussian']
    if whole:
      heads += ['pictures above JPEG', 'above WebP']
    else:
      heads = ['picture', *heads, 's to encode']
      heads += ['first layer alone'] if 'prefixes' in rows[0] else []
    beside = {(row['picture'], row['codec']): row for row in result['rows']}
    lines = []
    for group in _groups(rows, 'gaussians') if whole else [[r] for r in rows]:
      mean = lambda key, of=group: sum(float(r[key]) for r in of) / len(of)
      cells = [f'{mean("gaussians"):.0f}', f'{mean("bpp"):.3f}', f'{mean("psnr"):.2f}']
      for name in ('jpeg', 'webp'):
        others = [beside[r['picture'], name] for r in group]
        cells.append(f'{mean("psnr", others):.2f} dB, {mean("bpp", others):.3f} bpp')
      cells.append(f'{8 * mean("bytes") / mean("gaussians"):.1f}')
      if whole:
        cells += [_above(group, beside, name) for name in ('jpeg', 'webp')]
      else:
        cells = [group[0]['image'], *cells, f'{group[0]["seconds"]:.0f}']
        first = group[0].get('prefixes', [None])[0]
        if first:
          share = 100 * first['bytes'] / group[0]['bytes']
          cells.append(f'{first["psnr"]:.2f} dB with {share:.0f} % of the bytes')
      lines.append(cells)
    out.append(f'`{result["command"]}`:\n\n{table(heads, lines)}')
  return '\n'.join(out)


def _above(rows: list[dict], beside: dict, name: str) -> str:
  """How many pictures have a higher PSNR than the other codec's files near their size.

  Where the other cannot be so small, its larger file counts.
  """
  gains = (float(r['psnr']) - float(beside[r['picture'], name]['psnr']) for r in rows)
  return str(sum(gain > 0 for gain in gains))


def _groups(rows: list[dict], key: str) -> list[list[dict]]:
  """Rows that have the same value, by rising values."""
  return [[r for r in rows if r[key] == v] for v in sorted({r[key] for r in rows})]


def steps(results: list[dict]) -> str:
  """What a step costs (``launch/bench.py pictures``), a line for each size of a fit."""
  lines = []
  for result in (r for r in results if 'steps_timed' in r):
    config, where = config_of(result), hardware(result)
    for fit in result.get('fits', [result]):
      cells = [f'`{config}`', result['pictures'], str(fit.get('gaussians', ''))]
      cells += [_or_dash(fit, k, '.1f') for k in ('step_ms', 'quantised_step_ms')]
      cells += [_or_dash(fit, 'step_ms_a_picture', '.2f')]
      lines.append([*cells, _or_dash(fit, 'program_mib', '.0f'), where])
  heads = ['config', 'pictures in one program', 'Gaussians', 'ms a step']
  heads += ['quantising', 'ms a step and picture', 'program, MiB', 'on']
  return table(heads, lines) if lines else ''


def decoding(results: list[dict]) -> str:
  """What decoding takes (``launch/bench.py decode``), a line for each file."""
  lines = [
    [f'`{row["file"]}`', row['size'], str(row['bytes']), f'{row["decode_ms"]:.0f}',
     f'{row["decode_us_a_pixel"]:.2f}', hardware(result)]
    for result in results for row in result.get('decoded', [])
  ]  # fmt: skip
  heads = ['file', 'pixels', 'bytes', 'ms to decode', 'µs a pixel', 'on']
  return table(heads, lines) if lines else ''


def _or_dash(row: dict, key: str, form: str) -> str:
  return '–' if row.get(key) is None else format(row[key], form)

"""Markdown tables of sweeps, of studies, and of times.

Each is a function of results and patterns, as those of `tables`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from codax.reports import layout
from codax.reports.layout import Column, markdown_table
from codax.reports.tables import Results, columns_of, config_of, hardware, select

_TIMES = ('_seconds', '_time')  # how columns end that need no digits after the point


def curves(results: Results, *patterns: str) -> str:
  """Lays out every setting's means over seeds, and bits saved at equal PSNR."""
  out = []
  for result in _sweeps(results, 'curves', patterns):
    columns = [
      _SETTING,
      Column('hard perplexity', 'perplexity', '.1f'),
      Column('usage, %', 'usage', '.0f', 100),
      Column('PSNR of crops', 'psnr', '.2f'),
    ]
    if result['nominal'] is not None:
      columns.append(Column('bpp of files', 'file_bpp', '.3f'))
      columns.append(Column('PSNR of files', 'file_psnr', '.2f'))
    columns += [
      Column(f'bits saved on `{other}`, {how}, %', _saving(how, other), '+.1f')
      for how in ('nearest', 'searched')
      for other in result[how]
      if _is_reached(result['settings'], how, other)
    ]
    rows = result['settings']
    out.append(markdown_table(layout.filled(columns, rows), rows))
  return '\n'.join(out)


def _saving(how: str, other: str):
  def find(row: Mapping[str, Any]) -> Any:
    return '' if row['setting'] == other else row[f'saving_{how}'][other]

  return find


def _is_reached(settings, how: str, other: str) -> bool:
  """Tells whether any other setting's curve reaches this one."""
  return any(
    row[f'saving_{how}'][other]['mean'] is not None
    for row in settings
    if row['setting'] != other
  )


_ABLATION = (
  'Change in the cost J = MSE + λ·bpp and in file size against `{}`, in % (mean '
  'log-ratio ± standard error over {} files). Negative is better.'
)
_SETTING = Column('setting', lambda row: f'`{row["setting"]}`')


def ablation(results: Results, *patterns: str) -> str:
  """Lays out every setting's change of cost and size against the baseline."""
  out = []
  for result in _sweeps(results, 'ablation', patterns):
    rows = result['settings']
    columns = [
      _SETTING,
      Column('J', _unless_baseline(result, 'log_j'), '+.2f', 100),
      Column('file size', _unless_baseline(result, 'log_bytes'), '+.2f', 100),
      *columns_of(_codec_of_sweep(result), rows),
    ]
    head = _ABLATION.format(result['baseline'], rows[0]['problems'])
    out.append(f'{head}\n\n{markdown_table(columns, rows)}')
  return '\n'.join(out)


def gains(results: Results, *patterns: str) -> str:
  """Lays out every setting's gain against the baseline at equal bytes."""
  out = []
  for result in _sweeps(results, 'gains', patterns):
    rows = result['settings']
    base = next(row for row in rows if row['setting'] == result['baseline'])
    columns = [
      Column(
        f'against `{result["baseline"]}`, {base["files"]} files', _SETTING.value
      ),
      Column('dB at equal bytes', _unless_baseline(result, 'gain'), '+.2f'),
      Column('file size, %', _unless_baseline(result, 'log_bytes'), '+.1f', 100),
      Column('PSNR', 'psnr', '.2f'),
      *columns_of(_codec_of_sweep(result), rows),
    ]  # fmt: skip
    out.append(markdown_table(columns, rows))
  return '\n'.join(out)


def trainings(results: Results, *patterns: str) -> str:
  """Lays out what every setting's trainings reached and how, means over seeds."""
  out = []
  for result in _sweeps(results, 'trainings', patterns):
    rows = result['settings']
    is_measured = all(row['file_bpp']['mean'] is not None for row in rows)
    columns = [
      _SETTING,
      Column('parameters', 'parameters', '.0f'),
      Column('ms a step', 'step_ms', '.1f'),
      Column('PSNR', 'psnr', '.2f'),
      Column(
        f'PSNR against `{result["baseline"]}`', _unless_baseline(result, 'gain'), '+.2f'
      ),
      Column('SSIM', 'ssim', '.4f'),
      Column('bpp of files' if is_measured else 'bpp, estimated', 'bpp', '.3f'),
      Column('cost J of files, %', _unless_baseline(result, 'log_j'), '+.1f', 100),
      Column(f'steps to {result["target"]:g} dB', 'steps_to_target', '.0f'),
      Column('variation of the gradient norm', 'grad_variation', '.2f'),
      Column('spikes, % of steps', 'grad_spikes', '.2f', 100),
      Column('clipped, % of steps', 'clipped', '.1f', 100),
      Column('active units', 'active_units', '.1f'),
    ]
    out.append(_lay_out_means(result, columns))
  return '\n'.join(out)


def accuracies(results: Results, *patterns: str) -> str:
  """Lays out what every setting's classifiers reached, means over seeds."""
  out = []
  for result in _sweeps(results, 'accuracies', patterns):
    rows = result['settings']
    columns = [
      _SETTING,
      Column('parameters', 'parameters', '.0f'),
      Column('ms a step', 'step_ms', '.1f'),
      Column('memory, MiB', 'peak_mib', '.0f'),
      Column('accuracy, %', 'accuracy', '.2f', 100),
      Column(
        f'against `{result["baseline"]}`', _unless_baseline(result, 'gain'), '+.2f', 100
      ),
      *(
        Column(f'steps to {100 * float(target):g} %', _steps_to(target), 's')
        for target in rows[0]['steps_to']
      ),
      *(
        Column(
          f'accuracy at {100 * float(share):g} % of the steps, %',
          lambda row, share=share: row['accuracy_at'][share],
          '.1f',
          100,
        )
        for share in rows[0]['accuracy_at']
      ),
      Column('inputs moved by a grid update, %', 'moved', '.1f', 100),
      Column('loss', 'loss', '.3f'),
      Column('clipped, % of steps', 'clipped', '.1f', 100),
    ]
    out.append(_lay_out_means(result, columns))
  return '\n'.join(out)


def _lay_out_means(result: Mapping[str, Any], columns: Sequence[Column]) -> str:
  """Lays out the settings of a sweep below the number of seeds and the hardware."""
  rows = result['settings']
  head = f'Means over {rows[0]["seeds"]} seeds ± standard error, {hardware(result)}:'
  return f'{head}\n\n{markdown_table(layout.filled(columns, rows), rows)}'


def _steps_to(target: str):
  """Returns the cell of a target: steps, and how many of the runs reached it."""

  def find(row: Mapping[str, Any]) -> str:
    found = row['steps_to'][target]
    if not found['reached']:
      return layout.DASH
    text = layout.format_value(found, '.0f')
    is_all = found['reached'] == row['seeds']
    return text if is_all else f'{text} ({found["reached"]} of {row["seeds"]})'

  return find


def _sweeps(
  results: Results, comparison: str, patterns: Sequence[str]
) -> list[Mapping]:
  found = select(results, 'sweep', patterns)
  return [result for result in found if result.get('comparison') == comparison]


def _codec_of_sweep(result: Mapping[str, Any]) -> str:
  return result['runs'][0]['files'][0]['codec']


def _unless_baseline(result: Mapping[str, Any], key: str):
  return lambda row: '' if row['setting'] == result['baseline'] else row[key]


# --- studies and times --------------------------------------------------------------


def study(results: Results, *patterns: str) -> str:
  """Lays out the numbers of a study (``launch/studies``), a column for each image."""
  out = []
  for result in select(results, 'study', patterns):
    images = result['images']
    several = len(images) > 1
    lines = []
    for key, head in result['columns'].items():
      values = [one['numbers'].get(key) for one in images]
      whole = key.endswith(_TIMES) or all(isinstance(x, int) for x in values)
      form = '.0f' if whole else '.2f'
      cells = [layout.format_value(value, form) for value in values]
      mean = result['means'].get(key, '')
      lines.append(
        {'head': head, 'cells': cells, 'mean': layout.format_value(mean, form)}
      )
    columns = [
      Column('', 'head'),
      *(
        Column(one['image'], lambda x, i=i: x['cells'][i], 's')
        for i, one in enumerate(images)
      ),
      *([Column('mean', 'mean', 's')] if several else []),
    ]
    out.append(markdown_table(columns, lines))
  return '\n'.join(out)


def step_times(results: Results, *patterns: str) -> str:
  """Lays out times of steps (``launch/bench.py images``), a line for each fit."""
  lines = [
    {'result': result, **fit}
    for result in select(results, 'step_times', patterns)
    for fit in result.get('fits', [result])
  ]
  columns = [
    Column('config', lambda x: f'`{config_of(x["result"])}`'),
    Column('images in one program', lambda x: x['result']['pictures'], 's'),
    Column('fit', _size_of_fit, 's'),
    Column('ms a step', 'step_ms', '.1f'),
    Column('quantising', 'quantised_step_ms', '.1f'),
    Column('ms a step and image', 'step_ms_a_picture', '.2f'),
    Column('program, MiB', 'program_mib', '.0f'),
    Column('on', lambda x: hardware(x['result']), 's'),
  ]
  return markdown_table(columns, lines) if lines else ''


def _size_of_fit(fit: Mapping[str, Any]) -> str:
  """Names the counts of a fit, which are its whole numbers."""
  if fit['result'].get('fits') is None:
    return ''
  return ', '.join(f'{n} {key}' for key, n in fit.items() if isinstance(n, int))


def decode_times(results: Results, *patterns: str) -> str:
  """Lays out times of decoding (``launch/bench.py decode``), a line for each file."""
  lines = [
    {'result': result, **row}
    for result in select(results, 'decode_times', patterns)
    for row in result['decoded']
  ]
  columns = [
    Column('file', lambda x: f'`{x["file"]}`'),
    Column('pixels', 'size', 's'),
    Column('bytes', 'bytes', '.0f'),
    Column('ms to decode', 'decode_ms', '.0f'),
    Column('µs a pixel', 'decode_us_a_pixel', '.2f'),
    Column('on', lambda x: hardware(x['result']), 's'),
  ]
  return markdown_table(columns, lines) if lines else ''


def activation_times(results: Results, *patterns: str) -> str:
  """Lays out times of activations (``launch/bench.py activations``)."""
  out = []
  for result in select(results, 'activation_times', patterns):
    columns = [
      Column('activation', lambda x: f'`{x["activation"]}`'),
      Column('parameters', 'parameters', '.0f'),
      Column('ms forward', 'forward_ms', '.1f'),
      Column('ms forward and backward', 'step_ms', '.1f'),
      Column('ms forward, alone', 'alone_forward_ms', '.2f'),
      Column('ms both, alone', 'alone_step_ms', '.2f'),
    ]
    head = (
      f'3x3 convolution, {result["channels"]} channels in and out, '
      f'{result["images"]}, {hardware(result)}:'
    )
    out.append(f'{head}\n\n{markdown_table(columns, result["activations"])}')
  return '\n'.join(out)


def layer_times(results: Results, *patterns: str) -> str:
  """Lays out times of KAN layers (``launch/bench.py kan``)."""
  out = []
  for result in select(results, 'layer_times', patterns):
    rows = result['layers']
    base = next((r for r in rows if r['layer'] == 'dense, same shape'), None)
    columns = [
      Column('layer', 'layer'),
      Column('parameters', 'parameters', '.0f'),
      Column('ms forward', 'forward_ms', '.2f'),
      Column('ms forward and backward', 'step_ms', '.2f'),
    ]
    if base is not None:
      ratio = lambda row, base=base: row['step_ms'] / base['step_ms']
      columns.append(Column('times the dense layer of the same shape', ratio, '.1f'))
    head = (
      f'{result["shape"]}, {result["grid"]} intervals, batches of {result["batch"]}, '
      f'{hardware(result)}:'
    )
    out.append(f'{head}\n\n{markdown_table(columns, rows)}')
  return '\n'.join(out)


def memory(results: Results, *patterns: str) -> str:
  """Lays out the memory of training steps (``launch/studies/memory.py``)."""
  out = []
  for result in select(results, 'memory', patterns):
    columns = [
      Column('config', lambda x: f'`{x["config"]}`'),
      Column('batch', 'batch', 's'),
      Column('parameters', 'parameters', ',.0f'),
      Column('state and batch, MiB', 'arguments_mib', ',.0f'),
      Column('temporaries, MiB', 'temporaries_mib', ',.0f'),
      Column('together, MiB', 'total_mib', ',.0f'),
    ]
    head = (
      f"`{result['command']}`: XLA's count for a step compiled for "
      f"{result['compiled_for']}, which an accelerator's differs from."
    )
    out.append(f'{head}\n\n{markdown_table(columns, result["steps"])}')
  return '\n'.join(out)

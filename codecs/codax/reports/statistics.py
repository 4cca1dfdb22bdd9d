"""Statistics of sweeps: means over seeds, rates at equal quality, ratios.

All of it is arithmetic on numbers that were measured on files. `content` is always what
``launch/sweep.py`` writes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from codax.errors import CodaxError
from codax.metrics import rate
from codax.reports import histories

_OF_HISTORY = tuple(
  'step_ms peak_mib parameters grad_variation grad_spikes clipped'.split()
)
# Shares of all steps after which accuracies are told: epochs 5, 15 and 30 of 50, which
# bound the bands of the guide to KANs.
SHARES = (0.1, 0.3, 0.6)
METRICS = ('perplexity', 'usage', 'psnr')
# Numbers of a file that are compared by other means than their average, or name it.
_NOT_AVERAGED = {'bpp', 'estimated_bits', 'lmbda', 'height', 'width', 'channels'}


def compare(content: Mapping[str, Any]) -> dict[str, Any]:
  """Compares the settings of a finished sweep.

  Args:
    content: contents of a sweep.

  Returns:
    'comparison', the name of the comparison, and 'settings', its rows: 'curves' (see
    `curves`) for a grid without a baseline; for one of classifiers 'accuracies' (see
    `accuracies`); for one with a target 'trainings' (see `trainings`); for one with a
    baseline alone 'ablation' (see `ablation`) if all files were made with lambdas, or
    else 'gains' (see `gains`).
  """
  if content.get('baseline') is None:
    return {'comparison': 'curves', 'settings': curves(content)}
  if content.get('accuracy_targets'):
    return {'comparison': 'accuracies', 'settings': accuracies(content)}
  if content.get('target') is not None:
    return {'comparison': 'trainings', 'settings': trainings(content)}
  if all('lmbda' in row for run in content['runs'] for row in run['files']):
    return {'comparison': 'ablation', 'settings': ablation(content)}
  return {'comparison': 'gains', 'settings': gains(content)}


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
  """Computes a mean and its standard error.

  Returns:
    {'mean', 'error'}; both None if a value is NaN or infinite or there is none, the
    error None for a single value.
  """
  values = np.asarray(values, np.float64)
  if not len(values) or not np.isfinite(values).all():
    return {'mean': None, 'error': None}
  error = None
  if len(values) > 1:
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
  return {'mean': float(values.mean()), 'error': error}


# --- curves of trained codecs -------------------------------------------------------


def saving_at(curve: Any, point: Mapping[str, float]) -> float:
  """Computes the percentage of a point's rate that a curve saves at the point's PSNR.

  Args:
    curve: rows with 'bpp' and 'psnr'.
    point: one such row.

  Returns:
    Percent, negative where the curve needs more; NaN where it does not reach.
  """
  rates = [row['bpp'] for row in curve]
  found = rate.rate_at(rates, [row['psnr'] for row in curve], point['psnr'])
  return 100 * (1 - found / point['bpp'])


def _saving_over(curve: Any, anchor: Any) -> tuple[float, float]:
  """Returns the percentage saved over the PSNR that both cover, and that share."""
  columns = lambda rows: ([r['bpp'] for r in rows], [r['psnr'] for r in rows])
  shared = rate.overlap(columns(anchor)[1], columns(curve)[1])
  try:
    return -rate.bd_rate(*columns(anchor), *columns(curve)), shared
  except CodaxError:  # too few points that rise
    return math.nan, shared


def curves(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Averages runs over seeds, and compares their curves of files at equal PSNR.

  Args:
    content: 'runs', each with 'setting', 'seed', 'metrics' (of the last
      evaluation) and 'curve' (rows of lmbda, bpp and psnr, means over images), and the
      grid's 'nominal', 'searched' and 'nearest'.

  Returns:
    One dict a setting, in the grid's order: 'setting', 'seeds' (their number) and
    numbers {'mean', 'error'}: `METRICS`; 'file_bpp' and 'file_psnr' at the nominal
    lmbda; and by the other setting 'saving_nearest' and 'saving_searched', percent at
    equal PSNR, seed by seed. The latter also have 'overlap', the mean share of the PSNR
    range that they are about.
  """
  runs = {(run['setting'], run['seed']): run for run in content['runs']}
  out = []
  for name, of_setting in _by_setting(content).items():
    row = {'setting': name, 'seeds': len(of_setting)}
    for key in METRICS:
      values = [run['metrics'].get(key, math.nan) for run in of_setting]
      row[key] = mean_and_error(values)
    if content.get('nominal') is not None:
      points = [_nominal(content, run) for run in of_setting]
      for key in ('bpp', 'psnr'):
        row[f'file_{key}'] = mean_and_error([p.get(key, math.nan) for p in points])
    row |= {
      'saving_nearest': _savings(
        content.get('nearest', ()), of_setting, runs,
        lambda curve, anchor: (saving_at(curve, anchor[0]), None),
      ),
      'saving_searched': _savings(
        content.get('searched', ()), of_setting, runs, _saving_over
      ),
    }  # fmt: skip
    out.append(row)
  return out


def _savings(others, of_setting, runs, saving) -> dict[str, dict[str, float | None]]:
  """Averages the savings of a setting against each of `others`, seed by seed."""
  out = {}
  for other in others:
    pairs = [
      saving(run['curve'], runs[other, run['seed']]['curve'])
      for run in of_setting
      if (other, run['seed']) in runs
    ]
    out[other] = mean_and_error([value for value, _ in pairs])
    shares = [share for _, share in pairs]
    if None not in shares:
      out[other]['overlap'] = float(np.mean(shares)) if shares else 0.0
  return out


def _nominal(content: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, float]:
  for row in run['curve']:
    if row['lmbda'] == content['nominal']:
      return row
  return {}


# --- codecs that train on each image, against a baseline ----------------------------


def costs(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], float]:
  """Computes J = MSE (of values in [0, 1]) + lambda * bpp, by image and lambda."""
  found = {}
  for row in rows:
    mse = 10 ** (-float(row['psnr']) / 10)
    found[row['image'], row['lmbda']] = mse + row['lmbda'] * row['bpp']
  return found


def ablation(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Compares the cost and the size of a setting's files with those of the baseline.

  Args:
    content: sweep with a baseline. Runs have 'files' with 'image', 'point',
      'lmbda', 'bytes', 'bpp' and 'psnr', and further numbers.

  Returns:
    One dict a setting, in the grid's order: 'setting'; 'problems', the number of files
    that are compared; 'log_j' and 'log_bytes', each {'mean', 'error'} over them of
    log(value / that of the baseline), of J (see `costs`) and of the file's size; means
    of the further numbers; and 'step_ms', of an image, the mean over seeds (None where
    nobody measured it).
  """
  out = []
  for name, pairs in _against_baseline(content).items():
    ratios, sizes = [], []
    for run, base in pairs:
      theirs = costs(base['files'])
      ratios += [math.log(j / theirs[key]) for key, j in costs(run['files']).items()]
      sizes += [math.log(a['bytes'] / b['bytes']) for a, b in _file_pairs(run, base)]
    times = [run['metrics'].get('step_ms_a_picture', math.nan) for run, _ in pairs]
    out.append({
      'setting': name,
      'problems': len(ratios),
      'log_j': mean_and_error(ratios),
      'log_bytes': mean_and_error(sizes),
      **_averages(row for run, _ in pairs for row in run['files']),
      'step_ms': mean_and_error(times)['mean'],
    })  # fmt: skip
  return out


def gains(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Compares a setting's files with the baseline's curves of size and PSNR.

  Args:
    content: sweep with a baseline. Runs have 'files' with 'image', 'point',
      'bytes', 'psnr' and further numbers.

  Returns:
    One dict a setting, in the grid's order: 'setting'; 'files', the number that are
    compared; {'mean', 'error'} over them of 'gain', dB above the baseline's curve of
    the same image (see `psnr_at`) at the file's own size, and of 'log_bytes', log(size
    / that of the baseline's file); and means of 'bytes', 'psnr' and further numbers.
  """
  out = []
  for name, pairs in _against_baseline(content).items():
    found, sizes = [], []
    for run, base in pairs:
      for row, theirs in _file_pairs(run, base):
        curve = [other for other in base['files'] if other['image'] == row['image']]
        found.append(float(row['psnr']) - psnr_at(curve, row['bytes']))
        sizes.append(math.log(row['bytes'] / theirs['bytes']))
    scores = {'gain': mean_and_error(found), 'log_bytes': mean_and_error(sizes)}
    means = _averages(row for run, _ in pairs for row in run['files'])
    out.append({'setting': name, 'files': len(found), **scores, **means})
  return out


# --- trainings at equal settings ----------------------------------------------------


def trainings(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Averages what trainings reached and how, over seeds.

  Args:
    content: sweep with a target and a baseline. Runs have 'metrics' (of the last
      evaluation), 'history' (see `histories.read`), and 'files' and 'curve' (see
      `curves`), which may be empty.

  Returns:
    One dict a setting, in the grid's order: 'setting'; 'seeds', number of runs;
    'reached', number of those that reached the target; and numbers {'mean', 'error'}:
    'psnr', 'ssim' and 'bpp', of files, or where there are none of the last evaluation,
    whose 'bpp' is an estimate; 'file_bpp', of files only; 'gain', dB against the
    baseline's run of the same seed; 'log_j', log of the cost J of files over the
    baseline's, at the lambdas of the curves and of the same seed; 'steps_to_target' of
    the runs that reached it; 'active_units'; and those of the history.
  """
  out = []
  for name, pairs in _against_baseline(content).items():
    rows = [_describe_training(run, content['target']) for run, _ in pairs]
    bases = [_describe_training(base, content['target']) for _, base in pairs]
    means = {key: mean_and_error([row[key] for row in rows]) for key in rows[0]}
    steps = [row['steps_to_target'] for row in rows]
    reached = [step for step in steps if math.isfinite(step)]
    out.append({
      'setting': name,
      'seeds': len(rows),
      'reached': len(reached),
      **means,
      'steps_to_target': mean_and_error(reached),
      'gain': mean_and_error([a['psnr'] - b['psnr'] for a, b in zip(rows, bases)]),
      'log_j': mean_and_error([_log_cost(*pair) for pair in pairs]),
    })  # fmt: skip
  return out


def _log_cost(run: Mapping[str, Any], base: Mapping[str, Any]) -> float:
  """Averages the log-ratios of J of two curves of files; NaN where there are none."""
  ours, theirs = (
    costs(
      {'lmbda': row['lmbda'], 'image': name, **one}
      for row in each.get('curve', ())
      for name, one in row['images'].items()
    )
    for each in (run, base)
  )
  ratios = [math.log(cost / theirs[key]) for key, cost in ours.items()]
  return float(np.mean(ratios)) if ratios else math.nan


def _describe_training(run: Mapping[str, Any], target: float) -> dict[str, float]:
  """Collects the numbers of a run that `trainings` averages; NaN where one misses."""
  metrics, history, files = run['metrics'], run['history'], run['files']
  number = lambda found, key: math.nan if found.get(key) is None else found[key]
  of_files = lambda key: float(np.mean([f[key] for f in files])) if files else math.nan
  steps = histories.steps_to(target, history.get('psnr', ()))
  return {
    'psnr': of_files('psnr') if files else number(metrics, 'psnr'),
    'ssim': of_files('ssim') if files else number(metrics, 'ssim'),
    'bpp': of_files('bpp') if files else number(metrics, 'rate_bpp'),
    'file_bpp': of_files('bpp'),
    'active_units': number(metrics, 'active_units'),
    'steps_to_target': math.nan if steps is None else steps,
    **{key: number(history, key) for key in _OF_HISTORY},
  }


def accuracies(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Averages what trainings of classifiers reached and how fast, over seeds.

  Args:
    content: sweep with 'accuracy_targets', accuracies to reach, and a baseline. Runs
      have 'metrics' (of the held-out images) and 'history', see `histories.read`.

  Returns:
    One dict a setting, in the grid's order: 'setting'; 'seeds', number of runs; numbers
    {'mean', 'error'}: 'accuracy', 'top5' and 'loss' of the held-out images, 'gain',
    accuracy against the baseline's run of the same seed, and those of the history, with
    'moved'; 'steps_to', by target {'mean', 'error', 'reached'}: steps of the runs that
    reached it, in evaluations under way, and the number of these runs; 'accuracy_at',
    numbers by share of the steps (see `SHARES`): accuracies of evaluations under way.
  """
  out = []
  for name, pairs in _against_baseline(content).items():
    row: dict[str, Any] = {'setting': name, 'seeds': len(pairs)}
    for key in ('accuracy', 'top5', 'loss'):
      values = [run['metrics'].get(key, math.nan) for run, _ in pairs]
      row[key] = mean_and_error(values)
    gains = [a['metrics']['accuracy'] - b['metrics']['accuracy'] for a, b in pairs]
    row['gain'] = mean_and_error(gains)
    for key in (*_OF_HISTORY, 'moved'):
      row[key] = _mean_of_known([run['history'].get(key) for run, _ in pairs])
    row['steps_to'], row['accuracy_at'] = {}, {}
    for target in content['accuracy_targets']:
      steps = [
        histories.steps_to(target, run['history']['accuracy']) for run, _ in pairs
      ]
      steps = [x for x in steps if x is not None]
      row['steps_to'][f'{target:g}'] = mean_and_error(steps) | {'reached': len(steps)}
    for share in SHARES:
      values = [histories.find_accuracy(share, run['history']) for run, _ in pairs]
      row['accuracy_at'][f'{share:g}'] = _mean_of_known(values)
    out.append(row)
  return out


def _mean_of_known(values: Sequence[float | None]) -> dict[str, float | None]:
  """Averages numbers; without a mean if one is not known."""
  return mean_and_error([math.nan if x is None else x for x in values])


def psnr_at(curve: Sequence[Mapping[str, float]], size: float) -> float:
  """Interpolates the PSNR of a curve at a file size: linear in log(bytes).

  Args:
    curve: rows with 'bytes' and 'psnr', two or more sizes.
    size: bytes. Beyond the curve its last two points go on in a line.

  Raises:
    CodaxError: fewer than two sizes.
  """
  points = sorted({row['bytes']: row['psnr'] for row in curve}.items())
  if len(points) < 2:
    raise CodaxError('a curve needs files of two sizes')
  logs = np.log([p[0] for p in points])
  values = [p[1] for p in points]
  left = int(np.clip(np.searchsorted(logs, math.log(size)) - 1, 0, len(points) - 2))
  share = (math.log(size) - logs[left]) / (logs[left + 1] - logs[left])
  return float(values[left] + share * (values[left + 1] - values[left]))


def _by_setting(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
  found: dict[str, list[Mapping[str, Any]]] = {}
  for run in content['runs']:
    found.setdefault(run['setting'], []).append(run)
  return found


def _against_baseline(content: Mapping[str, Any]) -> dict[str, list[tuple[Any, Any]]]:
  """Groups runs by setting, each with the baseline's run of the same seed."""
  runs = {(run['setting'], run['seed']): run for run in content['runs']}
  return {
    name: [(run, runs[content['baseline'], run['seed']]) for run in of_setting]
    for name, of_setting in _by_setting(content).items()
  }


def _file_pairs(run: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple]:
  """Pairs the files of two runs by image and point."""
  key = lambda row: (row['image'], row['point'])
  theirs = {key(row): row for row in base['files']}
  return [(row, theirs[key(row)]) for row in run['files']]


def _averages(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
  """Averages the numbers that all rows have."""
  rows = list(rows)
  is_number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  return {
    key: float(np.mean([row[key] for row in rows]))
    for key in rows[0]
    if key not in _NOT_AVERAGED and all(is_number(row.get(key)) for row in rows)
  }

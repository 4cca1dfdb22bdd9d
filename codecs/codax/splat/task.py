"""The Gaussian codec for ``launch/train.py``: the data set is what it encodes.

Every picture is fitted once for each number of Gaussians, or of bits per pixel, that
the configuration asks for; with `config.at_once` several are fitted by one program.
What is done is kept, and the same command goes on after it.
"""

import collections
import csv
import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from codax import files, provenance
from codax.codec import Encoded
from codax.data.images import pictures
from codax.errors import CodaxError, OutOfReach, unknown
from codax.per_image import result
from codax.per_image.result import Finished, Outcome
from codax.splat import (
  codebooks,
  counts,
  encode,
  fit,
  geometry,
  seeding,
  snapshots,
  trained,
)
from codax.splat.format import container, integer, quality_layers, stream, vectors
from codax.splat.recipe import CODINGS, Recipe
from codax.training import settings, stopping

_CHOICES = {'kind': geometry.KINDS, 'how': integer.RENDERS, 'coding': CODINGS}
_RANGES = {
  'stages': (1, vectors.MAX_STAGES),
  'entries': (0, vectors.MAX_ENTRIES),
  'layers': (1, quality_layers.MOST),
  'every': (1, 2**16),
  'growths': (1, 2**16),
  'solved': (0, 2**16),
}
_MOST = {'commitment': 1, 'evenly': 1, 'first': 1}  # of other numbers
_COLUMNS = (
  'label', 'gaussians', 'file_bpp', 'psnr', 'psnr_float', 'psnr_rounded',
  'bits_per_gaussian', 'positions_bits', 'positions_raw', 'unlisted', 'steps',
  'seconds', 'shape_distortion', 'colour_distortion', 'attribute_ratio', 'missed',
)  # fmt: skip
# What the report's rows have beside what is measured of every codec's files.
_FACTS = (
  'gaussians', 'psnr_float', 'positions_bits', 'positions_raw', 'seconds', 'prefixes',
  'vectors', 'distortion_begun', 'attribute_ratio',
)  # fmt: skip


class Job(NamedTuple):
  """One file to make.

  Attributes:
    label: names it.
    name: of the picture.
    image: uint8 [H, W, 3].
    plan: how.
  """

  label: str
  name: str
  image: np.ndarray
  plan: encode.EncodeConfig


class Missed(NamedTuple):
  """A picture whose target is out of reach, and why."""

  why: str


def _check_range(key: str, value: Any, low: int, high: int) -> None:
  if not (_is(value, int) and low <= value <= high):
    raise CodaxError(f'config.{key} is {value}; valid: {low} to {high}')


def _is(value: Any, kind: type) -> bool:
  """Whether it is a finite number of a kind; True and False are none."""
  is_one = isinstance(value, kind) and not isinstance(value, bool)
  return is_one and math.isfinite(value)


def _check_share(key: str, value: Any) -> None:
  """A number of a recipe that has no range of its own."""
  most = _MOST.get(key, math.inf)
  if not (_is(value, int | float) and 0 <= value <= most):
    valid = '0 or more' if most == math.inf else f'0 to {most}'
    raise CodaxError(f'config.recipe.{key} is {value}; valid: {valid}')


def recipe_of(config: Mapping[str, Any]) -> Recipe:
  """The checked recipe of ``config.recipe``."""
  given = dict(config['recipe'].items())
  for key, value in given.items():
    if key not in Recipe._fields:
      raise unknown('config key', f'recipe.{key}', Recipe._fields)
    if key in _CHOICES:
      if value not in _CHOICES[key]:
        raise unknown(f'config.recipe.{key}', value, _CHOICES[key])
    elif key in _RANGES:
      _check_range(f'recipe.{key}', value, *_RANGES[key])
    elif key == 'adapted':
      if not isinstance(value, bool):
        raise CodaxError(f'config.recipe.adapted is {value}; valid: True, False')
    elif key != 'steps':
      _check_share(key, value)
  steps = dict(given['steps'].items())
  for key, value in steps.items():
    if key not in integer.Steps._fields:
      raise unknown('config key', f'recipe.steps.{key}', integer.Steps._fields)
    _check_range(f'recipe.steps.{key}', value, *stream.STEP_RANGES[key])
  given['steps'] = integer.Steps(**steps)
  made = Recipe(**given)
  for key in ('first', 'least'):
    if getattr(made, key) == 0:
      raise CodaxError(f'config.recipe.{key} is 0; valid: numbers above 0')
  if made.grown >= 1:
    raise CodaxError(f'config.recipe.grown is {made.grown}; valid: 0 to below 1')
  if made.layers > 1 and made.coding != 'scalar':
    raise CodaxError('config.recipe.layers is for config.recipe.coding=scalar')
  return made


def plans(config: Mapping[str, Any]) -> dict[str, encode.EncodeConfig]:
  """The plan of each file of a picture, by what its label ends with."""
  sizes, bpps = (np.ravel(config[key]).tolist() for key in ('counts', 'bpps'))
  if sizes and bpps:
    raise CodaxError('give config.counts or config.bpps, not both')
  for n in sizes:
    if not (_is(n, int | float) and n == int(n) and n > 0):
      raise CodaxError(f'config.counts has {n}; valid: whole numbers above 0')
  for b in bpps:
    if not (_is(b, int | float) and b > 0):
      raise CodaxError(f'config.bpps has {b}; valid: numbers above 0')
  _check_range('total_steps', config['total_steps'], 1, 2**31 - 1)
  _check_range('seed', config['seed'], 0, 2**32 - 1)
  base = encode.EncodeConfig(
    recipe_of(config), config['total_steps'], seed=config['seed']
  )
  found = {f'_{n:g}': base._replace(count=int(n)) for n in sizes}
  found |= {f'_{b:g}bpp': base._replace(bpp=float(b)) for b in bpps}
  return found or {'': base}


def jobs(config: Mapping[str, Any]) -> list[Job]:
  """What there is to do; files of a picture in the order of the configuration.

  Raises:
    CodaxError: a bad configuration, or a count that a picture cannot have.
  """
  made = plans(config)
  found = [
    Job(name + suffix, name, image, plan)
    for name, image in pictures(config['data'])
    for suffix, plan in made.items()
  ]
  for job in found:
    if job.plan.count is not None:
      try:
        counts.given(job.plan.count, job.image)
      except CodaxError as e:
        raise CodaxError(f'{job.name}: {e}') from e
  return found


def groups(todo: list[Job], most: int) -> dict[str, list[Job]]:
  """What is fitted together, by a name: pictures of one size, with as many slots for
  Gaussians, and with codebooks of one size.

  Args:
    todo: all there is.
    most: how many together; 1 is each by itself, 0 all that can be.
  """
  alike, out = collections.defaultdict(list), {}
  for job in todo:
    count, recipe = counts.first(job.image, job.plan), job.plan.recipe
    shape = [seeding.slots(count)]
    if recipe.coding == 'vector':
      # made before all Gaussians are there, they depend on how many there are then
      late = recipe.quantised_from >= recipe.grown
      shape.append(codebooks.entries(recipe, count) if late else count)
    alike[(*job.image.shape[1::-1], *shape)].append(job)
  for (width, height, *shape), found in alike.items():
    size, name = most or len(found), '_'.join([f'{width}x{height}', *map(str, shape)])
    for i in range(0, len(found), size):
      out[f'{name}_{i // size}'] = found[i : i + size]
  return out


def run(config: Mapping[str, Any], workdir: Path) -> Outcome:
  """Encodes every picture of the configuration's data set.

  Args:
    config: see `defaults`.
    workdir: gets ``fits/`` (files and what is known of them), ``metrics.csv`` and, for
      each file that was fitted by itself, a picture of the stages of its fit,
      ``pictures/LABEL_stages.png``; of others ``groups/`` keeps the fits.

  A picture whose target is out of reach is passed over, here and when the same command
  is given again; the outcome and ``metrics.csv`` say so.

  Raises:
    CodaxError: a bad configuration, or no picture's target is in reach.
  """
  todo, most = jobs(config), config['at_once']
  _check_range('at_once', most, 0, 2**16)
  settings.check_same(config, workdir)
  settings.save(config, workdir)
  result.check_pictures([(job.name, job.image) for job in todo], workdir)
  together = groups(todo, most) if most != 1 else {j.label: [j] for j in todo}
  done: dict[str, Encoded | Missed] = {}
  with (
    stopping.watch(0.0) as reason,
    tqdm(total=len(todo), unit='file', disable=None) as bar,
  ):
    for name, members in together.items():
      found = {job.label: _load(workdir, job.label) for job in members}
      group = None
      if len(members) > 1 and None in found.values():
        group = _fitted(workdir / 'groups' / f'{name}.safetensors', members, reason)
      for i, job in enumerate(members):
        if found[job.label] is None:
          stopped = reason()
          if not stopped:
            found[job.label] = made = _encode(workdir, job, group, i, reason)
            stopped = isinstance(made, Encoded) and made.stop_reason
          if stopped:
            return Outcome(stopped, [], {})
        bar.update()
      done |= found
  return _outcome(workdir, todo, done)


def _outcome(
  workdir: Path, todo: list[Job], done: dict[str, Encoded | Missed]
) -> Outcome:
  """Of a whole run, in the order of the configuration."""
  _write_csv(workdir / 'metrics.csv', {job.label: done[job.label] for job in todo})
  missed = {label: x.why for label, x in done.items() if isinstance(x, Missed)}
  if len(missed) == len(todo):
    raise CodaxError(f'no target is in reach; {todo[0].label}: {missed[todo[0].label]}')
  finished, sources = [], []
  for job in todo:
    if job.label in missed:
      continue
    details = done[job.label].details
    facts = {key: details[key] for key in _FACTS if key in details}
    facts = {'image': job.name, **facts}
    finished.append(Finished(job.label, job.image, done[job.label], facts))
    sources.append({'seconds': details['seconds'], **details['source']})
  seconds = [one.encoded.details['seconds'] for one in finished]
  metrics = {'seconds_a_file': float(np.mean(seconds))}
  lines = [f'{label}: {why}' for label, why in missed.items()]
  return Outcome(None, finished, metrics, sources, lines)


def _fitted(file: Path, members: list[Job], reason) -> trained.Group | None:
  """Fits a group, or finds it fitted; None if that was stopped."""
  if file.is_file():
    return trained.load(file)
  logging.info('%s: %d pictures', file.stem, len(members))
  begin, plan = time.monotonic(), members[0].plan
  images = [job.image for job in members]
  sizes = [counts.first(job.image, job.plan) for job in members]
  with tqdm(unit='call', disable=None, leave=False) as bar:

    def progress(n: int, total: int) -> None:
      bar.total = total
      bar.update(n - bar.n)

    fits = fit.run_many(
      images, sizes, plan.total, plan.recipe, plan.seed, progress, reason
    )
  if any(facts['stopped'] for _, facts in fits):
    return None
  trained.save(file, fits, time.monotonic() - begin)
  return trained.load(file)


def _encode(
  workdir: Path, job: Job, group: trained.Group | None, place: int, reason
) -> Encoded | Missed:
  """One file, of a fit of its own or of one in a group; kept, if it is whole."""
  logging.info('%s: %d x %d pixels', job.label, *job.image.shape[1::-1])
  seen, look = snapshots.watcher()
  begun = group and group.fits[place]
  try:
    found = encode.encode_image(
      job.image, job.plan, look=look, begun=begun, reason=reason
    )
  except OutOfReach as e:
    logging.warning('%s: %s', job.label, e)
    files.write_text(_missed(workdir, job.label), files.json_text({'missed': str(e)}))
    return Missed(str(e))
  details = found.details | {'source': provenance.source()}
  if group is not None:
    details |= {'source': group.source, 'fitted_together': len(group.fits)}
    details['seconds'] += group.seconds / len(group.fits)
  if found.stop_reason:
    return found  # of half a fit: the same command begins it anew
  if group is None:
    drawn = snapshots.panels(
      job.image, seen, job.plan.recipe, found.data, details['steps']
    )
    snapshots.save(workdir / 'pictures' / f'{job.label}_stages.png', drawn)
  found = found._replace(details=details)
  result.keep(workdir / 'fits', job.label, found)
  return found


def _missed(workdir: Path, label: str) -> Path:
  """Where it is kept that a target is out of reach."""
  return workdir / 'fits' / f'{label}.missed.json'


def _load(workdir: Path, label: str) -> Encoded | Missed | None:
  """What was encoded already, or found to be out of reach."""
  missed = _missed(workdir, label)
  if missed.is_file():
    return Missed(json.loads(missed.read_text(encoding='utf-8'))['missed'])
  return result.kept(workdir / 'fits', label, container.decode)


def _write_csv(path: Path, done: Mapping[str, Encoded | Missed]) -> None:
  out = io.StringIO()
  table = csv.DictWriter(out, _COLUMNS, extrasaction='ignore', lineterminator='\n')
  table.writeheader()
  for label, one in done.items():
    if isinstance(one, Missed):
      table.writerow({'label': label, 'missed': one.why})
    else:
      groups = one.details.get('vectors', {})
      means = {f'{name}_distortion': g['distortion'] for name, g in groups.items()}
      table.writerow({'label': label, **one.details, **means})
  files.write_text(path, out.getvalue())

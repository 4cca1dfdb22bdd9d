"""The Gaussian codec for ``launch/train.py``: the data set is what it encodes.

Every picture is fitted once for each number of Gaussians, or of bits per pixel, that
the configuration asks for; with `config.at_once` several are fitted by one program.
What is done is kept, and the same command goes on after it.
"""

import collections
import csv
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from codax import files, provenance
from codax.codec import Encoded
from codax.data.pictures import pictures
from codax.errors import CodaxError, unknown
from codax.splat import (
  container,
  encode,
  fit,
  geometry,
  integer,
  layers,
  seeding,
  stages,
  stream,
  trained,
  vectors,
)
from codax.splat.recipe import CODINGS, Recipe
from codax.training import settings, stopping
from codax.training.outcome import Finished, Outcome

_CHOICES = {'kind': geometry.KINDS, 'how': integer.RENDERS, 'coding': CODINGS}
_RANGES = {
  'stages': (1, vectors.MAX_STAGES),
  'entries': (0, vectors.MAX_ENTRIES),
  'layers': (1, layers.MOST),
}
_COLUMNS = (
  'label', 'gaussians', 'file_bpp', 'psnr', 'psnr_float', 'psnr_rounded',
  'bits_per_gaussian', 'positions_bits', 'positions_raw', 'steps', 'seconds',
)  # fmt: skip
# What the report's rows have beside what is measured of every codec's files.
_FACTS = (
  'gaussians', 'psnr_float', 'positions_bits', 'positions_raw', 'seconds', 'prefixes',
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
  plan: encode.Plan


def _check_range(key: str, value: Any, low: int, high: int) -> None:
  if not (isinstance(value, int) and low <= value <= high):
    raise CodaxError(f'config.{key} is {value}; valid: {low} to {high}')


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
    elif key != 'steps' and not value >= 0:
      raise CodaxError(f'config.recipe.{key} = {value} must be 0 or more')
  steps = dict(given['steps'].items())
  for key, value in steps.items():
    if key not in integer.Steps._fields:
      raise unknown('config key', f'recipe.steps.{key}', integer.Steps._fields)
    _check_range(f'recipe.steps.{key}', value, *stream.STEP_RANGES[key])
  given['steps'] = integer.Steps(**steps)
  made = Recipe(**given)
  if made.every < 1 or made.growths < 1 or not 0 < made.first <= 1:
    raise CodaxError('config.recipe: every and growths are 1 or more, first is above 0 '
                     'and at most 1')  # fmt: skip
  if made.commitment > 1:
    raise CodaxError(f'config.recipe.commitment is {made.commitment}; valid: 0 to 1')
  if made.layers > 1 and made.coding != 'scalar':
    raise CodaxError('config.recipe.layers is for config.recipe.coding=scalar')
  return made


def plans(config: Mapping[str, Any]) -> dict[str, encode.Plan]:
  """The plan of each file of a picture, by what its label ends with."""
  counts, bpps = (np.ravel(config[key]).tolist() for key in ('counts', 'bpps'))
  if counts and bpps:
    raise CodaxError('give config.counts or config.bpps, not both')
  if not all(x > 0 for x in counts + bpps):
    raise CodaxError('config.counts and config.bpps are numbers above 0')
  if config['total_steps'] < 1:
    raise CodaxError(f'config.total_steps is {config["total_steps"]}; valid: 1 or more')
  base = encode.Plan(recipe_of(config), config['total_steps'], seed=config['seed'])
  found = {f'_{n:g}': base._replace(count=int(n)) for n in counts}
  found |= {f'_{b:g}bpp': base._replace(bpp=float(b)) for b in bpps}
  return found or {'': base}


def jobs(config: Mapping[str, Any]) -> list[Job]:
  """What there is to do; files of a picture in the order of the configuration."""
  made = plans(config)
  return [
    Job(name + suffix, name, image, plan)
    for name, image in pictures(config['data'])
    for suffix, plan in made.items()
  ]


def groups(todo: list[Job], most: int) -> dict[str, list[Job]]:
  """What is fitted together, by a name: pictures of one size, with as many slots for
  Gaussians.

  Args:
    todo: all there is.
    most: how many together; 1 is each by itself, 0 all that can be.
  """
  alike, out = collections.defaultdict(list), {}
  for job in todo:
    slots = seeding.slots(encode.first_count(job.image, job.plan))
    alike[(*job.image.shape[1::-1], slots)].append(job)
  for (width, height, slots), found in alike.items():
    size = most or len(found)
    for i in range(0, len(found), size):
      out[f'{width}x{height}_{slots}_{i // size}'] = found[i : i + size]
  return out


def run(config: Mapping[str, Any], workdir: Path) -> Outcome:
  """Encodes every picture of the configuration's data set.

  Args:
    config: see `defaults`.
    workdir: gets ``fits/`` (files and what is known of them), ``metrics.csv`` and, for
      each file that was fitted by itself, a picture of the stages of its fit,
      ``pictures/LABEL_stages.png``; of others ``groups/`` keeps the fits.

  Raises:
    CodaxError: a bad configuration.
  """
  todo, most = jobs(config), config['at_once']
  _check_range('at_once', most, 0, 2**16)
  settings.check_same(config, workdir)
  settings.save(config, workdir)
  together = groups(todo, most) if most != 1 else {j.label: [j] for j in todo}
  done: dict[str, Encoded] = {}
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
            found[job.label] = encoded = _encode(workdir, job, group, i)
            stopped = encoded.details['stopped']
          if stopped:
            return Outcome(stopped, [], {})
        bar.update()
      done |= found
  return _outcome(workdir, todo, done)


def _outcome(workdir: Path, todo: list[Job], done: dict[str, Encoded]) -> Outcome:
  """Of a whole run, in the order of the configuration."""
  finished, sources = [], []
  for job in todo:
    details = done[job.label].details
    facts = {key: details[key] for key in _FACTS if key in details}
    facts = {'image': job.name, **facts}
    finished.append(Finished(job.label, job.image, done[job.label], facts))
    sources.append({'seconds': details['seconds'], **details['source']})
  _write_csv(workdir / 'metrics.csv', finished)
  seconds = [one.encoded.details['seconds'] for one in finished]
  return Outcome(None, finished, {'seconds_a_file': float(np.mean(seconds))}, sources)


def _fitted(file: Path, members: list[Job], reason) -> trained.Group | None:
  """Fits a group, or finds it fitted; None if that was stopped."""
  if file.is_file():
    return trained.load(file)
  logging.info('%s: %d pictures', file.stem, len(members))
  begin, plan = time.monotonic(), members[0].plan
  images = [job.image for job in members]
  counts = [encode.first_count(job.image, job.plan) for job in members]
  with tqdm(unit='call', disable=None, leave=False) as bar:

    def progress(n: int, total: int) -> None:
      bar.total = total
      bar.update(n - bar.n)

    fits = fit.run_many(
      images, counts, plan.total, plan.recipe, plan.seed, progress, reason
    )
  if any(facts['stopped'] for _, facts in fits):
    return None
  trained.save(file, fits, time.monotonic() - begin)
  return trained.load(file)


def _encode(workdir: Path, job: Job, group: trained.Group | None, place: int):
  """One file, of a fit of its own or of one in a group."""
  logging.info('%s: %d x %d pixels', job.label, *job.image.shape[1::-1])
  seen, look = stages.watcher()
  begun = group and group.fits[place]
  found = encode.analyse(job.image, job.plan, look=look, begun=begun)
  source = {'source': provenance.source(), 'estimated_bits': found.estimated_bits}
  details = found.details | source
  if group is not None:
    details |= {'source': group.source, 'fitted_together': len(group.fits)}
    details['seconds'] += group.seconds / len(group.fits)
  if details['stopped']:
    return found  # of half a fit: the same command begins it anew
  if group is None:
    drawn = stages.panels(
      job.image, seen, job.plan.recipe, found.data, details['steps']
    )
    stages.save(workdir / 'pictures' / f'{job.label}_stages.png', drawn)
  folder = workdir / 'fits'
  files.write_bytes(folder / f'{job.label}.cdx', found.data)
  # the last to be written says that it is done
  files.write_text(folder / f'{job.label}.json', files.json_text(details))
  return found._replace(details=details)


def _load(workdir: Path, label: str) -> Encoded | None:
  """What was encoded already."""
  facts = workdir / 'fits' / f'{label}.json'
  if not facts.is_file():
    return None
  details = json.loads(facts.read_text(encoding='utf-8'))
  data = facts.with_suffix('.cdx').read_bytes()
  return Encoded(data, container.decode(data), details['estimated_bits'], details)


def _write_csv(path: Path, finished: list[Finished]) -> None:
  out = io.StringIO()
  table = csv.DictWriter(out, _COLUMNS, extrasaction='ignore', lineterminator='\n')
  table.writeheader()
  for one in finished:
    table.writerow({'label': one.label, **one.encoded.details})
  files.write_text(path, out.getvalue())

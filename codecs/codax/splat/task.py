"""The Gaussian codec for ``launch/train.py``: the data set is what it encodes.

Every image is fitted once for each number of Gaussians, or of bits per pixel, that the
configuration asks for; with `config.max_batch` several are fitted by one program. See
`per_image.run`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from codax.codec import Encoded
from codax.data.images import load_images
from codax.errors import CodaxError, unknown
from codax.per_image.task import Job, PerImageTask, Session
from codax.splat import (
  bucket_fit,
  codebooks,
  counts,
  encode,
  geometry,
  seeding,
  snapshots,
)
from codax.splat.bucket_fit import StoredFit
from codax.splat.format import container, integer, quality_layers, stream, vectors
from codax.splat.recipe import CODINGS, Recipe

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
  'gaussians', 'file_bpp', 'psnr', 'psnr_float', 'psnr_rounded',
  'bits_per_gaussian', 'positions_bits', 'positions_raw', 'unlisted', 'steps',
  'seconds', 'shape_distortion', 'colour_distortion', 'attribute_ratio',
)  # fmt: skip
# What the report's rows have beside what is measured of every codec's files.
_FACTS = (
  'gaussians', 'psnr_float', 'positions_bits', 'positions_raw', 'seconds', 'prefixes',
  'vectors', 'distortion_begun', 'attribute_ratio',
)  # fmt: skip


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


def plan(config: Mapping[str, Any]) -> list[Job]:
  """Returns the files to make; those of an image in the order of the configuration.

  Raises:
    CodaxError: a bad configuration or image, or a count that an image cannot have.
  """
  named = plans(config)
  found = []
  for name, image in load_images(config['data']):
    for suffix, chosen in named.items():
      try:
        key = _program_key(image, chosen)
      except CodaxError as e:
        raise CodaxError(f'{name}: {e}') from e
      found.append(Job(name + suffix, name, image, chosen, key))
  return found


def _program_key(image: np.ndarray, chosen: encode.EncodeConfig) -> tuple[int, ...]:
  """Returns the slots for Gaussians, and what sets the size of codebooks."""
  count, recipe = counts.first(image, chosen), chosen.recipe
  slots = seeding.slots(count)
  if recipe.coding != 'vector':
    return (slots,)
  # made before all Gaussians are there, they depend on how many there are then
  late = recipe.quantised_from >= recipe.grown
  return slots, codebooks.entries(recipe, count) if late else count


def write(
  config: Mapping[str, Any], job: Job, fitted: StoredFit, session: Session
) -> Encoded:
  """Encodes an image from its fit, and draws the fit's stages if they were recorded."""
  del config
  found = encode.encode_image(
    job.image, job.settings, begun=fitted.result, reason=session.reason
  )
  if fitted.stages and not found.stop_reason:
    drawn = snapshots.panels(
      job.image, fitted.stages, job.settings.recipe, found.data, found.details['steps']
    )
    path = session.workdir / 'images' / f'{job.label}_stages.png'
    snapshots.save(path, drawn)
  return found


def row_facts(job: Job, details: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the columns of a file's row in the report."""
  del job
  return {key: details[key] for key in _FACTS if key in details}


def csv_facts(details: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the distortions of codebooks, if there are some."""
  groups = details.get('vectors', {})
  return {f'{name}_distortion': group['distortion'] for name, group in groups.items()}


PER_IMAGE = PerImageTask(
  plan=plan,
  fit=bucket_fit.fit_bucket,
  pack=bucket_fit.pack,
  unpack=bucket_fit.unpack,
  write=write,
  decode=container.decode,
  row_facts=row_facts,
  columns=_COLUMNS,
  csv_facts=csv_facts,
)

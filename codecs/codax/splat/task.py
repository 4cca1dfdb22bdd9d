"""Declares the Gaussian codec for ``launch/train.py``; its data set is what it encodes.

Every image is fitted once for each number of Gaussians, or of bits per pixel, that the
configuration asks for; with `config.max_batch` several are fitted by one program. See
`per_image.run`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from codax.codec import Encoded
from codax.config import check_present, parse, renamed_in
from codax.data import checks
from codax.data.images import load_images
from codax.errors import CodaxError
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
from codax.splat.defaults import RENAMED
from codax.splat.fit_config import CODINGS, MAX_RDO_SWEEPS, FitConfig
from codax.splat.format import container, integer, quality_layers, stream, vectors
from codax.training import settings as loop_settings

_CHOICES = {
  'covariance': geometry.COVARIANCES,
  'blend': integer.BLENDS,  # files have no other
  'coding': CODINGS,
}
_NUMBERS = (
  'position_lr', 'covariance_lr', 'color_lr', 'final_lr_factor', 'qat_start',
  'rate_weight', 'quality_layer_weight', 'growth_end', 'init_scale', 'min_scale',
  'bin_margin',
)  # fmt: skip
_RANGES = {
  'rvq_stages': (1, vectors.MAX_STAGES),
  'codebook_size': (0, vectors.MAX_ENTRIES),
  'quality_layers': (1, quality_layers.MAX_LAYERS),
  'rdo_sweeps': (0, MAX_RDO_SWEEPS),
  'rebin_every': (1, 2**16),
  'num_growths': (1, 2**16),
  'cg_iterations': (0, 2**16),
  **{key: (0, 1) for key in ('commitment', 'uniform_fraction', 'initial_fraction')},
  **{key: (0, None) for key in _NUMBERS},
}
# Columns of metrics.csv. `shape` and `colour` are names of `vectors.GROUPS`.
_COLUMNS = (
  'gaussians', 'file_bpp', 'psnr', 'psnr_float', 'psnr_rounded',
  'bits_per_gaussian', 'positions_bits', 'positions_raw', 'missing_pair_share',
  'steps', 'seconds', 'shape_distortion', 'colour_distortion', 'attribute_ratio',
)  # fmt: skip
# Details of a file that its row in the report has, beside those of every codec's files.
_ROW_FACTS = (
  'gaussians', 'psnr_float', 'positions_bits', 'positions_raw', 'seconds', 'prefixes',
  'vectors', 'initial_distortion', 'attribute_ratio',
)  # fmt: skip


class _Request(NamedTuple):
  """Keys of a configuration beside its sections.

  Attributes:
    total_steps: steps of each fit.
    seed: seed of everything random.
    counts: numbers of Gaussians, one file of every image for each.
    bpps: targets in bits per pixel, one file of every image for each.
  """

  total_steps: int = 1
  seed: int = 0
  counts: tuple[float, ...] = ()
  bpps: tuple[float, ...] = ()


def _parse_request(config: Mapping[str, Any]) -> _Request:
  """Parses the keys of a configuration beside its sections."""
  known = {*_Request._fields, *RENAMED}
  request = parse(
    config, _Request, 'config',
    ranges={'total_steps': (1, 2**31 - 1), 'seed': (0, 2**32 - 1),
            'counts': (1, None), 'bpps': (0, None)},
    renamed=RENAMED, ignored=[key for key in config if key not in known],
  )  # fmt: skip
  loop_settings.check_keys(config, (*_Request._fields, 'recipe', 'max_batch'))
  check_present(config, ('data', 'recipe'))
  if request.counts and request.bpps:
    raise CodaxError('give config.counts or config.bpps, not both')
  for count in request.counts:
    if count != int(count):
      raise CodaxError(f'config.counts has {count}; valid: whole numbers')
  if 0 in request.bpps:
    raise CodaxError('config.bpps has 0; valid: numbers above 0')
  return request


def parse_recipe(config: Mapping[str, Any]) -> FitConfig:
  """Parses ``config.recipe``.

  Raises:
    CodaxError: an unknown or renamed key, or a value that is not valid.
  """
  renamed = renamed_in(RENAMED, 'recipe')
  recipe = parse(
    config['recipe'], FitConfig, 'config.recipe', choices=_CHOICES, ranges=_RANGES,
    renamed=renamed, nested={'q_steps': _parse_q_steps},
  )  # fmt: skip
  for key in ('initial_fraction', 'min_scale'):
    if getattr(recipe, key) == 0:
      raise CodaxError(f'config.recipe.{key} is 0; valid: numbers above 0')
  if recipe.growth_end >= 1:
    raise CodaxError(
      f'config.recipe.growth_end is {recipe.growth_end}; valid: 0 to below 1'
    )
  if recipe.quality_layers > 1 and recipe.coding != 'scalar':
    raise CodaxError('config.recipe.quality_layers is for config.recipe.coding=scalar')
  if recipe.rdo_sweeps and (recipe.quality_layers > 1 or recipe.coding != 'scalar'):
    raise CodaxError(
      'config.recipe.rdo_sweeps is for config.recipe.coding=scalar without quality '
      'layers; set it to 0'
    )
  return recipe


def _parse_q_steps(section: Mapping[str, Any], path: str) -> integer.QSteps:
  """Parses ``config.recipe.q_steps``."""
  q_steps = parse(section, integer.QSteps, path, ranges=stream.Q_STEP_RANGES)
  for key, value in q_steps._asdict().items():
    if not isinstance(value, int):
      raise CodaxError(f'{path}.{key} is {value}; valid: a whole number')
  return q_steps


def make_plans(config: Mapping[str, Any]) -> dict[str, encode.EncodeConfig]:
  """Returns the settings of each file of an image, by the ending of its label."""
  request = _parse_request(config)
  base = encode.EncodeConfig(
    parse_recipe(config), request.total_steps, seed=request.seed
  )
  plans = {f'_{n:g}': base._replace(count=int(n)) for n in request.counts}
  plans |= {f'_{b:g}bpp': base._replace(bpp=float(b)) for b in request.bpps}
  return plans or {'': base}


def plan(
  config: Mapping[str, Any], pass_over: checks.PassOver = checks.warn
) -> list[Job]:
  """Returns the files to make; those of an image in the order of the configuration.

  Args:
    config: the whole configuration.
    pass_over: called with each bad image if ``config.data.skip_bad`` is set.

  Raises:
    CodaxError: a bad configuration, or images that cannot be used or cannot have the
      counts, all named.
  """
  plans = make_plans(config)
  jobs, bad = [], []
  for name, image in load_images(config['data'], pass_over):
    for suffix, settings in plans.items():
      try:
        key = _program_key(image, settings)
      except CodaxError as e:
        bad.append(checks.BadImage(name, f'{name}: {e}'))
        break
      jobs.append(Job(name + suffix, name, image, settings, key))
  checks.handle(bad, config['data'].get('skip_bad', False), pass_over)
  refused = {one.image for one in bad}
  jobs = [job for job in jobs if job.image_name not in refused]
  if not jobs:
    checks.refuse([one.reason for one in bad], 'no image is left')
  return jobs


def _program_key(image: np.ndarray, settings: encode.EncodeConfig) -> tuple[int, ...]:
  """Returns the slots for Gaussians, and what sets the size of codebooks."""
  count, recipe = counts.choose_count(image, settings), settings.recipe
  slots = seeding.count_slots(count)
  if recipe.coding != 'vector':
    return (slots,)
  # Made before all Gaussians exist, codebooks depend on the number at that time.
  is_late = recipe.qat_start >= recipe.growth_end
  return slots, codebooks.choose_size(recipe, count) if is_late else count


def write(
  config: Mapping[str, Any], job: Job, fitted: StoredFit, session: Session
) -> Encoded:
  """Encodes an image from its fit, and draws the fit's stages if they were recorded."""
  del config
  encoded = encode.encode_image(
    job.image, job.settings, initial_fit=fitted.result, reason=session.reason
  )
  if fitted.stages and not encoded.stop_reason:
    panels = snapshots.draw_panels(
      job.image,
      fitted.stages,
      job.settings.recipe,
      encoded.data,
      encoded.details['steps'],
    )
    path = session.workdir / 'images' / f'{job.label}_stages.png'
    snapshots.save(path, panels)
  return encoded


def row_facts(job: Job, details: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the columns of a file's row in the report."""
  del job
  return {key: details[key] for key in _ROW_FACTS if key in details}


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

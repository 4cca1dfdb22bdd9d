"""Configurations to checked records; nothing here needs JAX."""

from collections.abc import Mapping
from typing import Any

from codax import config as configs
from codax.errors import CodaxError
from codax.layers.kan_spec import Spec
from codax.overfit.defaults import RENAMED, RENAMED_VALUES
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch
from codax.overfit.presets import CHOICES, RunConfig, Steps, TrainConfig
from codax.training import settings

MAX_CANDIDATES = 64
_COUNT = (1, None)
_NOT_NEGATIVE = (0, None)


def parse_arch(config: Mapping[str, Any]) -> Arch:
  """Checks ``config.arch``.

  Raises:
    CodaxError: an unknown or renamed key, or a value that is not valid.
  """
  section = dict(config['arch'].items())
  old = section.get('upsampling')
  new = RENAMED_VALUES['arch.upsampling'].get(old)
  if new is not None:
    raise CodaxError(f'config.arch.upsampling {old!r} was renamed to {new!r}')
  made = configs.parse(
    section,
    Arch,
    'config.arch',
    choices={'activation': archs.ACTIVATIONS, 'upsampling': archs.UPSAMPLINGS},
    ranges={
      'grids': (1, archs.MAX_GRIDS),
      'context': (1, len(archs.WINDOW)),
      'inter_grid_context': (0, len(archs.PARENT_OFFSETS)),
      'convs': (0, archs.MAX_CONVS),
      'entropy': (1, archs.MAX_WIDTH),
      'synthesis': (1, archs.MAX_WIDTH),
    },
    renamed=configs.renamed_in(RENAMED, 'arch'),
    nested={'synthesis_kan': _parse_splines, 'entropy_kan': _parse_splines},
  )
  return archs.check(made)


def _parse_splines(section: Any, path: str) -> Spec | None:
  """Checks the splines of a network; None for dense layers."""
  if section is None:
    return None
  return configs.parse(section, Spec, path, choices={'base': archs.BASES})


def parse_recipe(config: Mapping[str, Any]) -> TrainConfig:
  """Checks ``config.recipe``.

  Raises:
    CodaxError: an unknown or renamed key, or a value that is not valid.
  """
  made = configs.parse(
    config['recipe'],
    TrainConfig,
    'config.recipe',
    choices=CHOICES,
    ranges={
      'learning_rate': _NOT_NEGATIVE,
      'stage2_lr': _NOT_NEGATIVE,
      'clip_norm': _NOT_NEGATIVE,
      'temperature': _NOT_NEGATIVE,
      'noise': _NOT_NEGATIVE,
      'refresh': _COUNT,
      'stage2_patience': _NOT_NEGATIVE,
      'stage2_min_lr': _NOT_NEGATIVE,
    },
    renamed=configs.renamed_in(RENAMED, 'recipe'),
  )
  for key in ('temperature', 'noise'):
    ends = getattr(made, key)
    if len(ends) != 2 or (key == 'temperature' and not min(ends) > 0):
      raise CodaxError(f'config.recipe.{key} = {ends} must be two numbers, of start '
                       'and end; temperatures are above 0')  # fmt: skip
  if not made.stage2_temperature > 0:
    raise CodaxError(
      f'config.recipe.stage2_temperature is {made.stage2_temperature}; valid: above 0'
    )
  if not 0 < made.stage2_decay < 1:
    raise CodaxError(
      f'config.recipe.stage2_decay is {made.stage2_decay}; valid: above 0, below 1'
    )
  if made.noise_distribution == 'kumaraswamy' and min(made.noise) < 1:
    raise CodaxError(
      f'config.recipe.noise = {made.noise} must be 1 or more for '
      "noise_distribution='kumaraswamy'"
    )
  return made


def parse_run(config: Mapping[str, Any]) -> RunConfig:
  """Checks the keys of ``config`` itself that are this family's.

  Raises:
    CodaxError: a renamed or missing key, or a value that is not valid.
  """
  renamed = {old: new for old, new in RENAMED.items() if '.' not in old}
  names = {*RunConfig._fields, *renamed}
  made = configs.parse(
    {key: value for key, value in config.items() if key in names},
    RunConfig,
    'config',
    ranges={
      'total_steps': _COUNT,
      'candidates': (1, MAX_CANDIDATES),
      'warm_steps': _COUNT,
      'lmbdas': _NOT_NEGATIVE,
    },
    renamed=renamed,
  )
  settings.check_keys(config, (*RunConfig._fields, 'arch', 'recipe', 'max_batch'))
  configs.check_present(config, ('data', 'arch', 'recipe'))
  configs.check_range('config.stage2_steps', made.stage2_steps, 0, made.total_steps)
  lmbdas = tuple(map(float, made.lmbdas))
  if not lmbdas or not min(lmbdas) > 0:
    raise CodaxError(f'config.lmbdas is {made.lmbdas}; valid: numbers above 0')
  if len({f'{x:g}' for x in lmbdas}) < len(lmbdas):  # names of files have six digits
    raise CodaxError(f'config.lmbdas {lmbdas} has one twice; valid: different numbers')
  return made._replace(lmbdas=lmbdas)


def stage_steps(run: RunConfig) -> Steps:
  """Divides a run's steps between the two stages."""
  return Steps(run.total_steps - run.stage2_steps, run.stage2_steps)

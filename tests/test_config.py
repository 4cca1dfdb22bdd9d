"""Sections of configurations to checked records."""

from typing import Any, NamedTuple

import ml_collections
import pytest

from codax import config
from codax.errors import CodaxError


class Inner(NamedTuple):
  size: int = 3


class Outer(NamedTuple):
  name: str
  steps: int = 10
  weight: float = 0.5
  is_on: bool = True
  bounds: tuple[float, ...] = (0.1, 0.2)
  mode: str = 'a'
  inner: Inner = Inner()
  anything: Any = None


def parse(**given):
  return config.parse(
    ml_collections.ConfigDict({'name': 'x', **given}),
    Outer,
    'config.outer',
    choices={'mode': ('a', 'b')},
    ranges={'steps': (1, 100), 'weight': (0, None), 'bounds': (None, 1)},
    renamed={'how': 'mode'},
    nested={'inner': lambda section, path: config.parse(section, Inner, path)},
    ignored=('enabled',),
  )


def test_absent_keys_have_their_defaults():
  assert parse() == Outer('x')


def test_given_keys_replace_defaults_and_keep_types():
  made = parse(steps=5, weight=2, is_on=False, bounds=[1, 0.5], mode='b', enabled=1)
  assert made == Outer('x', 5, 2.0, False, (1, 0.5), 'b')
  assert isinstance(made.weight, float) and isinstance(made.bounds, tuple)
  assert parse(bounds=0.3).bounds == (0.3,)
  assert parse(inner={'size': 4}).inner == Inner(4)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'step': 1}, "unknown config key 'outer.step'; did you mean 'outer.steps'"),
    ({'how': 'b'}, 'config key outer.how was renamed to outer.mode'),
    ({'mode': 'c'}, "unknown config.outer.mode 'c'"),
    ({'steps': 0}, 'config.outer.steps is 0; valid: 1 to 100'),
    ({'steps': 1e1}, 'config.outer.steps is 10.0; valid: a whole number'),
    ({'steps': True}, 'config.outer.steps is True; valid: a whole number'),
    ({'weight': -1}, 'config.outer.weight is -1.0; valid: 0 or more'),
    ({'weight': float('nan')}, 'config.outer.weight is nan; valid: a number'),
    ({'weight': 'x'}, "config.outer.weight is 'x'; valid: a number"),
    ({'is_on': 1}, 'config.outer.is_on is 1; valid: True or False'),
    ({'bounds': (0, 2)}, 'config.outer.bounds is 2; valid: 1 or less'),
    ({'bounds': (0, 'x')}, "config.outer.bounds is 'x'; valid: 1 or less"),
    ({'name': 3}, None),
    ({'inner': {'sise': 1}}, "unknown config key 'outer.inner.sise'"),
  ],
)
def test_bad_value_is_one_line_that_names_the_key(given, message):
  if message is None:  # a field without default has no type to check
    assert parse(**given).name == 3
    return
  with pytest.raises(CodaxError) as caught:
    parse(**given)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_missing_key_is_named():
  with pytest.raises(CodaxError, match='config.outer.name is missing'):
    config.parse({}, Outer, 'config.outer')


def test_renamed_keys_of_a_section_are_selected():
  renamed = {'recipe.how': 'recipe.blend', 'at_once': 'max_batch'}
  assert config.renamed_in(renamed, 'recipe') == {'how': 'blend'}

"""results/: up to date in every text, with provenance, whole as their grids are."""

import json
import re
from pathlib import Path

import pytest
from kept import ROOT, script

from codax import families, sweeps
from codax.reports import published, store
from codax.training import flags

RESULTS = ROOT / 'results'
PATHS = sorted([*RESULTS.glob('*.json'), *RESULTS.glob('published/*.json')])
SWEEPS = [path for path in PATHS if json.loads(path.read_bytes())['kind'] == 'sweep']


def test_texts_are_up_to_date():
  tables = script('tables')
  found = store.load_all(RESULTS)
  assert tables.find_stale_files(ROOT, found) == {}
  assert not published.is_stale(RESULTS / tables.PLOT, found)


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_result_has_command_and_versions(path):
  raw = json.loads(path.read_bytes())
  assert raw['schema'] == store.SCHEMA
  result = store.load(path)
  if result['kind'] == 'published':  # by others
    assert all(one['source'] and one['kind'] for one in result['published'])
    return
  assert result['command'].startswith('python launch/')
  assert len(result['commit']) == 40 and result['versions']['jax']
  assert 'cores' in result['hardware']
  # decoders and some encoders run without JAX, which would name the platform
  without_jax = ('decode_times', 'comparison')
  assert 'platform' in result['hardware'] or result['kind'] in without_jax
  if result['kind'] == 'sweep':
    # a baseline's settings are compared over images and lambdas or sizes
    assert result['comparison'] in ('ablation', 'gains') or len(result['seeds']) >= 3
  else:
    request = result.get('request', {})  # of a comparison
    has_chance = result['kind'] != 'memory' and not result['kind'].endswith('_times')
    assert 'seed' in result | request or not has_chance


def in_present_words(run):
  """Overrides of a run; results keep the keys of their day, some of them renamed."""
  defaults = families.entry(families.family(run['files'][0]['codec']), 'defaults')
  keys = flags.RENAMED | defaults.RENAMED
  found = {keys.get(key, key): value for key, value in run['overrides'].items()}
  for key, values in getattr(defaults, 'RENAMED_VALUES', {}).items():
    if key in found:
      found[key] = values.get(found[key], found[key])
  return found


@pytest.mark.parametrize('path', SWEEPS, ids=lambda path: path.stem)
def test_sweep_has_every_setting_of_its_grid(path):
  result = store.load(path)
  grid = sweeps.load(ROOT / re.search(r'--grid=(\S+)', result['command'])[1])
  asked = {
    (setting.name, seed): (setting.config, dict(setting.overrides))
    for setting in grid.settings
    for seed in grid.seeds
  }
  measured = {
    (run['setting'], run['seed']): (run['config'], in_present_words(run))
    for run in result['runs']
  }
  plain = json.loads(json.dumps([list(asked), list(asked.values())]))
  asked = {tuple(k): tuple(v) for k, v in zip(*plain, strict=True)}
  assert sorted(set(asked) - set(measured)) == [], 'settings without a run'
  assert sorted(set(measured) - set(asked)) == [], 'runs of no setting'
  assert measured == asked
  wanted = [setting.name for setting in grid.settings]
  assert [row['setting'] for row in result['settings']] == wanted
  for key in ('preset', 'nominal', 'baseline', 'nearest', 'searched'):
    value = getattr(grid, key)
    value = list(value) if isinstance(value, tuple) else value
    assert (result.get(key) or None) == (value or None), key
  assert all(run['lmbdas'] == list(grid.lmbdas) for run in result['runs'])


def test_claims_have_every_variant_and_column():
  from codax.splat import variants

  result = store.load(RESULTS / 'splat_claims.json', 'study')
  asked, columns = list(variants.VARIANTS), list(variants.COLUMNS)
  assert [x for x in asked if x not in result['variants']] == [], 'variants left out'
  assert [x for x in columns if x not in result['columns']] == [], 'columns left out'
  for image in result['images']:
    assert set(image['fits']) == set(asked)
    # the time of a step is unknown where too few were made
    assert set(columns) - {'qat_time'} <= set(image['numbers'])


def test_no_module_of_tables_names_a_family():
  """Families declare their columns; a table that names one knows too much."""
  folder = Path(published.__file__).parent
  names = {f.name for f in families.FAMILIES.values() if f.kind != 'baseline'}
  for path in folder.glob('*.py'):
    words = set(re.findall(r'\w+', path.read_text(encoding='utf-8')))
    assert not words & names, path.name

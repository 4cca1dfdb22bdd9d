"""Imports point one way (DESIGN, section 2), and light things stay light.

Read from the source, without running it, so that families not written yet are held to
the same rules on the day they appear: every folder of `codax` that is not named below
is a family.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import codax

ROOT = Path(codax.__file__).parent

# What every family may build on. None of it knows a family or the training loop.
BASE = {
  'alpha',
  'arguments',
  'averages',
  'bitstream',
  'bundle',
  'color',
  'console',
  'data',
  'device_peaks',
  'devices',
  'entropy',
  'errors',
  'files',
  'image_io',
  'layers',
  'metrics',
  'config',
  'pretrained',
  'programs',
  'provenance',
  'quality',
  'quantize',
  'readers',
  'signals',
}
# The Codec contract; its registry holds the families' names as text.
CONTRACT = {'codec', 'families', 'rate_control'}
TRAINING = {'training', 'per_image'}
# These sit on top and may use all but the families, which they reach by the registry.
TOP = {'__init__', '__main__', 'cli', 'fitting', 'pillow_plugin', 'reports', 'sweeps'}
# Not needed by the base install, or too heavy to come with `import codax.anything`.
NEVER_AT_THE_TOP_OF_A_MODULE = {
  'clu.metric_writers',
  'pillow_jxl',
  'tensorboard',
  'tensorflow',
  'torch',
  'wandb',
}
# Importable in a moment, so they must not reach these even in several steps.
LIGHT = ['codax', 'codax.bitstream', 'codax.codec', 'codax.cli', 'codax.image_io']
LIGHT += ['codax.color.tags', 'codax.families', 'codax.pretrained', 'codax.config']
LIGHT += ['codax.bundle', 'codax.errors', 'codax.files', 'codax.pillow_plugin']
LIGHT += ['codax.console', 'codax.devices', 'codax.signals']
LIGHT += ['codax.rate_control', 'codax.training.stopping']
LIGHT += ['codax.overfit.codec', 'codax.splat.codec', 'codax.splat.describe']
LIGHT += ['codax.layers.activations']
LIGHT += ['codax.reports.comparisons', 'codax.reports.markers']

FILES = sorted(ROOT.rglob('*.py'))


def part(path):
  """'quantize' for codax/quantize/base.py, 'cli' for codax/cli.py."""
  return path.relative_to(ROOT).parts[0].removesuffix('.py')


OTHER = BASE | CONTRACT | TRAINING | TOP
FAMILIES = {part(f) for f in FILES if f.parent != ROOT} - OTHER


def imports(path, *, at_import_time=False):
  """Absolute names of everything that a file imports, inside functions as well."""
  package = ['codax', *path.relative_to(ROOT).parts[:-1]]
  found, stack = [], [ast.parse(path.read_text())]
  while stack:
    node = stack.pop()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      if at_import_time:
        continue
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      module = '.'.join([*base, *([node.module] if node.module else [])])
      found += [module] + [f'{module}.{alias.name}' for alias in node.names]
    stack += ast.iter_child_nodes(node)
  return found


def inner(path):
  """The parts of codax that a file imports, itself left out."""
  names = [name.split('.') for name in imports(path)]
  used = {name[1] for name in names if name[0] == 'codax' and len(name) > 1}
  # `from codax import encode` names an attribute, not a part.
  return {p for p in used if (ROOT / p).is_dir() or (ROOT / f'{p}.py').exists()} - {
    part(path)
  }


def allowed(name):
  """The parts that this part may import."""
  if name in ('console', 'signals'):
    return set()
  if name == 'errors':
    return {'console', 'signals'}
  if name in ('arguments', 'devices', 'files'):
    return {'errors'}
  if name == 'bitstream':
    return {'arguments', 'errors'}
  if name in ('families', 'rate_control'):
    return BASE | {'codec'}
  if name in BASE | CONTRACT:
    return BASE
  if name == 'per_image':
    return BASE | CONTRACT | {'training'}
  if name in TRAINING | {'baselines'}:
    return BASE | CONTRACT
  if name in TOP:
    return BASE | CONTRACT | TRAINING | TOP | {'baselines'}
  return BASE | CONTRACT | TRAINING  # a family


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_the_floors_below(path):
  name = part(path)
  known = BASE | CONTRACT | TRAINING | TOP | FAMILIES
  assert name in known, f'say in {Path(__file__).name} where {name} belongs'
  wrong = inner(path) - allowed(name)
  assert not wrong, f'{name} may not import {", ".join(sorted(wrong))}'


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_nothing_heavy_or_outside(path):
  names = imports(path)
  outside = {'configs', 'launch', 'tests', 'third_party', 'codecs'}
  assert not outside & {name.split('.')[0] for name in names}
  early = imports(path, at_import_time=True)
  heavy = [
    name
    for name in early
    for no in NEVER_AT_THE_TOP_OF_A_MODULE
    if name == no or name.startswith(no + '.')
  ]
  assert not heavy, f'import {heavy} inside the function that needs it'


def test_checker_finds_every_form_of_import():
  """Relative, inner and attribute forms of import, on a file that is not there."""

  class Fake(type(ROOT)):
    def read_text(self):
      return (
        'from ..quantize import base\nfrom . import model\nimport codax.cli as c\n'
        'def f():\n  from codax import training\n  import tensorflow.io\n'
        'from codax import encode\nfrom codax.splat.model import x\n'
      )

  path = Fake(ROOT / 'overfit' / 'codec.py')
  assert {'codax.quantize.base', 'codax.overfit.model', 'codax.splat.model'} <= set(
    imports(path)
  )
  assert 'tensorflow.io' in imports(path)
  assert 'tensorflow.io' not in imports(path, at_import_time=True)
  assert inner(path) >= {'quantize', 'cli', 'training'} and 'encode' not in inner(path)
  assert 'cli' not in allowed('overfit') and 'splat' not in allowed('overfit')


def fresh(code):
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return set(done.stdout.split())


def test_light_modules_import_no_jax():
  code = f'import sys, {", ".join(LIGHT)}\nprint(*sys.modules)'
  modules = fresh(code)
  assert not {'jax', 'flax', 'orbax', 'grain', 'tensorflow', 'torch'} & modules


def test_import_codax_imports_nothing():
  code = (
    'import sys\nbefore = set(sys.modules)\nimport codax\ncodax.__version__\n'
    'print(*set(sys.modules) - before)'
  )
  assert fresh(code) <= {'codax'}


def test_importing_all_modules_brings_no_tensorflow_or_torch():
  names = [
    '.'.join(['codax', *f.relative_to(ROOT).with_suffix('').parts]).removesuffix(
      '.__init__'
    )
    for f in FILES
    if f.name != '__main__.py'
  ]
  code = f'import sys, {", ".join(names)}\nprint(*sys.modules)'
  assert not {'tensorflow', 'torch'} & fresh(code)

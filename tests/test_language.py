"""Rules of language: docstrings and names.

(a) An attribute or argument line, `name: noun phrase`, never begins with a function
word. (b) Public functions and classes do not have names that say nothing out of their
scope. (c) A function's docstring opens with a verb in the third person, which ruff's
D401 does not allow (it wants the imperative); ruff's D205 holds the rest of the form.
"""

import ast
import re
from pathlib import Path

import pytest

import codax

ROOT = Path(codax.__file__).parent

FUNCTION_WORDS = 'of that what how so where with as by in from for'.split()
ENTRY = re.compile(
  r'^\s+[*\w][\w*, ]*: (' + '|'.join(FUNCTION_WORDS) + r')\b', re.IGNORECASE
)
# A verb in the third person: "Returns", "Encodes".
OPENING = re.compile(r'(?!(This|Its|As|Is|Whereas|Thus)\b)[A-Z][a-z]*s\b')
EMPTY_NAMES = set(
  'one each made found mine own part room some what there kept chosen given asked'
  ' started begun'.split()
)


FILES = sorted(ROOT.rglob('*.py'))
FILES += sorted((Path(__file__).parents[1] / 'launch').rglob('*.py'))


def _name(path):
  """Names a file in a test's id."""
  return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)


def definitions(tree):
  """Yields (node, name) of the module and of everything defined in it."""
  kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
  yield tree, ''
  for node in ast.walk(tree):
    if isinstance(node, kinds):
      yield node, node.name


def other_openings(source):
  """Returns the first lines of functions' docstrings that open with no verb."""
  lines = []
  for node, _ in definitions(ast.parse(source)):
    text = ast.get_docstring(node)
    is_property = 'property' in [
      getattr(d, 'id', '') for d in getattr(node, 'decorator_list', ())
    ]
    if text and isinstance(node, ast.FunctionDef) and not is_property:
      if not OPENING.match(text):
        lines.append(text.splitlines()[0])
  return lines


def wrong_entries(source):
  """Returns the lines of docstrings whose text begins with a function word."""
  lines = []
  for node, _ in definitions(ast.parse(source)):
    for line in (ast.get_docstring(node, clean=False) or '').splitlines()[1:]:
      if ENTRY.match(line):
        lines.append(line.strip())
  return lines


def empty_names(source):
  """Returns the public functions and classes that are called nothing in particular."""
  names = [name for _, name in definitions(ast.parse(source))]
  return [name for name in names if name.lower() in EMPTY_NAMES]


@pytest.mark.parametrize('path', FILES, ids=_name)
def test_docstring_entries_begin_with_a_noun_phrase(path):
  lines = wrong_entries(path.read_text())
  assert not lines, f'{path.name}: ' + '; '.join(lines)


@pytest.mark.parametrize('path', FILES, ids=_name)
def test_public_names_are_not_empty_words(path):
  assert not empty_names(path.read_text())


@pytest.mark.parametrize('path', FILES, ids=_name)
def test_docstring_opens_with_a_verb_in_the_third_person(path):
  lines = other_openings(path.read_text())
  assert not lines, f'{path.name}: ' + '; '.join(lines)


def test_checker_sees_both_kinds_of_mistakes():
  source = (
    'class Kept:\n  """A record.\n\n  Attributes:\n    a, b: what there is.\n'
    '    c: size in pixels.\n    **kwargs: as for `f`.\n  """\n'
  )
  assert wrong_entries(source) == ['a, b: what there is.', '**kwargs: as for `f`.']
  assert empty_names(source) == ['Kept']
  source = (
    'def f():\n  """Returns it."""\ndef g():\n  """The value."""\n'
    'def h():\n  """As `f`."""\n'
    'class C:\n  @property\n  def x(self):\n    """Size."""\n'
  )
  assert other_openings(source) == ['The value.', 'As `f`.']

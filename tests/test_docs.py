"""README.md and docs/: links, paths, commands, keys and worked examples are true."""

import importlib.util
import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from codax import bitstream, bundle, families
from codax.errors import CodaxError

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / 'README.md', ROOT / 'docs'
PAGES = [README, *sorted(DOCS.rglob('*.md'))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TOP = ('codecs', 'configs', 'docs', 'launch', 'results', 'tests', 'third_party')

every_page = pytest.mark.parametrize('page', PAGES, ids=NAMES)


def prose(page):
  """Returns a page without its code blocks."""
  return re.sub(
    r'^ *```.*?^ *```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE
  )


def blocks(page, language='bash'):
  """Lists the code blocks of a page in a language."""
  found = re.findall(r'^( *)```(\w*)\n(.*?)^ *```', page.read_text(), re.DOTALL | re.M)
  return [text for _, name, text in found if name == language]


def commands(page):
  """Lists the commands of the shell blocks of a page, a list of words each."""
  lines = [
    line
    for text in blocks(page)
    for line in text.replace('\\\n', ' ').splitlines()
    if line.strip() and not line.startswith('#')
  ]
  return [
    shlex.split(part, comments=True) for line in lines for part in line.split('&&')
  ]


def heading_id(line):
  """Makes the anchor that GitHub gives a heading."""
  text = re.sub(r'[`*]', '', line.lstrip('#').strip().lower())
  return re.sub(r'[^\w\- ]', '', text).replace(' ', '-')


def test_readme_has_at_most_130_lines():
  assert len(README.read_text().splitlines()) <= 130


@every_page
def test_relative_links_lead_to_files_and_headings(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
    if re.match(r'\w+:', target):
      continue
    path, _, anchor = target.partition('#')
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), f'{page.name}: no {target}'
    if anchor:
      lines = file.read_text().splitlines()
      ids = [heading_id(line) for line in lines if line.startswith('#')]
      assert anchor in ids, f'{page.name}: no heading {target}'


@every_page
def test_numbers_in_prose_do_not_break_their_paragraph(page):
  """A comment at the start of a line would begin an HTML block."""
  assert not re.search(r'^ {0,3}<!-- value', page.read_text(), re.MULTILINE)


@every_page
def test_named_paths_exist(page):
  spans = re.findall(r'`([^`\n]+)`', prose(page))
  for span in spans:
    path = span.split(':')[0].rstrip('/')
    if not path.startswith(tuple(f'{top}/' for top in TOP)):
      continue
    if not re.search(r'\s|[A-Z]{3}', path):  # NAME stands for any
      assert list(ROOT.glob(path)), f'{page.name}: no {span}'


@every_page
def test_commands_name_scripts_configurations_and_options_that_exist(page):
  for words in commands(page):
    options = [word.partition('=') for word in words]
    for word in words:
      if word.startswith(('launch/', 'configs/', 'tests/')):
        assert (ROOT / word).exists(), word
    for name, _, value in options:
      if name in ('--config', '--grid') and value != 'FILE':
        assert (ROOT / value.split(':')[0]).is_file(), value
      if name == '--config' and value:
        configuration(value)  # raises for an argument that the file does not know
    if words[:1] == ['codax'] and not words[1:2] == ['--help']:
      check_codax(words)


def check_codax(words):
  """Parses the words of a `codax` command, as the command does."""
  from codax import cli

  cli._parser().parse_args(words[1:])


def configuration(text):
  """Loads a configuration file with its argument."""
  path, _, argument = text.partition(':')
  spec = importlib.util.spec_from_file_location('configuration', ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(argument) if argument else module.get_config()


def test_every_configuration_is_named():
  text = ''.join(page.read_text() for page in sorted(DOCS.rglob('*.md')))
  for path in [*ROOT.glob('configs/*.py'), *ROOT.glob('configs/grids/*.py')]:
    assert str(path.relative_to(ROOT)) in text, path


def test_every_learned_family_has_its_pages():
  for family in families.FAMILIES.values():
    if family.id is not None:
      assert (DOCS / 'families' / f'{family.name}.md').is_file()
      assert (DOCS / 'format' / f'{family.name}.md').is_file()


# --- tables of keys -------------------------------------------------------------------


def flat_keys(config, prefix=''):
  """Lists the dotted keys of a configuration."""
  found = set()
  for key, value in config.items():
    inner = hasattr(value, 'items') and len(value.items())
    found |= flat_keys(value, f'{prefix}{key}.') if inner else {f'{prefix}{key}'}
  return found


@pytest.mark.parametrize('family', ['vqvae', 'overfit', 'splat', 'vae', 'classify'])
def test_keys_of_configurations_are_explained_and_no_others(family):
  """The tables of a family's page have the keys of its configurations."""
  page = (DOCS / 'families' / f'{family}.md').read_text()
  rows = re.findall(
    r'^\| (`[a-z][^|]+`) \|', page[page.index('## Keys') :], re.MULTILINE
  )
  explained = {key for row in rows for key in re.findall(r'`([^`]+)`', row)}
  keys = set()
  for path in sorted(ROOT.glob('configs/*.py')):
    for argument in ('', ':reference', ':codec'):
      try:
        config = configuration(f'{path.relative_to(ROOT)}{argument}')
      except CodaxError:  # it takes no such argument
        continue
      if config.family == family:
        keys |= flat_keys(config)
  assert not keys - explained
  assert not explained - keys


# --- worked examples ------------------------------------------------------------------

EXAMPLES = {
  'alpha': 'splat_4/left',
  'color': 'splat_3/display_p3',
  'container': 'vqvae_1/unknown_section',
  'vqvae': 'vqvae_1/one_pixel',
  'overfit': 'overfit_1/bare',
  'splat': 'splat_2/one_each',
  'vae': 'vae_1/one_gray_pixel',
}


def example(name):
  """Returns the bytes of a worked example, its page's dump and its table of fields."""
  text = (DOCS / 'format' / f'{name}.md').read_text()
  block = r'<!-- dump: (\S+) -->\n```\n(.*?)```'
  path, dump = re.search(block, text, re.DOTALL).groups()
  assert path == f'tests/golden/{EXAMPLES[name]}.cdx' and f'`{path}`' in text
  lines = [line.split() for line in dump.splitlines()]
  assert [int(line[0], 16) for line in lines] == [16 * i for i in range(len(lines))]
  shown = bytes.fromhex(' '.join(' '.join(line[1:]) for line in lines))
  row = r'^\| 0x([0-9a-f]{2}) \| `([0-9a-f … ]+)` \| (\w[\w ]*) \|(.*)\|$'
  rows = [
    tuple(cell.strip() for cell in cells)
    for cells in re.findall(row, text, re.MULTILINE)
  ]
  return (ROOT / path).read_bytes(), shown, rows


def symbols(name):
  """Lists the table of symbols of a worked example: (row's name, values), in order."""
  text = (DOCS / 'format' / f'{name}.md').read_text()
  table = re.search(r'\| coded \| table \| values \|\n\|[-| ]+\|\n((?:\|.*\n)+)', text)[
    1
  ]
  cells = [line.strip('|').split('|') for line in table.splitlines()]
  return [
    (row[0].strip(), [int(v.replace('−', '-')) for v in row[-1].split(',')])
    for row in cells
  ]


@pytest.mark.parametrize('name', EXAMPLES)
def test_worked_example_is_the_golden_file(name):
  data, shown, _ = example(name)
  assert shown == data


@pytest.mark.parametrize('name', EXAMPLES)
def test_worked_example_fields_are_at_their_offsets(name):
  """The rows follow each other without a gap and cover the file."""
  data, _, rows = example(name)
  ends = [int(offset, 16) for offset, *_ in rows[1:]] + [len(data)]
  assert int(rows[0][0], 16) == 0
  for (offset, text, *_), end in zip(rows, ends):
    field = data[int(offset, 16) : end]
    head, _, tail = text.partition('…')
    if tail:
      assert field.startswith(bytes.fromhex(head)) and field.endswith(
        bytes.fromhex(tail)
      )
    else:
      assert field == bytes.fromhex(text)


@pytest.mark.parametrize('name', EXAMPLES)
def test_worked_example_fields_mean_what_a_reader_finds(name):
  data, _, rows = example(name)
  header, sections = bitstream.read(data, known=None)
  fields = {field: (int(offset, 16), text) for offset, text, field, _ in rows}
  meaning = {field: text for _, _, field, text in rows}
  for field in ('family', 'profile', 'height', 'width', 'channels'):
    assert int(re.match(r'\d+', meaning[field])[0]) == getattr(header, field)
  assert ('bundle id' in fields) == (header.bundle_id is not None)
  kinds = [
    (text, int(offset, 16)) for offset, text, field, _ in rows if field == 'kind'
  ]
  assert [int(text, 16) for text, _ in kinds] == [s.kind for s in sections]
  lengths = [int(more) for *_, field, more in rows if field == 'length']
  assert lengths == [len(s.payload) for s in sections]
  for (_, offset), section in zip(kinds, sections):
    at = offset + 1 + len(bitstream.put_varint(len(section.payload)))
    assert data[at : at + len(section.payload)] == section.payload


def test_worked_example_of_vqvae_is_decoded_by_its_numbers():
  data, *_ = example('vqvae')
  text = (DOCS / 'format/vqvae.md').read_text()
  rows = re.findall(r'^\| (\d+) \| (\d+) \| (\d+) \|$', text, re.MULTILINE)
  prior = bundle.load(ROOT / 'tests/golden/vqvae_1/bundle.safetensors').arrays['prior']
  starts = np.cumsum(prior[0]) - prior[0]
  for code, start, frequency in (map(int, row) for row in rows):
    assert (starts[code], prior[0, code]) == (start, frequency)
  unit = (2**64 - 1) >> 24
  found = (data[0x15] << 56) // unit
  assert f'{found} rounded down: code 7' in text
  assert starts[7] <= found < starts[8]
  below = (0x71 << 56) // unit
  assert f'for {below}, which belongs to code 6' in text.replace('\n', ' ')
  assert starts[6] <= below < starts[7]


def test_worked_example_of_overfit_has_these_symbols(monkeypatch):
  reference = reference_of('overfit', 'reference')
  log = []

  class Decoder(reference.range_coder.Decoder):
    def decode(self, *args):
      found = super().decode(*args)
      log.append([int(v) for v in np.ravel(found)])
      return found

  monkeypatch.setattr(reference.range_coder, 'Decoder', Decoder)
  grids, pixels = reference.decode(example('overfit')[0])
  coded, at = [values for values in log if values], 0
  for name, values in symbols('overfit'):
    found = []
    while len(found) < len(values):
      found, at = found + coded[at], at + 1
    # Values are listed from the least one of their table on, and not from 0.
    least = -3 if name == 'first latent' else -31 if name.endswith('values') else 0
    assert [v + least for v in found] == values, name
  assert grids[0][0, 0] == 0 and pixels[0, 0].tolist() == [5, 0, 18]
  a, b = -72 * 2**10 // 2**7, -130 * 2**10 // 2**7
  assert (a, b) == (-576, -1040)
  assert math.floor(a / 2**7 + 0.5) == -4 and math.floor(b / 2**9 + 0.5) + 32 == 30


def test_worked_example_of_splat_has_these_symbols(monkeypatch):
  reference = reference_of('splat', 'splat_reference')
  log = []

  class Coder(reference.Coder):
    def symbol(self, freqs):
      log.append((len(freqs), super().symbol(freqs)))
      return log[-1][1]

  monkeypatch.setattr(reference, 'Coder', Coder)
  found = reference.decode(example('splat')[0])
  # Least numbers of the tables, by the number of symbols.
  least = {65535: 1, 64: 1, 1024: 1, 4095: -2047, 127: -63}
  coded = [value + least.get(size, 0) for size, value in log]
  listed = [value for _, values in symbols('splat') for value in values]
  assert coded[: len(listed)] == listed and len(coded) == 2 * len(listed)
  first, second = found.layers
  assert first.cells == [(2, 2)] and first.centres == [[180, 160]]
  assert first.white == [((843634, 0), (738179, 185204))]
  assert (first.shape, first.colour) == ([(1, 29, -8)], [(45, -1, -4)])
  assert (second.shape, second.colour) == ([(5, 34, -6)], [(38, -4, -2)])
  assert found.pixels[0][0] == [119, 144, 104]


def test_worked_example_of_vae_has_these_tables_and_symbols(monkeypatch):
  reference = reference_of('vae', 'vae_reference')
  model = reference.load(ROOT / 'tests/golden/vae_1/bundle.safetensors')
  log, outputs, network = [], [], reference.network

  class Coder(reference.Coder):
    def symbol(self, table):
      log.append(super().symbol(table) - len(table) // 2)
      return log[-1] + len(table) // 2

  def run(*args):
    outputs.append(network(*args))
    return outputs[-1]

  monkeypatch.setattr(reference, 'Coder', Coder)
  monkeypatch.setattr(reference, 'network', run)
  found = reference.decode(model, example('vae')[0])
  assert [value for _, values in symbols('vae') for value in values] == log
  text = (DOCS / 'format/vae.md').read_text()
  lines = re.findall(r'^[−\d]+(?:, [−\d]+)+$', text, re.MULTILINE)
  numbers = [[int(x.replace('−', '-')) for x in line.split(', ')] for line in lines]
  index = found.index.ravel().tolist()
  assert numbers == [
    outputs[0][:10], model.arrays['tables/scale'][2].tolist(), index
  ]  # fmt: skip
  assert [reference.scale_index(a + b) for a, b in zip(*numbers[:2])] == index
  assert f'The pixel is {found.pixels.item()}.' in text
  listed = re.findall(r'^\| coefficients? ([\d, ]+) \| (\d+) \|', text, re.MULTILINE)
  for channels, table in listed:
    assert {index[int(c)] for c in channels.split(', ')} == {int(table)}


def reference_of(family, name):
  """Imports a second decoder of the tests."""
  sys.path.insert(0, str(ROOT / 'tests' / family))
  try:
    return importlib.import_module(name)
  finally:
    sys.path.pop(0)

"""README's tables are what results/ says."""

import importlib.util
import json
from pathlib import Path

import pytest

from codax.errors import CodaxError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def tables():
  spec = importlib.util.spec_from_file_location('tables', ROOT / 'launch/tables.py')
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return script


def test_readme_is_up_to_date(tables):
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert tables.fill(text, tables.load_all(ROOT / 'results')) == text


def test_results_say_where_they_come_from(tables):
  found = tables.load_all(ROOT / 'results')
  assert found
  for result in found:
    assert result['command'].startswith('python launch/')
    assert len(result['commit']) == 40 and result['versions']['jax']
    assert {'platform', 'cores'} <= set(result['hardware']) and 'seed' in result


def test_a_table_holds_the_numbers_of_the_files(tables):
  row = {'picture': 'p', 'bytes': 1000, 'bpp': 0.5, 'psnr': 30.126, 'ssim': 0.9}
  result = {
    'name': 'x', 'command': 'python launch/train.py --config=configs/a.py',
    'hardware': {'platform': 'cpu', 'cores': 2},
    'rows': [
      {**row, 'codec': 'vqvae'},
      {**row, 'codec': 'jpeg', 'psnr': 28.0},
      {**row, 'codec': 'webp', 'psnr': 31.0},
    ],
  }  # fmt: skip
  text = tables.fill('a\n<!-- table: runs -->\nold\n<!-- end -->\nb', [result])
  assert 'old' not in text and text.startswith('a\n') and text.endswith('\nb')
  for part in ('| 1000 |', '| 30.13 |', '28.00 dB', '31.00 dB', '2 CPU cores'):
    assert part in text
  with pytest.raises(CodaxError, match='unknown table'):
    tables.fill('<!-- table: nothing -->\n<!-- end -->', [])
  assert json.dumps(result)

"""Markers: tables by name and patterns, numbers in prose, every file that has some."""

import pytest
from kept import held_out, kodak, published, script, sweep

from codax.errors import CodaxError
from codax.reports import markers, store

POINTS = [(0.1, 28.0), (0.2, 30.0), (0.4, 32.0), (0.8, 34.0)]
VTM = {
  'codec': 'VTM',
  'kind': 'file',
  'source': 's',
  'points': [list(p) for p in POINTS],
}


@pytest.fixture
def results():
  settings = [{'setting': 'a.5', 'gain': {'mean': -0.526, 'error': 0.24}, 'files': 8}]
  return [
    {**kodak([(2 * bpp, psnr) for bpp, psnr in POINTS]), 'metrics': {'step_ms': 41.72}},
    {**sweep([], comparison='gains', settings=settings), 'name': 'switches'},
    published(VTM),
  ]


def value(query, results):
  text = f'It takes <!-- value: {query} -->old<!-- end --> of it.'
  found = markers.fill(text, results)
  assert found.startswith(f'It takes <!-- value: {query} -->')
  assert found.endswith('<!-- end --> of it.')
  return found.split('-->')[1].removesuffix('<!-- end ')


@pytest.mark.parametrize(
  ('query', 'text'),
  [
    ('kodak_s.bd_rate_vtm', '+100.0 %'),
    ('kodak_s.bd_rate_vtm .0f %', '100 %'),
    ('kodak_s.psnr_near', '28.97 dB'),
    ('kodak_s.metrics.step_ms', '41.72'),
    ('kodak_s.metrics.step_ms .1f ms', '41.7 ms'),
    ('kodak_s.hardware.cores', '2'),
    ('switches.settings.a.5.gain +.2f dB', '-0.53 ± 0.24 dB'),
    ('switches.settings.a.5.files', '8'),
  ],
)
def test_a_number_in_prose_is_that_of_the_results(results, query, text):
  assert value(query, results) == text


@pytest.mark.parametrize(
  ('query', 'message'),
  [
    ('kodak_t.bd_rate_vtm', "unknown result 'kodak_t'; did you mean 'kodak_s'"),
    ('kodak_s.bd_rate_vtn', "did you mean 'bd_rate_vtm'"),
    ('switches.settings.b.gain', "unknown value of switches 'settings.b.gain'"),
    ('switches.settings', 'is no number'),
  ],
)
def test_a_number_that_is_not_there_is_an_error(results, query, message):
  with pytest.raises(CodaxError, match=message):
    value(query, results)


def test_a_table_is_made_anew_between_its_markers(results):
  text = 'a\n<!-- table: headline -->\nold\n<!-- end -->\nb'
  found = markers.fill(text, results)
  assert 'old' not in found and found.startswith('a\n') and found.endswith('\nb')
  assert '| **codax, `configs/s.py`** | file | 28.97 | +100.0 |' in found
  alias = '<!-- table: mine -->\n<!-- end -->'
  found = markers.fill(alias, results, {'mine': 'points kodak_*'})
  assert found.startswith('<!-- table: mine -->\n`python launch/train.py')
  for name in ('nothing', 'runs_'):
    with pytest.raises(CodaxError, match='unknown table'):
      markers.fill(f'<!-- table: {name} -->\n<!-- end -->', [])


def test_every_table_of_no_results_is_empty():
  for name in markers.TABLES:
    patterns = ' x x*' if name == 'against' else ''
    text = f'<!-- table: {name}{patterns} -->\n<!-- end -->'
    assert markers.fill(text, []) == text


def test_markers_of_readme_and_docs_are_checked_and_filled(
  tmp_path, monkeypatch, capsys
):
  launch = script('tables')
  monkeypatch.setattr(launch, 'ROOT', tmp_path)
  (tmp_path / 'docs' / 'families').mkdir(parents=True)
  row = {'image': 'p', 'point': 'default', 'bytes': 1000, 'bpp': 0.5, 'psnr': 30.0}
  rows = [{**row, 'codec': name} for name in ('vqvae', 'jpeg', 'webp')]
  store.save(tmp_path / 'results' / 'x.json', 'held_out', held_out('x', rows, seed=7))
  paths = [tmp_path / 'README.md', tmp_path / 'docs/families/a.md']
  paths[0].write_text('Seed <!-- value: x.seed --><!-- end -->.\n')
  paths[1].write_text('<!-- table: runs x -->\n<!-- end -->\n')
  assert launch.main(['--check']) == 1
  assert 'docs/families/a.md is not what' in capsys.readouterr().out
  assert launch.main([]) == 0 and launch.main(['--check']) == 0
  assert paths[0].read_text() == 'Seed <!-- value: x.seed -->7<!-- end -->.\n'
  assert '| p | 1000 |' in paths[1].read_text()
  paths[1].write_text('<!-- table: rums -->\n<!-- end -->\n')
  with pytest.raises(CodaxError, match="docs/families/a.md: unknown table 'rums'"):
    launch.main(['--check'])
  with pytest.raises(CodaxError, match='--add needs --name'):
    launch.main(['--add=x'])


def test_old_results_are_rewritten_once(tmp_path, capsys):
  launch = script('tables')
  (tmp_path / 'x.json').write_text('{"decoded": []}')
  launch.upgrade(tmp_path)
  assert 'x.json: of schema 1 now' in capsys.readouterr().out
  assert '"kind": "decode_times"' in (tmp_path / 'x.json').read_text()
  launch.upgrade(tmp_path)
  assert capsys.readouterr().out == ''

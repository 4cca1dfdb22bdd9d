"""Models of the package: their card, their files, `codax models`."""

import json

import pytest

from codax import bundle, cli, families, pretrained
from codax.errors import CodaxError


@pytest.mark.parametrize('name', [one.name for one in pretrained.models()])
def test_every_model_is_whole_and_of_a_known_family(name):
  card = pretrained.model(name)
  assert pretrained.read(name)  # checks the SHA-256
  assert card.family in families.FAMILIES and card.kind in ('bundle', 'init')
  if card.kind == 'bundle':
    assert bundle.load(pretrained.bundle_path(name)).family == card.family
  else:
    assert pretrained.arrays(name)


def test_default_model_of_each_family_exists():
  for family in families.FAMILIES.values():
    if family.default_model is not None:
      assert pretrained.model(family.default_model).family == family.name


def test_damaged_model_is_refused(tmp_path, monkeypatch):
  card = pretrained.models()[0]
  data = bytearray(pretrained.read(card.name))
  data[-1] ^= 1
  (tmp_path / card.file).write_bytes(data)
  monkeypatch.setattr(pretrained, 'FOLDER', tmp_path)
  with pytest.raises(CodaxError, match='is damaged'):
    pretrained.read(card.name)
  (tmp_path / card.file).unlink()
  with pytest.raises(CodaxError, match='install codax again'):
    pretrained.read(card.name)


def test_unknown_model_is_refused_with_the_nearest_name():
  name = pretrained.models()[0].name
  with pytest.raises(CodaxError, match=f"did you mean '{name}'"):
    pretrained.model(name[:-1])


def test_models_command_lists_card_and_sizes(capsys):
  assert cli.main(['models', '--json']) == 0
  listed = json.loads(capsys.readouterr().out)
  assert [one['name'] for one in listed] == [one.name for one in pretrained.models()]
  assert cli.main(['models']) == 0
  text = capsys.readouterr().out
  for one in pretrained.models():
    size = (pretrained.FOLDER / one.file).stat().st_size
    assert f'{one.name} ({one.family}, {size} bytes)' in text and one.sha256 in text


@pytest.mark.parametrize(
  'text', ['', '[{"name": "x"', '[{"name": "x"}]', '{"a": 1}', 'null', '\xff']
)
def test_damaged_card_is_one_line_with_its_name(tmp_path, monkeypatch, text):
  (tmp_path / pretrained.CARD).write_bytes(text.encode('latin-1'))
  monkeypatch.setattr(pretrained, 'FOLDER', tmp_path)
  pretrained.models.cache_clear()
  try:
    with pytest.raises(CodaxError, match=rf'{pretrained.CARD} is damaged: .* again'):
      pretrained.models()
    (tmp_path / pretrained.CARD).unlink()
    with pytest.raises(CodaxError, match=f'{pretrained.CARD}: No such file'):
      pretrained.models()
  finally:
    pretrained.models.cache_clear()


@pytest.mark.parametrize('where', ['data', 'header'])
def test_damaged_bundle_that_a_file_needs_is_named(tmp_path, monkeypatch, where):
  card = next(one for one in pretrained.models() if one.kind == 'bundle')
  path = pretrained.bundle_path(card.name)
  identity = bundle.load(path).id
  data = bytearray(path.read_bytes())
  data[-1 if where == 'data' else 9] ^= 1
  (tmp_path / card.file).write_bytes(data)
  pretrained.models()  # of the whole card
  monkeypatch.setattr(pretrained, 'FOLDER', tmp_path)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(CodaxError, match=f'{card.file} is (missing or )?damaged'):
    pretrained.find_bundle(identity[:8])

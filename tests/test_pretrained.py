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

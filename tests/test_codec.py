"""The registry, the checks around a family, and the search for bundles."""

import os
import pathlib
import pickle
import sys

import fake_family
import numpy as np
import pytest

import codax
from codax import bitstream, bundle, codec, families, pretrained
from codax.errors import CodaxError


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.delenv(pretrained.MODEL_VARIABLE, raising=False)
  monkeypatch.chdir(tmp_path)


def quantised(image, step):
  return np.clip(image.astype(int) // step * step + step // 2, 0, 255)


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 1, 3), (17, 33, 3), (5, 4)])
def test_decoded_image_equals_the_reconstruction(shape):
  image = fake_family.smooth_image(*shape)[..., : shape[2] if len(shape) == 3 else 1]
  image = image.reshape(shape)
  data = codax.encode(image, codec='fake')
  decoded = codax.decode(data)
  assert decoded.dtype == np.uint8 and decoded.ndim == 3
  assert np.array_equal(decoded.reshape(shape), quantised(image, 8))


def test_encode_returns_its_facts_and_reports_progress():
  calls = []
  made = families.get('fake', options=codec.Options(preset='fast', seed=3))
  image = fake_family.smooth_image()
  coded = made.encode(image, progress=lambda done, total: calls.append((done, total)))
  assert calls == [(1, 3), (2, 3), (3, 3)]
  assert np.array_equal(coded.reconstruction, made.decode(coded.data))
  assert coded.data == made.encode(image).data
  assert coded.details['options']['seed'] == 3


def test_unknown_codec_is_refused_with_the_nearest_name():
  with pytest.raises(CodaxError, match="unknown codec 'vqvea'; did you mean 'vqvae'"):
    families.get('vqvea', model='x')
  with pytest.raises(CodaxError, match='unknown option .lambda.; did you mean .lmbda.'):
    codax.encode(fake_family.smooth_image(), 'fake', **{'lambda': 1})
  with pytest.raises(CodaxError, match='unknown preset'):
    codax.encode(fake_family.smooth_image(), 'fake', preset='slow')
  with pytest.raises(AttributeError):
    codax.encoed  # noqa: B018


def test_trained_codec_without_a_model_says_how_to_get_one():
  with pytest.raises(CodaxError, match='--model runs/vqvae_ba'):
    families.get('fake_trained')
  with pytest.raises(CodaxError, match="'jpeg' takes no model"):
    families.get('jpeg', model='runs/vqvae_ba')


@pytest.mark.parametrize(
  'options',
  [
    {'lmbda': 0.0},
    {'bpp': -1.0},
    {'psnr': float('nan')},
    {'bpp': float('inf')},
    {'bpp': 0.5, 'psnr': 30.0},
    {'seed': -1},
    {'seed': 2**32},
  ],
)
def test_bad_options_are_refused(options):
  with pytest.raises(CodaxError):
    families.get('fake', options=codec.Options(**options))


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((4, 4, 3), np.float32),
    np.zeros((4, 4, 3), np.uint16),
    np.zeros((4, 4, 0), np.uint8),
    np.zeros((4, 4, 5), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((4,), np.uint8),
    np.zeros((1, 4, 4, 3), np.uint8),
    np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (70_000, 2, 3), (0, 0, 0)),
    np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2**15, 2**14), (0, 0)),
  ],
)
def test_bad_images_are_refused(image):
  with pytest.raises(CodaxError, match='an image'):
    codax.encode(image, 'fake')


def test_registry_has_unique_names_and_ids():
  entries = families.FAMILIES.values()
  ids = [family.id for family in entries if family.id is not None]
  assert len(set(ids)) == len(ids) and all(1 <= i <= 255 for i in ids)
  assert all(name == family.name for name, family in families.FAMILIES.items())
  assert all(family.kind in families.KINDS for family in entries)
  assert families.FAMILIES['vqvae'].id == 1  # for ever: files carry it
  assert all((f.id is None) == (f.kind in ('baseline', 'model')) for f in entries)
  assert families.with_id(1).name == 'vqvae' and families.with_id(0) is None


def test_files_of_unknown_families_are_refused():
  data = bitstream.write(bitstream.Header(250, 0, 2, 2, 1), [])
  with pytest.raises(bitstream.BitstreamError, match='family 250'):
    codax.decode(data)
  with pytest.raises(bitstream.BitstreamError, match='not a .cdx file'):
    codax.decode(b'\x89PNG....')


def test_model_is_taken_as_bundle_file_or_directory():
  image, made = fake_family.smooth_image(), fake_family.make_bundle(32)
  bundle.save(made, 'run/bundle.safetensors')
  for model in (made, 'run', 'run/bundle.safetensors'):
    data = codax.encode(image, 'fake_trained', model)
    assert bitstream.peek(data).bundle_id == made.id[:8]
    assert np.array_equal(codax.decode(data, model), quantised(image, 32))
  with pytest.raises(bitstream.BitstreamError, match=made.id[:8].hex()):
    codax.decode(data, fake_family.make_bundle(16))


def test_bundle_of_a_file_is_found_in_runs(monkeypatch):
  image, wanted = fake_family.smooth_image(), fake_family.make_bundle(32)
  data = codax.encode(image, 'fake_trained', wanted)
  with pytest.raises(CodaxError, match=f'bundle {wanted.id[:8].hex()}.*--model'):
    codax.decode(data)
  # Other bundles, damaged ones and things that are no bundles are passed over.
  bundle.save(fake_family.make_bundle(16), 'runs/a/bundle.safetensors')
  bundle.save(wanted, 'runs/b/bundle.safetensors')
  with open('runs/b/bundle.safetensors', 'r+b') as f:
    f.seek(-1, os.SEEK_END)
    f.write(b'\x77')
  os.makedirs('runs/c/bundle.safetensors')
  os.makedirs('runs/d')
  with open('runs/d/bundle.safetensors', 'wb') as f:
    f.write(b'\xff' * 100)
  with pytest.raises(CodaxError, match='neither'):
    codax.decode(data)
  bundle.save(wanted, 'runs/e/bundle.safetensors')
  assert np.array_equal(codax.decode(data), quantised(image, 32))


def test_bundle_of_a_file_is_found_by_the_environment(monkeypatch):
  image, wanted = fake_family.smooth_image(), fake_family.make_bundle(32)
  data = codax.encode(image, 'fake_trained', wanted)
  bundle.save(fake_family.make_bundle(16), 'other.safetensors')
  bundle.save(wanted, 'far/run/bundle.safetensors')
  for place in ('far/run', 'far/run/bundle.safetensors'):
    value = os.pathsep.join(['', 'missing', 'other.safetensors', place])
    monkeypatch.setenv(pretrained.MODEL_VARIABLE, value)
    assert np.array_equal(codax.decode(data), quantised(image, 32))


def test_search_reads_only_the_id_of_other_bundles(monkeypatch):
  wanted = fake_family.make_bundle(32)
  for i in range(4):
    bundle.save(fake_family.make_bundle(i + 1), f'runs/{i}/bundle.safetensors')
  bundle.save(wanted, 'runs/x/bundle.safetensors')
  loaded, load = [], bundle.load
  monkeypatch.setattr(bundle, 'load', lambda p: loaded.append(p.parent.name) or load(p))
  assert pretrained.find_bundle(wanted.id[:8]).id == wanted.id
  assert loaded == ['x']


def test_describe_of_a_file_returns_its_facts():
  image, made = fake_family.smooth_image(20, 30, 3), fake_family.make_bundle(32)
  data = codax.encode(image, 'fake_trained', made)
  data = bitstream.add_sections(
    data,
    [bitstream.Section(bitstream.ORIENTATION, b'\x03'), bitstream.Section(0xEE, b'?')],
  )
  facts = families.describe(data)
  assert facts['bpp'] == 8 * len(data) / 600
  assert (facts['height'], facts['width'], facts['channels']) == (20, 30, 3)
  assert facts['family'] == 'fake_trained' and facts['profile'] == 32
  assert facts['bundle_id'] == made.id[:8].hex() and facts['orientation'] == 3
  sizes = {s['name']: s['bytes'] for s in facts['sections']}
  assert list(sizes) == ['codes', 'orientation', '0xee']
  assert sum(sizes.values()) + facts['overhead'] == facts['bytes'] == len(data)
  assert [s['critical'] for s in facts['sections']] == [True, False, False]
  own = families.describe(codax.encode(image, 'fake'))
  assert own['step'] == 8 and isinstance(own['bytes'], int)
  unknown = bitstream.write(
    bitstream.Header(250, 0, 2, 2, 1), [bitstream.Section(9, b'')]
  )
  assert families.describe(unknown)['family'] is None


def test_family_is_imported_when_it_is_used(monkeypatch):
  ghost = families.Family('ghost', 'no_such_module', 'per_image', 99)
  monkeypatch.setitem(families.FAMILIES, 'ghost', ghost)
  assert 'no_such_module' not in sys.modules and 'ghost' in families.codec_names()
  with pytest.raises(ModuleNotFoundError):
    families.get('ghost')


@pytest.mark.parametrize('seconds', [0.0, -1.0, float('nan'), float('inf')])
def test_seconds_that_are_not_positive_are_refused(seconds):
  with pytest.raises(CodaxError, match='seconds must be a positive number'):
    families.get('overfit', options=codec.Options(seconds=seconds))


def test_seconds_for_a_codec_that_does_not_train_are_refused():
  assert families.get('overfit', options=codec.Options(seconds=3)).name == 'overfit'
  with pytest.raises(CodaxError, match="'jpeg' does not train while encoding"):
    families.get('jpeg', options=codec.Options(seconds=3))


def test_codec_without_a_bundle_refuses_a_model():
  with pytest.raises(CodaxError, match="'overfit' takes no model"):
    families.get('overfit', model='runs/x')


def test_seed_of_another_type_is_one_line():
  with pytest.raises(CodaxError, match="seed must be a whole number .* not '1'"):
    codax.encode(fake_family.smooth_image(), 'fake', seed='1')


@pytest.mark.parametrize('data', ['x.cdx', pathlib.Path('x.cdx'), None, 3])
def test_decode_wants_bytes_and_says_so(data):
  with pytest.raises(CodaxError, match='bytes of a .cdx file are wanted, not'):
    codax.decode(data)


def test_pickled_codec_is_made_again_with_its_model_and_options():
  """What a process pool sends: the request, and neither weights nor programs."""
  made = families.get(
    'fake_trained', model=fake_family.make_bundle(24), options=codec.Options(seed=7)
  )
  again = pickle.loads(pickle.dumps(made))
  image = fake_family.smooth_image()
  found, wanted = again.encode(image), made.encode(image)
  assert found.data == wanted.data and found.details == wanted.details
  assert np.array_equal(again.decode(wanted.data), wanted.reconstruction)
  assert len(pickle.dumps(families.get('vqvae'))) < 1000


def test_codec_that_was_changed_is_not_pickled():
  """Its request would make another codec than this one."""
  made = families.get('fake')
  for changed in (made._replace(encode=print), made._replace(decode=print)):
    with pytest.raises(TypeError, match="'fake' cannot be pickled.*in each process"):
      pickle.dumps(changed)

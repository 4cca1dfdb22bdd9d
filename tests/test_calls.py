"""Library calls with the wrong types: one `CodaxError` that says what is valid."""

from pathlib import Path

import fake_family
import numpy as np
import pytest

import codax
from codax import bundle, codec, families
from codax.errors import CodaxError

IMAGE = fake_family.smooth_image()


@pytest.fixture(autouse=True)
def fake(monkeypatch):
  fake_family.register(monkeypatch)


def refuse(text, call, *args, **options):
  """The call is answered by one line with this text."""
  with pytest.raises(CodaxError) as caught:
    call(*args, **options)
  assert text in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'data', ['photo.cdx', Path('photo.cdx'), None, 3, np.zeros(9, np.uint8), [1]]
)
@pytest.mark.parametrize('name', ['decode', 'describe', 'vqvae', 'splat', 'jpeg'])
def test_something_else_than_bytes_is_refused_with_what_to_pass(name, data):
  call = {'decode': codax.decode, 'describe': families.describe}.get(name)
  call = call or families.get(name).decode
  refuse('file are wanted, not', call, data)
  if isinstance(data, str | Path):
    refuse('pass pathlib.Path(...).read_bytes()', call, data)


def test_bytes_of_any_of_pythons_types_are_decoded():
  data = codax.encode(IMAGE, 'fake')
  wanted = codax.decode(data)
  for kind in (bytearray, memoryview):
    assert np.array_equal(codax.decode(kind(data)), wanted)
    assert np.array_equal(families.get('fake').decode(kind(data)), wanted)
    assert families.describe(kind(data))['bytes'] == len(data)


@pytest.mark.parametrize('model', [3, b'x', {}, [], True, IMAGE])
def test_model_of_another_type_is_refused(model):
  text = 'a run directory, a bundle file or a loaded bundle'
  refuse(text, bundle.load, model)
  refuse(text, codax.encode, IMAGE, 'vqvae', model)
  refuse(text, codax.decode, codax.encode(IMAGE, 'vqvae'), model)


@pytest.mark.parametrize('seed', ['1', None, 1.5, -1, 2**32, 2**70, True, [1]])
def test_bad_seed_is_refused(seed):
  refuse('seed must be a whole number from 0 to 2**32 - 1', codax.encode, IMAGE, 'jpeg',
         seed=seed)  # fmt: skip


@pytest.mark.parametrize('name', ['lmbda', 'bpp', 'psnr', 'seconds'])
@pytest.mark.parametrize(
  'value', ['1', 0, -1, True, float('nan'), float('inf'), [1], 1j, 10**400]
)
def test_bad_target_is_refused(name, value):
  text = f'{name} must be a positive number'
  refuse(text, codax.encode, IMAGE, 'jpeg', **{name: value})


def test_numbers_of_numpy_become_those_of_python():
  options = codec.Options(
    lmbda=np.float32(0.5), seed=np.int64(3), extra={'shade': np.float64(9)}
  )
  found = families.get('fake', options=options).encode(IMAGE).details['options']
  assert (found['lmbda'], found['seed'], found['extra']) == (0.5, 3, {'shade': 9})
  kinds = type(found['lmbda']), type(found['seed']), type(found['extra']['shade'])
  assert kinds == (float, int, int)


@pytest.mark.parametrize(
  ('image', 'text'),
  [
    ('photo.png', 'not str: read it first, for example by numpy.asarray(PIL.Image'),
    (Path('photo.png'), 'Path: read it first'),
    (None, 'not NoneType'),
    ([[1, 2], [3]], 'an image must be an array of uint8'),
    (IMAGE.tolist(), 'an image must be uint8, not int64'),
    (np.float32(IMAGE), 'an image must be uint8, not float32'),
  ],
)
def test_something_else_than_an_image_is_refused(image, text):
  refuse(text, codax.encode, image)
  refuse(text, codax.encode, image, 'jpeg')


@pytest.mark.parametrize('options', [None, {'bpp': 1}, 3])
def test_options_of_another_type_are_refused(options):
  refuse('options must be a codax.codec.Options', families.get, 'jpeg', options=options)


@pytest.mark.parametrize('extra', [None, 3, ('shade',)])
def test_family_options_of_another_type_are_refused(extra):
  options = codec.Options(extra=extra)
  refuse('extra must be a dict of options', families.get, 'fake', options=options)
  refuse("unknown option 'extra'", codax.encode, IMAGE, 'fake', extra=extra)


def test_progress_that_is_no_function_is_refused():
  for name in ('fake', 'jpeg', 'splat'):
    text = 'progress must be a function or None, not 3'
    refuse(text, codax.encode, IMAGE, name, progress=3)


@pytest.mark.parametrize('name', [3, b'jpeg', ['jpeg'], True, 'JPEG'])
def test_unknown_name_of_a_codec_is_refused(name):
  refuse('unknown codec', codax.encode, IMAGE, name)
  refuse('unknown family', families.family, name)

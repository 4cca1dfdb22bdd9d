"""Pillow opens and saves `.cdx` files: lazily, with metadata, with its own errors."""

import io
import os

import fake_family
import icc_samples
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image, UnidentifiedImageError

import codax.pillow_plugin
from codax import bitstream, bundle, families, pretrained
from codax.bitstream import Section
from codax.color.sections import identify, make_sections
from codax.color.spaces import ADOBE_RGB, DISPLAY_P3, ColorSpace


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.delenv(pretrained.MODEL_VARIABLE, raising=False)
  monkeypatch.chdir(tmp_path)


def saved(image, name='fake', model=None, extra=()):
  data = bitstream.add_sections(families.encode(image, name, model), extra)
  with open('x.cdx', 'wb') as f:
    f.write(data)
  return data


@pytest.mark.parametrize('shape', [(1, 1, 1), (17, 33, 1), (1, 1, 3), (17, 33, 3)])
def test_opened_file_has_the_decoded_pixels(shape):
  data = saved(smooth_image(*shape))
  for source in ('x.cdx', io.BytesIO(data)):
    with Image.open(source) as im:
      assert im.size == (shape[1], shape[0]) and im.format == 'CDX'
      assert im.mode == {1: 'L', 3: 'RGB'}[shape[2]]
      assert np.array_equal(np.array(im).reshape(shape), families.decode(data))
      assert np.array_equal(np.array(im.copy()).reshape(shape), families.decode(data))


def test_opening_is_lazy_and_decoding_happens_once(monkeypatch):
  saved(smooth_image())
  calls, decode = [], families.decode
  monkeypatch.setattr(families, 'decode', lambda data: calls.append(1) or decode(data))
  with Image.open('x.cdx') as im:
    assert im.size == (33, 17) and calls == []
    im.load()
    im.load()
    assert im.getpixel((0, 0)) and im.resize((5, 5)).size == (5, 5)
  assert calls == [1]


def test_opened_file_has_its_metadata():
  profile = icc_samples.rgb(gamma=1.9)
  extra = [Section(bitstream.ICC, profile), Section(bitstream.ORIENTATION, b'\x06')]
  saved(smooth_image(), extra=extra)
  with Image.open('x.cdx') as im:
    assert im.info['icc_profile'] == profile
    assert im.getexif()[0x0112] == 6
    im.load()
    assert im.getexif()[0x0112] == 6
  saved(smooth_image())
  with Image.open('x.cdx') as im:
    assert 'icc_profile' not in im.info and not im.getexif()


def test_opened_file_has_a_profile_of_its_color_space():
  monitor = icc_samples.rgb(icc_samples.GENERIC, 1.9)
  for color in (ColorSpace(DISPLAY_P3), ColorSpace(ADOBE_RGB), ColorSpace(icc=monitor)):
    saved(smooth_image(), extra=make_sections(color))
    with Image.open('x.cdx') as im:
      assert identify(im.info['icc_profile'], 3) == color
  saved(smooth_image(), extra=[Section(bitstream.ICC, monitor[:-1])])
  with Image.open('x.cdx') as im:
    assert 'icc_profile' not in im.info
  saved(smooth_image(), extra=[Section(bitstream.COLOR, b'')])
  with pytest.raises(OSError, match='section color'):
    Image.open('x.cdx')


def test_opened_file_of_a_trained_codec_finds_its_bundle(monkeypatch):
  made = fake_family.make_bundle(32)
  data = saved(smooth_image(), 'fake_trained', made)
  with Image.open('x.cdx') as im:
    assert im.size == (33, 17)  # without the bundle
    with pytest.raises(OSError, match=made.id[:8].hex()) as caught:
      im.load()
    # the way that users of the plug-in have, and not that of the command
    assert 'set the environment variable CODAX_MODEL' in str(caught.value)
    assert '--model' not in str(caught.value)
    bundle.save(made, 'elsewhere/bundle.safetensors')
    monkeypatch.setenv('HOME', os.getcwd())
    monkeypatch.setenv(pretrained.MODEL_VARIABLE, '~/elsewhere')
    assert np.array_equal(np.array(im), families.decode(data, made))


def test_damaged_file_is_an_os_error():
  data = saved(smooth_image())
  for i in (4, 5, len(data) // 2, len(data) - 1):
    bad = bytearray(data)
    bad[i] ^= 0x10
    with pytest.raises(OSError, match='damaged|version'):
      Image.open(io.BytesIO(bad))
  for n in (4, 10, len(data) - 1):
    with pytest.raises(OSError, match='cut short'):
      Image.open(io.BytesIO(data[:n]))
  with pytest.raises(UnidentifiedImageError):
    Image.open(io.BytesIO(b'\xc3DY\n' + data[4:]))
  header, _ = bitstream.read(data)
  with pytest.raises(OSError, match='orientation'):
    wrong = [Section(1, b''), Section(bitstream.ORIENTATION, b'\x09')]
    Image.open(io.BytesIO(bitstream.write(header, wrong)))
  with Image.open(io.BytesIO(bitstream.write(header, [Section(1, b'junk')]))) as im:
    with pytest.raises(OSError, match='codes are damaged'):
      im.load()


def test_plugin_is_registered_for_the_suffix():
  assert Image.registered_extensions()['.cdx'] == 'CDX'
  assert Image.MIME['CDX'] == 'image/x-codax'
  codax.pillow_plugin.register()
  assert Image.ID.count('CDX') == 1


def test_saved_file_is_the_one_that_encode_makes():
  for shape in ((17, 33, 3), (17, 33, 1), (1, 1, 3)):
    im = Image.fromarray(smooth_image(*shape).squeeze(-1 if shape[2] == 1 else ()))
    im.save('x.cdx', codec='fake', shade=4)
    with open('x.cdx', 'rb') as f:
      assert f.read() == families.encode(smooth_image(*shape), 'fake', shade=4)
  im.save('x.cdx', codec='fake')
  with Image.open('x.cdx') as back:
    assert back.mode == 'RGB' and back.size == (1, 1)


@pytest.mark.parametrize(
  ('mode', 'saved_mode'),
  [
    ('1', 'L'), ('L', 'L'), ('LA', 'LA'), ('P', 'RGB'), ('RGBA', 'RGBA'),
    ('RGBX', 'RGB'), ('CMYK', 'RGB'), ('YCbCr', 'RGB'), ('HSV', 'RGB'),
  ],
)  # fmt: skip
def test_each_8_bit_mode_is_saved(mode, saved_mode):
  rgba = np.dstack([smooth_image(), np.full((17, 33), 9, np.uint8)])
  im = Image.fromarray(rgba if 'A' in mode else smooth_image()).convert(mode)
  out = io.BytesIO()
  im.save(out, 'CDX', codec='fake', shade=1)
  with Image.open(out) as back:
    assert back.mode == saved_mode
    assert np.array_equal(np.array(back), np.array(im.convert(saved_mode)))


def test_transparent_color_and_palette_entry_are_saved_as_alpha():
  image = smooth_image()
  keyed = Image.fromarray(image)
  keyed.info['transparency'] = tuple(map(int, image[3, 4]))
  gray = Image.fromarray(image[..., 0])
  gray.info['transparency'] = int(image[3, 4, 0])
  palette = Image.fromarray(image).quantize(8)
  palette.info['transparency'] = 3
  for im, is_clear in (
    (keyed, (image == image[3, 4]).all(-1)),
    (gray, image[..., 0] == image[3, 4, 0]),
    (palette, np.array(palette) == 3),
  ):
    im.save('x.cdx', codec='fake')
    with Image.open('x.cdx') as back:
      assert np.array_equal(np.array(back)[..., -1] == 0, is_clear)


def test_saved_file_keeps_profile_and_orientation():
  exif = Image.Exif()
  exif[0x0112] = 6
  profile = icc_samples.rgb(gamma=1.9)
  Image.fromarray(smooth_image()).save('in.png', exif=exif, icc_profile=profile)
  with Image.open('in.png') as im:
    im.save('x.cdx', codec='fake')
    im.save('y.cdx', codec='fake', exif=exif.tobytes(), icc_profile=None)
  with Image.open('x.cdx') as back:
    assert back.getexif()[0x0112] == 6 and back.info['icc_profile'] == profile
  with Image.open('y.cdx') as back:
    assert back.getexif()[0x0112] == 6 and 'icc_profile' not in back.info


@pytest.mark.parametrize(
  ('im', 'options', 'reason'),
  [
    (Image.new('F', (3, 3)), {}, 'mode F has no 8-bit'),
    (Image.new('I;16', (3, 3)), {}, 'mode I;16 has no 8-bit'),
    (Image.new('RGB', (3, 3)), {'codec': 'none'}, 'unknown codec'),
    (Image.new('RGB', (3, 3)), {'codec': 'jpeg'}, 'does not write .cdx'),
    (Image.new('RGB', (3, 3)), {'codec': 'fake', 'shade': 0}, 'shade must be'),
    (Image.new('RGB', (3, 3)), {'codec': 'fake', 'shape': 1}, 'unknown option'),
    (Image.new('RGB', (3, 3)), {'codec': 'fake', 'quality': 101}, 'quality'),
    (
      Image.new('RGB', (3, 3)), {'codec': 'fake', 'icc_profile': b'no'},
      'profile does not fit',
    ),
  ],
)  # fmt: skip
def test_image_that_cannot_be_saved_leaves_no_file(im, options, reason, tmp_path):
  with pytest.raises(OSError, match=reason):
    im.save('x.cdx', **options)
  assert not (tmp_path / 'x.cdx').exists()

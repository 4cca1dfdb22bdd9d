"""Images of people, through `codax encode` and `codax decode`: right, or refused."""

import fake_family
import image_makers
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image

from codax import cli, families, image_io


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.chdir(tmp_path)


def through(name):
  """Reads what a file becomes by both commands."""
  assert cli.main(['encode', name, '-o', 'x.cdx', '--codec', 'fake']) == 0
  assert cli.main(['decode', 'x.cdx', '-o', 'out.png']) == 0
  return image_io.read('out.png').pixels


def coded(pixels):
  return families.decode(families.encode(pixels, 'fake'))


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 1, 3), (17, 33, 1), (17, 33, 3)])
def test_image_of_an_odd_size_comes_back(shape, capsys):
  pixels = smooth_image(*shape)
  Image.fromarray(pixels.squeeze(-1) if shape[2] == 1 else pixels).save('in.png')
  assert np.array_equal(through('in.png'), coded(pixels))
  assert capsys.readouterr().err == ''


def test_palette_comes_back_as_its_colors(capsys):
  im = Image.fromarray(smooth_image()).quantize(16)
  im.save('in.png')
  assert np.array_equal(through('in.png'), coded(np.array(im.convert('RGB'))))
  assert 'palette' in capsys.readouterr().err


@pytest.mark.parametrize('channels', [1, 3])
def test_16_bit_image_is_reduced_and_says_so(channels, capsys):
  pixels = smooth_image(c=channels)
  with open('in.png', 'wb') as f:
    f.write(image_makers.png(pixels.astype(int) * 257))
  assert np.array_equal(through('in.png'), coded(pixels))
  assert (
    'note: in.png: 16-bit samples were reduced to 8 bits' in capsys.readouterr().err
  )


def test_cmyk_comes_back_as_rgb_and_says_so(capsys):
  im = Image.fromarray(smooth_image()).convert('CMYK')
  im.save('in.tif')
  assert np.array_equal(through('in.tif'), coded(np.array(im.convert('RGB'))))
  assert 'CMYK' in capsys.readouterr().err


def test_floating_point_image_is_refused_in_one_line(capsys):
  Image.fromarray(np.zeros((4, 4), np.float32)).save('in.tif')
  assert cli.main(['encode', 'in.tif', '-o', 'x.cdx', '--codec', 'fake']) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: in.tif: floating-point') and err.count('\n') == 1

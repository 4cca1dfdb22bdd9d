"""Color spaces written into image files, and the look of images on the way."""

import io

import icc_samples as samples
import numpy as np
import pytest
from fake_family import register, smooth_image
from PIL import Image, ImageCms

from codax import cli, image_io
from codax.color import boxes, output, png, profiles, recognition, spaces
from codax.color.spaces import ColorSpace
from codax.image_io import ImageFile

MONITOR = ColorSpace(icc=samples.rgb(samples.GENERIC, 1.9))
RGB_SPACES = [ColorSpace(code) for code in recognition.CANDIDATES] + [MONITOR]
RGB_SPACES += [ColorSpace(bytes([1, 1])), ColorSpace(bytes([9, 14]))]
HDR = [ColorSpace(bytes([9, 16])), ColorSpace(bytes([9, 18]))]
GREY_SPACES = [ColorSpace(code) for code in recognition.GREY_CANDIDATES]
GREY_SPACES.append(ColorSpace(icc=samples.grey(1.9)))


def write(color, kind, channels=3):
  """(file, notes about colors) of an image in this space."""
  image = ImageFile(smooth_image(16, 24, channels), color)
  data, notes = image_io.format_image(image, kind)
  return data, [note for note in notes if 'exactly' not in note]


def read(data):
  return image_io.read_bytes(data, 'x')


def chunks(data):
  return png.read_chunks(io.BytesIO(data))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF'])
def test_color_space_written_is_read_back(kind):
  for color in RGB_SPACES:
    data, notes = write(color, kind)
    found = read(data)
    if color.code in (b'\1\1', b'\x09\x0e') and kind not in ('PNG',):
      # readers differ about this transfer: its profile is left alone
      assert found.color.icc == profiles.make_profile(color.code, 3)
    else:
      assert found.color == color
    assert notes == [] and found.notes == ()


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF'])
def test_color_space_of_grey_written_is_read_back(kind):
  for color in GREY_SPACES:
    data, notes = write(color, kind, 1)
    assert read(data).color == color and notes == []


def test_srgb_is_a_chunk_in_png_and_nothing_elsewhere():
  for channels in (1, 3):
    data, _ = write(ColorSpace(), 'PNG', channels)
    assert chunks(data)[b'sRGB'] == b'\0' and not {b'iCCP', b'cICP'} & set(chunks(data))
    with Image.open(io.BytesIO(data)) as im:
      assert im.info['srgb'] == 0
  for kind in ('JPEG', 'WEBP', 'TIFF'):
    with Image.open(io.BytesIO(write(ColorSpace(), kind)[0])) as im:
      assert 'icc_profile' not in im.info


def test_png_has_codes_and_a_profile_for_older_readers():
  data, _ = write(ColorSpace(spaces.DISPLAY_P3), 'PNG')
  assert chunks(data)[b'cICP'] == bytes([12, 13, 0, 1]) and b'sRGB' not in chunks(data)
  with Image.open(io.BytesIO(data)) as im:
    assert im.info['icc_profile'] == profiles.make_profile(spaces.DISPLAY_P3, 3)
  data, _ = write(ColorSpace(spaces.ADOBE_RGB), 'PNG')
  assert b'cICP' not in chunks(data)
  for color in GREY_SPACES:
    assert b'cICP' not in chunks(write(color, 'PNG', 1)[0])


@pytest.mark.parametrize('color', HDR)
def test_high_dynamic_range_is_kept_where_codes_are(color):
  for kind in ('PNG', 'AVIF'):
    data, notes = write(color, kind)
    assert read(data).color == color and notes == []
  data, notes = write(color, 'PNG', 1)  # of grey as well
  assert read(data).color == color and notes == []
  for kind in ('JPEG', 'WEBP', 'TIFF'):
    data, notes = write(color, kind)
    name = spaces.name_code(color.code, 3)
    assert notes == [f'{kind} holds no such color space: {name} was dropped']


def test_narrow_range_is_kept_in_png_alone():
  color = ColorSpace(b'\x09\x12\0')
  data, notes = write(color, 'PNG')
  assert chunks(data)[b'cICP'] == bytes([9, 18, 0, 0]) and notes == []
  assert read(data).color == color
  data, notes = write(color, 'AVIF')
  assert 'narrow range was dropped' in notes[0]
  assert boxes.read_nclx(io.BytesIO(data))[:2] == (1, 13)


def test_space_of_a_newer_version_is_dropped_with_a_note():
  for kind in ('PNG', 'JPEG', 'PPM'):
    _, notes = write(ColorSpace(b'\x63'), kind)
    assert len(notes) == 1 and 'space 99 (of a newer codax) was dropped' in notes[0]


@pytest.mark.parametrize('kind', ['PPM', 'BMP', 'GIF', 'TGA', 'JPEG2000'])
def test_format_without_color_spaces_says_so_unless_it_is_srgb(kind):
  for color in (ColorSpace(), ColorSpace(icc=samples.rgb())):
    assert write(color, kind)[1] == []
  for color, name in (
    (ColorSpace(spaces.DISPLAY_P3), 'Display P3'),
    (MONITOR, '"a test"'),
  ):
    _, notes = write(color, kind)
    assert len(notes) == 1 and f'{kind} holds no color space' in notes[0]
    assert name in notes[0]


def test_codes_in_avif_change_no_pixel():
  plain, _ = write(ColorSpace(), 'AVIF')
  coded, _ = write(HDR[0], 'AVIF')
  assert np.array_equal(read(plain).pixels, read(coded).pixels)
  assert len(plain) == len(coded)


def test_profile_for_other_programs_is_none_for_srgb():
  assert output.to_icc(ColorSpace(), 3) is None
  assert output.to_icc(MONITOR, 3) == MONITOR.icc
  assert output.to_icc(HDR[0], 3) is None


# --- The look -------------------------------------------------------------------------


def shown(pixels, profile):
  """Pixels as LittleCMS shows them on a display of sRGB."""
  srgb = ImageCms.createProfile('sRGB')
  source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else srgb
  im = Image.fromarray(pixels.squeeze())
  return np.array(ImageCms.profileToProfile(im, source, srgb, outputMode='RGB'))


PAPER = samples.grey(curve=samples.table(256, lambda x: 0.8 * x**1.7 + 0.2 * x))
LOOKS = {
  'none': (None, 3),
  'sRGB of 1998': (samples.rgb(), 3),
  'sRGB of LittleCMS': (samples.lcms_srgb(), 3),
  'tiny sRGB': (samples.rgb(curve=samples.small_table()), 3),
  'Display P3': (samples.display_p3(), 3),
  'Adobe RGB': (samples.rgb(samples.ADOBE_RGB, 2.2), 3),
  'ProPhoto RGB': (samples.rgb(samples.PROPHOTO, 1.8, white=samples.D50), 3),
  'monitor': (MONITOR.icc, 3),
  'table': (samples.lut(b'RGB '), 3),
  'grey gamma 2.2': (samples.grey(2.2), 1),
  'grey paper': (PAPER, 1),
}


@pytest.mark.parametrize('suffix', ['png', 'tif', 'webp'])
@pytest.mark.parametrize('name', LOOKS)
def test_decoded_image_is_shown_as_the_original_would_be(
  name, suffix, monkeypatch, tmp_path, capsys
):
  """Through `codax encode` and `codax decode`; the same pixels under both profiles."""
  profile, channels = LOOKS[name]
  register(monkeypatch)
  monkeypatch.chdir(tmp_path)
  pixels = smooth_image(24, 40, channels)
  Image.fromarray(pixels.squeeze()).save('in.png', icc_profile=profile)
  assert cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec', 'fake']) == 0
  assert cli.main(['decode', 'x.cdx', '-o', f'out.{suffix}']) == 0
  assert capsys.readouterr().err == ''
  with Image.open(f'out.{suffix}') as im:
    found, decoded = im.info.get('icc_profile'), np.array(im)
  grey = decoded[..., :1] if decoded.ndim == 3 else decoded[..., None]
  original = decoded if channels == 3 else grey
  difference = shown(decoded, found).astype(int) - shown(original, profile)
  assert np.abs(difference).max() <= 1


def test_file_of_a_usual_profile_is_as_small_as_without(monkeypatch, tmp_path, capsys):
  register(monkeypatch)
  monkeypatch.chdir(tmp_path)
  sizes = {}
  for name, (profile, channels) in LOOKS.items():
    image = smooth_image(24, 40, channels)
    Image.fromarray(image.squeeze()).save('in.png', icc_profile=profile)
    assert cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec', 'fake']) == 0
    sizes[name] = (tmp_path / 'x.cdx').stat().st_size
    told = 'for color space and orientation' in capsys.readouterr().out
    assert told == (sizes[name] > sizes['none']) or channels == 1
    assert cli.main(['info', 'x.cdx']) == 0
    line = next(
      x for x in capsys.readouterr().out.splitlines() if x.startswith('colors')
    )
    if 'sRGB' in name or name == 'none':
      assert sizes[name] == sizes['none'] and line.split(maxsplit=1)[1] == 'sRGB'
    elif name in ('Display P3', 'Adobe RGB', 'ProPhoto RGB'):
      assert sizes[name] - sizes['none'] <= 4 and name in line

"""Profiles that are made: against published numbers and against LittleCMS."""

import io

import icc_samples as samples
import numpy as np
import pytest
from PIL import ImageCms

from codax.color import icc, profiles, recognition, spaces

PUBLISHED = {
  spaces.SRGB: samples.SRGB_1998,
  spaces.DISPLAY_P3: samples.DISPLAY_P3,
  spaces.ADOBE_RGB: samples.ADOBE_RGB,
  spaces.PROPHOTO_RGB: samples.PROPHOTO,
}


@pytest.mark.parametrize('code', PUBLISHED)
def test_colorants_are_those_of_published_profiles(code):
  """The profile of 1998 has its white rounded otherwise, by 0.0002."""
  profile = icc.read(profiles.make_profile(code, 3), icc.RGB)
  limit = 0.0003 if code == spaces.SRGB else 0.00005
  assert np.abs(profile.colorants - np.transpose(PUBLISHED[code])).max() < limit
  assert np.abs(profile.colorants.sum(1) - spaces.D50).max() < 0.00005


@pytest.mark.parametrize('channels', [1, 3])
def test_profile_is_version_4_and_opens_in_littlecms(channels):
  codes = set(recognition.CANDIDATES)
  codes |= {bytes([p, t]) for p in spaces.PRIMARIES for t in (1, 7, 14) if p != 1 or t}
  for code in codes:
    data = profiles.make_profile(code, channels)
    assert len(data) % 4 == 0 and int.from_bytes(data[:4]) == len(data) <= 600
    assert data[8:10] == b'\x04\x40'
    opened = ImageCms.ImageCmsProfile(io.BytesIO(data)).profile
    assert opened.version == 4.4
    assert opened.profile_description == spaces.name_code(code, channels)
    assert opened.copyright == 'CC0' and samples.opens_in_lcms(data)
    assert np.allclose(opened.media_white_point[0], spaces.D50, atol=2e-5)
    assert opened.xcolor_space.strip() == ('GRAY' if channels == 1 else 'RGB')


def test_primaries_come_out_as_the_standard_has_them():
  """LittleCMS undoes the adaptation by the profile's matrix `chad`."""
  for code in recognition.CANDIDATES:
    opened = ImageCms.ImageCmsProfile(
      io.BytesIO(profiles.make_profile(code, 3))
    ).profile
    number = spaces.to_h273(code)
    wanted = spaces.PRIMARIES[number[0]] if number else spaces.OWN[code][0]
    matrix = np.array(opened.chromatic_adaptation[0])
    for name, color in zip(('red', 'green', 'blue'), wanted[1:4]):
      xyz = np.linalg.solve(matrix, getattr(opened, f'{name}_colorant')[0])
      assert np.allclose(xyz[:2] / xyz.sum(), color, atol=3e-4), (code, name)


def test_spaces_that_functions_cannot_describe_have_no_profile():
  for code in (
    b'\x09\x10',
    b'\x09\x12',
    b'\x0b\x11',
    b'\x09\x10\0',
    b'\x63',
    b'\x63\x0d',
  ):
    assert profiles.make_profile(code, 3) is None


def test_profile_names_its_codes_for_readers_of_version_4_4():
  tags = icc.read(profiles.make_profile(spaces.DISPLAY_P3, 3), icc.RGB).tags
  assert tags[b'cicp'] == b'cicp\0\0\0\0' + bytes([12, 13, 0, 1])
  assert (
    b'cicp' not in icc.read(profiles.make_profile(spaces.ADOBE_RGB, 3), icc.RGB).tags
  )
  assert b'cicp' not in icc.read(profiles.make_profile(b'\x01\x04', 1), icc.GREY).tags


@pytest.mark.parametrize('transfer', [1, 4, 5, 7, 8, 13, 14])
def test_curves_rise_and_are_inverted(transfer):
  curve = spaces.TRANSFERS[transfer].curve
  x = np.arange(1001) / 1000
  light = spaces.to_light(curve, x)
  assert light[0] == 0 and abs(light[-1] - 1) < 1e-9
  assert (np.diff(light) > 0).all()
  # the standard's constants leave a step of 0.0003 where the two parts meet
  assert np.abs(spaces.to_samples(curve, light) - x).max() < 5e-4


def test_names_say_the_space():
  names = {
    (b'', 3): 'sRGB', (b'', 1): 'grey, sRGB curve', (b'\x01', 3): 'Adobe RGB (1998)',
    (b'\x0c\x0d', 3): 'Display P3', (b'\x01\x04', 1): 'grey, gamma 2.2',
    (b'\x02', 1): 'grey, gamma 1.8', (b'\x09\x10', 3): 'BT.2100 PQ',
    (b'\x09\x12\0', 3): 'BT.2100 HLG, narrow range',
    (b'\x0c\x0d', 1): 'grey, sRGB curve', (b'\xc8\xc9', 1): 'grey, transfer 201',
    (b'\x16\x04', 3): 'primaries EBU 3213, transfer gamma 2.2',
    (b'\xc8\xc9', 3): 'primaries 200, transfer 201',
    (b'\x63', 3): 'space 99 (of a newer codax)', (b'\x63', 1): 'grey, transfer 99',
  }  # fmt: skip
  for (code, channels), name in names.items():
    assert spaces.name_code(code, channels) == name


def test_chromaticities_that_make_no_space_are_refused():
  wanted = spaces.PRIMARIES[1]
  for change in ({'red': (0.3, 0)}, {'red': (0.3, 0.6)}, {'red': (float('nan'), 1)},
                 {'white': (0.7, 0.2)}, {'green': (0.395, 0.465)}):  # fmt: skip
    with pytest.raises(ValueError):
      spaces.adapt(wanted._replace(**change))

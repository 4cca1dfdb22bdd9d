"""Profiles of many makers against the named spaces; LittleCMS is the oracle."""

import io
import itertools

import icc_samples as samples
import numpy as np
import pytest
from PIL import Image, ImageCms

from codax.color import icc, profiles, recognition, sections, spaces
from codax.color.spaces import ColorSpace

X = np.arange(256) / 255
PARA = samples.para(3, *samples.SRGB_PARAMETERS)
OLD_SRGB = samples.para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.03928)
TYPE_4 = samples.para(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0, 0)
UNADAPTED = (
  (0.4124, 0.2126, 0.0193), (0.3576, 0.7152, 0.1192), (0.1805, 0.0722, 0.9505)
)  # fmt: skip
BT2020 = ((0.67348, 0.27904, -0.00193), (0.16566, 0.67535, 0.02998),
          (0.12505, 0.0456, 0.79684))  # fmt: skip

NAMED = {
  'sRGB of LittleCMS': (samples.lcms_srgb(), 3, spaces.SRGB),
  'sRGB of 1998': (samples.rgb(), 3, spaces.SRGB),
  'sRGB, numbers of four digits': (
    samples.rgb(samples.SRGB_ROUNDED), 3, spaces.SRGB,
  ),
  'sRGB, table of 4,096': (samples.rgb(curve=samples.table(4096)), 3, spaces.SRGB),
  'sRGB, tiny table': (samples.rgb(curve=samples.small_table()), 3, spaces.SRGB),
  'sRGB, version 4': (
    samples.rgb(curve=PARA, white=samples.D50, version=4), 3, spaces.SRGB,
  ),
  'sRGB, threshold of 1996': (samples.rgb(curve=OLD_SRGB), 3, spaces.SRGB),
  'sRGB, curve of type 4': (samples.rgb(curve=TYPE_4), 3, spaces.SRGB),
  'sRGB of a scanner': (samples.rgb(kind=b'scnr'), 3, spaces.SRGB),
  'sRGB that names itself': (
    samples.rgb(more={b'cicp': b'cicp\0\0\0\0\x01\x0d\0\1'}), 3, spaces.SRGB,
  ),
  'Display P3': (samples.display_p3(), 3, spaces.DISPLAY_P3),
  'Display P3, table': (samples.rgb(samples.DISPLAY_P3), 3, spaces.DISPLAY_P3),
  'Adobe RGB': (samples.rgb(samples.ADOBE_RGB, 2.2), 3, spaces.ADOBE_RGB),
  'Adobe RGB, version 4': (
    samples.rgb(samples.ADOBE_RGB, curve=samples.para(0, 2.19922), version=4), 3,
    spaces.ADOBE_RGB,
  ),
  'ProPhoto RGB': (
    samples.rgb(samples.PROPHOTO, 1.8, white=samples.D50), 3, spaces.PROPHOTO_RGB,
  ),
  'BT.2020, gamma 2.2': (samples.rgb(BT2020, 2.2), 3, b'\x09\x04'),
  'linear sRGB': (samples.rgb(curve=samples.curv([])), 3, b'\x01\x08'),
  'sRGB primaries, gamma 2.2': (samples.rgb(gamma=2.2), 3, b'\x01\x04'),
  'grey, sRGB curve': (samples.grey(), 1, spaces.SRGB),
  'grey of printers': (samples.grey(2.2, kind=b'prtr'), 1, spaces.GAMMA_22),
  'grey gamma 2.2': (samples.grey(2.2), 1, spaces.GAMMA_22),
  'grey gamma 1.8': (samples.grey(1.8), 1, spaces.PROPHOTO_RGB),
  'linear grey': (samples.grey(curve=samples.curv([])), 1, b'\x01\x08'),
}  # fmt: skip


def moved(by):
  (r, *rest), *others = samples.SRGB_1998
  return ((r + by, *rest), *others)


OTHERS = {
  'colors off by 0.001': samples.rgb(moved(0.001)),
  'gamma of 2.25': samples.rgb(gamma=2.25),
  'gamma of 2.4': samples.rgb(samples.DISPLAY_P3, 2.4),
  'curve of 20 plain samples': samples.rgb(curve=samples.table(20)),
  'red and green swapped': samples.rgb(
    (samples.SRGB_1998[1], samples.SRGB_1998[0], samples.SRGB_1998[2])
  ),
  'white not adapted': samples.rgb(UNADAPTED),
  'one channel brighter': samples.rgb(more={b'gTRC': samples.gamma_curve(2.0)}),
  'white of another color': samples.rgb(white=(0.9, 1.0, 1.2)),
  'no white': samples.rgb(more={b'wtpt': b'none' + bytes(16)}),
  'printer': samples.rgb(kind=b'prtr'),
  'names another space': samples.rgb(more={b'cicp': b'cicp\0\0\0\0\x09\x10\0\1'}),
  'lookup table': samples.lut(b'RGB '),
  'lookup table beside sRGB': samples.rgb(more={b'A2B0': samples.lut_tag(3)}),
  'Generic RGB': samples.rgb(samples.GENERIC, 1.8),
  'sRGB with the gamma of 1.8': samples.rgb(gamma=1.8),
}


def transform(pixels, source, target, intent=1):
  """Pixels from one profile to another: relative colorimetric in LittleCMS."""
  opened = [ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (source, target)]
  mode = {1: 'L', 3: 'RGB'}[pixels.shape[2]]
  im = Image.fromarray(pixels.squeeze(2) if mode == 'L' else pixels)
  done = ImageCms.profileToProfile(
    im, *opened, renderingIntent=intent, outputMode='RGB'
  )
  return np.array(done).astype(int)


def test_image(channels):
  """All greys, and a cube of colors."""
  grey = np.arange(256, dtype=np.uint8)[:, None]
  if channels == 1:
    return grey[None]
  cube = np.array(list(itertools.product(range(0, 256, 15), repeat=3)), np.uint8)
  return np.concatenate([np.repeat(grey, 3, 1), cube])[None]


test_image.__test__ = False


@pytest.mark.parametrize('name', NAMED)
def test_profile_of_a_named_space_is_recognized(name):
  profile, channels, code = NAMED[name]
  assert sections.identify(profile, channels) == ColorSpace(code)


@pytest.mark.parametrize('name', NAMED)
def test_profile_and_the_one_made_for_its_name_show_the_same_pixels(name):
  profile, channels, code = NAMED[name]
  made = profiles.make_profile(code, channels)
  pixels = test_image(channels)
  for target in (samples.lcms_srgb(), samples.display_p3()):
    difference = transform(pixels, profile, target) - transform(pixels, made, target)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize('name', [name for name in NAMED if NAMED[name][1] == 3])
def test_profile_to_the_one_made_for_its_name_changes_no_pixel_by_two(name):
  """The other way round too: profiles as destinations.

  LittleCMS inverts powers in 16 bits, so the darkest levels are left out.
  """
  profile, _, code = NAMED[name]
  made, pixels = profiles.make_profile(code, 3), test_image(3)
  pixels = pixels[:, pixels[0].min(1) >= 12]
  for pair in ((profile, made), (made, profile)):
    assert np.abs(transform(pixels, *pair) - pixels).max() <= 1


@pytest.mark.parametrize('name', OTHERS)
def test_profile_of_another_space_is_carried_as_it_is(name):
  assert sections.identify(OTHERS[name], 3) == ColorSpace(icc=OTHERS[name])


def test_grey_profiles_of_other_curves_are_carried():
  paper = samples.grey(curve=samples.table(256, lambda x: x**1.7 * 0.98 + 0.02 * x))
  lab = samples.grey(2.2, connection=b'Lab ')
  for profile in (paper, lab, samples.grey(1.0), samples.grey(2.4)):
    found = sections.identify(profile, 1)
    linear = profile == samples.grey(1.0)
    assert found == (ColorSpace(b'\x01\x08') if linear else ColorSpace(icc=profile))


def test_every_candidate_is_found_from_the_profile_made_for_it():
  for code in recognition.CANDIDATES:
    assert sections.identify(profiles.make_profile(code, 3), 3) == ColorSpace(code)
  for code in recognition.GREY_CANDIDATES:
    assert sections.identify(profiles.make_profile(code, 1), 1) == ColorSpace(code)


def test_candidates_are_far_apart_against_the_tolerances():
  """No profile is near two of them."""
  for a, b in itertools.combinations(recognition.CANDIDATES, 2):
    first, second = spaces.colorimetry(a), spaces.colorimetry(b)
    apart = np.abs(first.colorants - second.colorants).max()
    samples_ = spaces.to_samples(second.curve, spaces.to_light(first.curve, X))
    levels = 255 * np.abs(samples_ - X).max()
    gap = max(
      apart / recognition.MATRIX_TOLERANCE, levels / recognition.CURVE_TOLERANCE
    )
    assert gap > 4, (a, b)


def test_curve_tolerance_moves_no_level():
  light = spaces.to_light(spaces.SRGB_CURVE, X + 0.44 / 255)
  assert recognition.is_same_curve(np.clip(light, 0, 1), spaces.SRGB_CURVE)
  assert not recognition.is_same_curve(
    np.clip(spaces.to_light(spaces.SRGB_CURVE, X + 0.46 / 255), 0, 1), spaces.SRGB_CURVE
  )
  levels = 255 * spaces.to_samples(spaces.SRGB_CURVE, light)
  assert np.array_equal(np.rint(levels[:-1]), np.arange(255))


def test_functions_of_all_types_are_evaluated_as_the_standard_says():
  curves = {
    samples.para(0, 1.7): X**1.7,
    samples.para(1, 2.0, 0.9, 0.1): (0.9 * X + 0.1) ** 2,
    samples.para(1, 2.0, 1.25, -0.25): np.where(X >= 0.2, (1.25 * X - 0.25) ** 2, 0),
    samples.para(2, 2.0, 1.0, -0.25, 0.1): (
      np.where(X >= 0.25, (X - 0.25) ** 2 + 0.1, 0.1)
    ),
    samples.para(3, 2.0, 0.9, 0.1, 0.5, 0.2): (
      np.where(X >= 0.2, (0.9 * X + 0.1) ** 2, 0.5 * X)
    ),
    samples.para(4, 2.0, 0.9, 0.05, 0.5, 0.2, 0.04, 0.01): (
      np.where(X >= 0.2, (0.9 * X + 0.05) ** 2 + 0.04, 0.5 * X + 0.01)
    ),
  }
  for tag, light in curves.items():
    profile = icc.read(samples.grey(curve=tag), icc.GREY)
    assert np.abs(profile.curves[0] - light).max() < 1e-4

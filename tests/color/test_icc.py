"""Damaged and hostile profiles: an error of one line, and nothing that hangs."""

import random

import hostile
import icc_samples as samples
import numpy as np
import pytest

from codax.color import icc, sections

SOUND = {
  'rgb': (samples.rgb(curve=samples.small_table()), icc.RGB),
  'p3': (samples.display_p3(), icc.RGB),
  'grey': (samples.grey(2.2), icc.GREY),
  'table': (samples.lut(b'RGB '), icc.RGB),
  'inks': (samples.lut(), icc.CMYK),
}


@pytest.mark.parametrize('name', SOUND)
def test_sound_profile_is_read_and_opens_in_littlecms(name):
  data, space = SOUND[name]
  assert icc.read(data, space).data == data
  assert samples.opens_in_lcms(data)


@pytest.mark.parametrize('name', SOUND)
def test_profile_cut_anywhere_is_refused(name):
  data, space = SOUND[name]
  for n in range(0, len(data), 1 if len(data) < 1000 else 7):
    with pytest.raises(icc.ProfileError) as e:
      icc.read(data[:n], space)
    assert '\n' not in str(e.value) and len(str(e.value)) < 100


def test_bytes_behind_the_end_are_dropped():
  data, space = SOUND['p3']
  assert icc.read(data + b'\0\0\0', space).data == data
  assert sections.identify(data + b'junk', 3) == sections.identify(data, 3)


@pytest.mark.parametrize('name', SOUND)
def test_profile_of_other_pixels_is_refused(name):
  data, space = SOUND[name]
  for other in {icc.GREY, icc.RGB, icc.CMYK} - {space}:
    with pytest.raises(icc.ProfileError, match='another color space'):
      icc.read(data, other)


def changed(at, value, data=None):
  data = samples.rgb() if data is None else data
  return data[:at] + value + data[at + len(value) :]


NONSENSE = {
  'nothing': b'',
  'text': b'a profile, it says' * 20,
  'zeros': bytes(3144),
  'size too large': changed(0, b'\xff\xff\xff\xff'),
  'size too small': changed(0, b'\0\0\0\x20'),
  'version 0': changed(8, b'\0'),
  'version 9': changed(8, b'\x09'),
  'link of devices': changed(12, b'link'),
  'named colors': changed(12, b'nmcl'),
  'space of nothing': changed(16, b'\n\0\xff\x80'),
  'connection to nothing': changed(20, b'RGB '),
  'no signature': changed(36, b'????'),
  'no tags': changed(128, b'\0\0\0\0'),
  'too many tags': changed(128, b'\xff\xff\xff\xff'),
  'tag behind the end': changed(136, b'\x7f\xff\xff\xff'),
  'tag over the table': changed(136, b'\0\0\0\0'),
  'tag twice': changed(144, b'desc'),
  'no colors': samples.assemble({b'desc': samples.old_text('empty')}),
  'two curves': samples.rgb(more={b'bTRC': b''}),
  'curve beyond its tag': samples.rgb(curve=samples.curv([1, 2, 3])[:-4]),
  'endless curve': samples.rgb(curve=b'curv\0\0\0\0\xff\xff\xff\xff'),
  'curve of zeros': samples.rgb(curve=samples.curv([0] * 50)),
  'curve of gamma 0': samples.rgb(gamma=0.0),
  'curve of no type': samples.rgb(curve=b'sig \0\0\0\0xxxxxxxxx'),
  'function of no type': samples.rgb(curve=samples.para(9, 1.0)),
  'function cut': samples.rgb(curve=samples.para(4, 2.4, 1.0)),
  'function of infinity': samples.rgb(curve=samples.para(0, -30000.0)),
  'function that divides by zero': samples.rgb(curve=samples.para(1, 1.0, 0.0, 0.5)),
  'lookup table of no type': samples.rgb(more={b'A2B0': b'none' + bytes(50)}),
  'colors on one line': samples.rgb((samples.SRGB_1998[0],) * 3),
  'colors of no light': samples.rgb(((0, 0, 0),) * 3),
  'colors of another type': samples.rgb(more={b'rXYZ': b'sf32' + bytes(16)}),
}


@pytest.mark.parametrize('name', NONSENSE)
def test_nonsense_is_refused(name):
  with pytest.raises(icc.ProfileError):
    icc.read(NONSENSE[name], icc.RGB)
  assert '\n' not in icc.describe(NONSENSE[name])


@pytest.mark.parametrize('name', SOUND)
def test_damaged_profile_is_an_error_or_finite_numbers(name):
  data, space = SOUND[name]
  rng = random.Random(0)
  accepted = 0
  for _ in range(300):
    damaged = hostile.damage(data, rng)
    with np.errstate(all='raise', under='ignore'):
      try:
        profile = icc.read(damaged, space)
        if space != icc.CMYK:
          sections.identify(damaged, {icc.GREY: 1, icc.RGB: 3}[space])
      except icc.ProfileError:
        continue
    accepted += 1
    for numbers in (profile.colorants, profile.curves):
      assert numbers is None or np.isfinite(numbers).all()
    assert icc.describe(damaged).isprintable() and len(icc.describe(damaged)) <= 60
  assert accepted > 10


def test_description_has_plain_letters_only():
  evil = samples.old_text('a\x1b[31mb\nc' + 'x' * 100)
  assert icc.describe(samples.rgb(more={b'desc': evil})) == ('a[31mbc' + 'x' * 53)
  assert icc.describe(samples.display_p3()) == 'a test'
  assert (
    icc.describe(samples.rgb(more={b'desc': b'desc' + bytes(8)})) == 'without a name'
  )
  assert icc.describe(b'') == 'damaged'

"""The registry: options of families, entry points, the default codec."""

import fake_family
import numpy as np
import pytest

import codax
from codax import cli, codec, families
from codax.errors import CodaxError


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.chdir(tmp_path)


def save_image(path='in.png'):
  from PIL import Image

  Image.fromarray(fake_family.smooth_image()).save(path)


def test_family_option_added_in_its_codec_reaches_every_door(capsys):
  """`shade` stands in fake_family/codec.py alone: flag, keyword, help, checks."""
  image = fake_family.smooth_image()
  by_keyword = codax.encode(image, 'fake', shade=32)
  wanted = np.clip(image.astype(int) // 32 * 32 + 16, 0, 255)
  assert np.array_equal(codax.decode(by_keyword), wanted)
  save_image()
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake', '--shade=32']
  assert cli.main(argv) == 0
  with open('x.cdx', 'rb') as f:
    assert f.read() == by_keyword
  with pytest.raises(SystemExit):
    cli.main(['encode', '--help'])
  text = ' '.join(capsys.readouterr().out.split())
  assert '(fake) step between levels of grey: 1 to 64' in text


@pytest.mark.parametrize('value', [0, 65, 2.5, '3', float('nan'), True])
def test_family_option_out_of_range_is_refused(value):
  with pytest.raises(CodaxError, match='shade must be a whole number from 1 to 64'):
    codax.encode(fake_family.smooth_image(), 'fake', shade=value)


def test_family_option_of_another_codec_is_refused(capsys):
  with pytest.raises(CodaxError, match="'fake' has no option 'count'.*shade"):
    codax.encode(fake_family.smooth_image(), 'fake', count=10)
  with pytest.raises(CodaxError, match="'jpeg' has no option 'shade'"):
    codax.encode(fake_family.smooth_image(), 'jpeg', shade=3)
  save_image()
  argv = ['encode', 'in.png', '-o', 'x.jpg', '--codec=jpeg', '--shade=3']
  assert cli.main(argv) == 2
  assert "has no option 'shade'" in capsys.readouterr().err


def test_compare_passes_family_options_to_their_codec_only(capsys):
  save_image()
  argv = ['compare', 'in.png', '--codecs', 'fake,jpeg', '--shade']
  sizes = []
  for shade in ('1', '32'):
    assert cli.main([*argv, shade]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    sizes.append([int(row.split()[2]) for row in rows])
  assert sizes[0][0] > sizes[1][0] and sizes[0][1] == sizes[1][1]


def test_two_targets_are_refused():
  with pytest.raises(CodaxError, match='quality, lmbda, bpp, psnr, count, not bpp'):
    families.get('splat', options=codec.Options(bpp=1.0, extra={'count': 9}))


def test_preset_defaults_to_fast_for_codecs_that_train_on_each_image():
  image = fake_family.smooth_image()
  per_image = families.get('fake').encode(image)
  assert per_image.details['options']['preset'] == 'fast'
  with_bundle = families.get('fake_trained', model=fake_family.make_bundle())
  assert with_bundle.encode(image).details['options']['preset'] == 'medium'


def test_entry_point_that_is_not_declared_is_refused():
  with pytest.raises(CodaxError, match="'jpeg' has no task.*vqvae, overfit, splat"):
    families.entry(families.family('jpeg'), 'task')


def test_default_codec_depends_on_the_size_alone():
  assert families.default_codec(families.DEFAULT_PIXELS) == 'overfit'
  assert families.default_codec(families.DEFAULT_PIXELS + 1) == 'vqvae'


def test_expected_seconds_grow_with_pixels_and_effort():
  seconds = lambda name, shape, **kw: families.expected_seconds(
    name, shape, codec.Options(**kw)
  )
  small, large = (seconds('overfit', (n, n, 3)) for n in (256, 512))
  assert 0 < small < large < seconds('overfit', (256, 256, 3), preset='medium')
  assert seconds('splat', (512, 512, 3), seconds=17.0) == 17.0
  assert seconds('jpeg', (512, 512, 3)) is None


def test_encode_says_first_how_long_it_will_take(capsys, monkeypatch):
  save_image()
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake', '--preset=full']
  assert cli.main(argv) == 0
  wanted = 'fake trains on this image of 33 x 17 pixels: about 2 min on two CPU'
  assert capsys.readouterr().err.startswith(wanted)


def test_long_encode_prints_an_estimate_after_the_first_steps(capsys, monkeypatch):
  from codax.training import progress

  save_image()
  clock = iter(range(0, 1000, 3))
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  assert cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec=fake']) == 0
  assert 'estimate: about' in capsys.readouterr().err

"""Baselines: contract, targets by search, and refusals."""

import io

import numpy as np
import pytest
from PIL import Image

from codax.baselines import codec
from codax.bitstream import BitstreamError
from codax.codec import Options
from codax.errors import CodaxError, OutOfReach
from codax.metrics import distortion, rate

HERE = codec.list_available()


def _smooth_image(h=48, w=56, channels=3):
  rng = np.random.default_rng(1)
  y, x = np.mgrid[:h, :w]
  waves = [120 + 80 * np.sin(x / (5 + c) + y / 9) for c in range(channels)]
  noise = 12 * rng.standard_normal((h, w, channels))
  return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def test_installed_pillow_has_the_first_three_codecs():
  assert HERE[:3] == ('jpeg', 'jpeg420', 'webp')


@pytest.mark.parametrize('name', HERE)
@pytest.mark.parametrize('shape', [(1, 1, 3), (17, 33, 3), (48, 56, 1), (5, 3, 1)])
def test_decoded_image_equals_the_reconstruction(name, shape):
  image = _smooth_image(*shape)
  made = codec.make(name)
  encoded = made.encode(image)
  decoded = codec.match_channels(made.decode(encoded.data), shape[-1])
  assert encoded.reconstruction.shape == shape
  assert encoded.reconstruction.dtype == np.uint8
  np.testing.assert_array_equal(decoded, encoded.reconstruction)
  assert encoded.estimated_bits == 8 * len(encoded.data)
  assert encoded.data == made.encode(image).data == made.encode(image).data
  if min(shape[:2]) > 16:
    assert distortion.psnr(image, decoded) > 22


@pytest.mark.parametrize('name', HERE)
def test_higher_quality_gives_larger_and_better_files(name):
  image = _smooth_image()
  results = [codec.at_quality(name, q).encode(image) for q in (5, 50, 95)]
  sizes = [len(e.data) for e in results]
  psnrs = [distortion.psnr(image, e.reconstruction) for e in results]
  assert sizes == sorted(sizes) and psnrs == sorted(psnrs)
  assert [e.details['quality'] for e in results] == [5, 50, 95]
  assert (
    distortion.psnr(image, codec.at_quality(name, 100).encode(image).reconstruction)
    >= psnrs[-1]
  )


def test_payload_is_a_file_of_its_format():
  image = _smooth_image()
  for name, kind, layers in [('jpeg', 'JPEG', (1, 1)), ('jpeg420', 'JPEG', (2, 2))]:
    with Image.open(io.BytesIO(codec.make(name).encode(image).data)) as im:
      assert im.format == kind and im.layer[0][1:3] == layers
      assert not im.info.get('icc_profile') and not im.getexif()
  whole, halved = (len(codec.make(n).encode(image).data) for n in ('jpeg', 'jpeg420'))
  assert halved < whole


def test_default_quality_is_75():
  image = _smooth_image()
  by_default = codec.make('jpeg').encode(image).data
  assert by_default == codec.at_quality('jpeg', 75).encode(image).data


@pytest.mark.parametrize('name', ['jpeg', 'jpeg420', 'webp'])
def test_target_is_met_by_the_nearest_quality_of_the_scale(name):
  image = _smooth_image()
  every = [codec.at_quality(name, q).encode(image) for q in codec.QUALITIES]
  bpps = np.array([rate.bpp(len(e.data), *image.shape[:2]) for e in every])
  psnrs = np.array([distortion.psnr(image, e.reconstruction) for e in every])
  for wanted in (float(np.median(bpps)), 1.02 * bpps[20], 0.5 * (bpps[60] + bpps[61])):
    got = codec.make(name, options=Options(bpp=wanted)).encode(image)
    found = got.details['quality'] - 1
    # Neither sizes nor quality rise with every step: allow one step of the scale.
    off, least = (np.abs(np.log(x / wanted)) for x in (bpps[found], bpps))
    assert off <= least.min() + np.abs(np.diff(np.log(bpps))).max() * 0.5
    assert ('target_miss' in got.details) == (abs(bpps[found] / wanted - 1) > 0.03)
  got = codec.make(name, options=Options(psnr=28.0)).encode(image)
  off = np.abs(psnrs - 28)
  found = got.details['quality'] - 1
  assert off[found] <= off.min() + np.abs(np.diff(psnrs)).max() * 0.5
  assert ('target_miss' in got.details) == (off[found] > 0.1)


@pytest.mark.parametrize('name', ['jpeg', 'webp'])
def test_target_beyond_the_scale_is_refused_with_its_end(name):
  image = _smooth_image()
  for target, quality, text in (
    ({'bpp': 1e-3}, 1, 'the least is'),
    ({'psnr': 99.0}, 100, 'the most is'),
  ):
    with pytest.raises(OutOfReach, match=text) as e:
      codec.make(name, options=Options(**target)).encode(image)
    assert e.value.nearest.details['quality'] == quality


def test_nearest_size_is_the_nearest_of_all():
  image = _smooth_image()
  sizes = np.array(
    [len(codec.at_quality('jpeg', q).encode(image).data) for q in codec.QUALITIES]
  )
  assert (np.diff(sizes) >= 0).mean() > 0.9
  for target in (1, 900, int(sizes[40]), int(sizes[60]) + 3, 10**6):
    got = codec.encode_nearest_size(image, 'jpeg', target)
    assert len(got.data) == sizes[got.details['quality'] - 1]
    # Sizes need not rise with every step of quality: allow one step of the scale.
    best = np.abs(sizes - target).min()
    assert abs(len(got.data) - target) <= best + np.abs(np.diff(sizes)).max() * 0.5


def test_slower_preset_changes_the_effort():
  image = _smooth_image(96, 96)
  for name in ('jpeg', 'webp'):
    fast, full = (
      len(codec.make(name, options=Options(preset=p)).encode(image).data)
      for p in ('fast', 'full')
    )
    assert full < fast


@pytest.mark.parametrize('name', HERE)
def test_damaged_file_is_a_bitstream_error(name):
  made = codec.make(name)
  data = made.encode(_smooth_image()).data
  for bad in (b'', b'x', data[: len(data) // 3], b'\xc3DX\n' + data):
    with pytest.raises(BitstreamError, match='not a sound'):
      made.decode(bad)
  other = codec.make('webp' if name != 'webp' else 'jpeg').encode(_smooth_image()).data
  with pytest.raises(BitstreamError):
    made.decode(other)


def test_options_that_a_baseline_lacks_are_refused():
  with pytest.raises(CodaxError, match='not of shape'):
    codec.make('jpeg').encode(np.zeros((4, 4, 4), np.uint8))
  with pytest.raises(CodaxError, match='uint8'):
    codec.encode_nearest_size(np.zeros((4, 4, 3), np.float32), 'jpeg', 9)
  with pytest.raises(CodaxError, match='no lmbda'):
    codec.make('jpeg', options=Options(lmbda=0.1))
  with pytest.raises(CodaxError, match='takes no model'):
    codec.make('jpeg', 'runs/x')
  with pytest.raises(CodaxError, match="did you mean 'jpeg'"):
    codec.make('jpegg')
  for quality in (0, 101, 7.5):
    with pytest.raises(CodaxError, match=r'1\.\.100'):
      codec.at_quality('jpeg', quality)
  with pytest.raises(CodaxError, match='webp cannot encode an image of 16384 x 1'):
    codec.make('webp').encode(np.zeros((1, 16384, 3), np.uint8))


def test_missing_plugin_names_the_extra(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'pillow_jxl', None)
  with pytest.raises(CodaxError, match=r'codax\[baselines\]'):
    codec.make('jxl')
  assert 'jxl' not in codec.list_available()


def test_match_channels_repeats_or_reduces_grey():
  rgb = _smooth_image(4, 5, 3)
  assert codec.match_channels(rgb, 3) is rgb
  np.testing.assert_array_equal(codec.match_channels(rgb, 1), rgb[..., 1:2])
  assert codec.match_channels(rgb[..., :1], 3).shape == (4, 5, 3)

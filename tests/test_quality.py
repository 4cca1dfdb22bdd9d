"""One scale of quality: its formula, its refusals, and files that grow with it."""

import math
from pathlib import Path

import fake_family
import numpy as np
import pytest

import codax
from codax import cli, codec, families, quality
from codax.baselines import codec as baselines
from codax.errors import CodaxError
from codax.metrics import distortion

GOLDEN = Path(__file__).parent / 'golden'


def image(h=48, w=64):
  y, x, k = np.mgrid[:h, :w, :3]
  waves = 90 * np.sin(x / 5 + k) * np.cos(y / 7) + 128
  noise = np.random.default_rng(3).normal(0, 9, (h, w, 3))
  return np.clip(waves + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('ends', [quality.MSE_ENDS, (0.3, 2e-5), (2.0, 0.005)])
def test_lmbda_of_a_quality_is_a_geometric_scale(ends):
  expected = np.geomspace(*ends, 100)
  found = [quality.to_lmbda(q, ends) for q in range(1, 101)]
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize('wrong', [0, 101, 2.5, '75', None, True, math.nan, math.inf])
def test_quality_out_of_range_is_refused(wrong):
  with pytest.raises(CodaxError, match='whole number from 1 to 100'):
    quality.to_lmbda(wrong)


@pytest.mark.parametrize(
  ('name', 'model', 'qualities'),
  [
    ('jpeg', None, (5, 30, 60, 90)),
    ('webp', None, (5, 30, 60, 90)),
    ('vae', 'vae_5', (1, 25, 50, 75, 100)),
    ('vqvae', 'vqvae_1', (1, 50, 100)),
  ],
)
def test_size_and_psnr_rise_with_quality(name, model, qualities):
  pixels, sizes, gains = image(), [], []
  path = None if model is None else GOLDEN / model / 'bundle.safetensors'
  for q in qualities:
    options = codec.Options(quality=q, preset='fast')
    encoded = families.get(name, model=path, options=options).encode(pixels)
    sizes.append(len(encoded.data))
    gains.append(distortion.psnr(pixels, encoded.reconstruction))
  assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
  if name != 'vqvae':  # the golden model is random: its errors say nothing of images
    assert gains == sorted(gains) and gains[0] < gains[-1]


def test_quality_of_a_trained_codec_is_the_lmbda_of_its_model():
  path = GOLDEN / 'vae_5' / 'bundle.safetensors'
  encode = lambda **options: codax.encode(image(), 'vae', path, **options)
  high, low = 0.008543722499893203, 0.00017087444999786406
  assert encode(quality=1) == encode(lmbda=high)
  assert encode(quality=100) == encode(lmbda=low)
  assert encode(quality=50) == encode(lmbda=high * (low / high) ** (49 / 99))


def test_quality_of_a_baseline_is_its_own():
  expected = baselines.at_quality('jpeg', 33).encode(image()).data
  assert codax.encode(image(), 'jpeg', quality=33) == expected


def test_quality_of_a_codec_that_trains_becomes_its_lmbda(monkeypatch):
  from codax.overfit import codec as overfit

  seen = []
  monkeypatch.setattr(
    overfit, 'make', lambda name, model, options: seen.append(options) or fake_codec()
  )
  families.get('overfit', options=codec.Options(quality=50))
  assert seen[0].lmbda == pytest.approx(0.02 * 0.0025 ** (49 / 99))


def fake_codec():
  return codec.Codec('overfit', lambda image, **_: None, lambda data: None)


def test_quality_of_a_codec_without_a_rate_is_refused(monkeypatch):
  fake_family.register(monkeypatch)
  with pytest.raises(CodaxError, match="'fake' has no rate that a quality could set"):
    codax.encode(image(), 'fake', quality=50)


@pytest.mark.parametrize('other', ['bpp', 'psnr', 'lmbda'])
def test_quality_and_another_target_are_refused_in_one_line(other, capsys):
  with pytest.raises(CodaxError, match=f'not quality and {other}'):
    codax.encode(image(), 'jpeg', quality=50, **{other: 1.0})
  argv = ['encode', 'in.png', '-o', 'x.jpg', '--quality', '50', f'--{other}', '1']
  with pytest.raises(SystemExit) as e:
    cli.main(argv)
  err = capsys.readouterr().err
  assert e.value.code == 2 and err.count('\n') == 1
  assert '--quality' in err and f'--{other}' in err

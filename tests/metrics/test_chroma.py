"""Luma and chroma errors and color ranges against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from codax.metrics import chroma


def test_conversion_is_that_of_jpeg():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (6, 5, 3), np.uint8)
  expected = np.asarray(Image.fromarray(image).convert('YCbCr'), np.float32)
  got = chroma.to_ycbcr(image) + np.float32([0, 128, 128])
  assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_errors_of_luma_and_chroma_are_told_apart(xp):
  grey = np.full((4, 4, 3), 100, np.uint8)
  luma, color = chroma.luma_chroma_mse(grey + 10, grey, xp)
  assert float(luma) == pytest.approx(100) and float(color) == pytest.approx(
    0, abs=1e-6
  )
  # a shift along Cb alone leaves luma as it is
  shift = np.linalg.inv(chroma.FROM_RGB.astype(np.float64)) @ [0, 8, 0]
  luma, color = chroma.luma_chroma_mse(grey + shift, grey, xp)
  assert float(luma) == pytest.approx(0, abs=1e-6)
  assert float(color) == pytest.approx(8**2 / 2, rel=1e-4)
  psnr = chroma.luma_chroma_psnr(grey + shift, grey, xp)
  assert float(psnr[1]) == pytest.approx(10 * np.log10(255**2 / 32), abs=1e-3)
  assert float(psnr[0]) > 90


@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_pale_image_has_smaller_ranges_and_half_the_spread(xp):
  image = np.zeros((2, 2, 3), np.uint8)
  image[0, 0], image[1, 1] = (200, 100, 50), (100, 50, 150)
  grey = chroma.to_ycbcr(image)[..., :1]
  pale = grey + (image - grey) / 2
  ranges = chroma.color_ranges(image, xp)
  assert float(ranges['color_min/red']) == 0 and float(ranges['color_max/red']) == 200
  assert float(ranges['color_std/green']) == pytest.approx(np.std([100, 50, 0, 0]))
  ratio = chroma.chroma_spread(pale, xp) / chroma.chroma_spread(image, xp)
  assert float(ratio) == pytest.approx(0.5, rel=1e-4)
  assert chroma.color_ranges(pale, xp)['color_max/red'] < 200

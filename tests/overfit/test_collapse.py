"""Nearly white or black images keep their contrast: training does not clamp.

Codecs that clamp inside the loss lose the gradient of what lies outside and turn such
images into one color.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, networks

from codax import families
from codax.metrics import distortion
from codax.overfit import encode, objective, report
from codax.overfit.format import arch as archs
from codax.overfit.presets import Steps, TrainConfig

SIZE = (24, 32)
# Adam compiles in half the time; the optimizer does not clamp.
CONFIG = encode.EncodeConfig(
  arch=SMALL, recipe=TrainConfig(optimizer='adam'), stage_steps=Steps(150, 20),
  lmbda=1e-6, weight_rounding=False,
)  # fmt: skip


def faint_writing():
  """White paper with strokes six levels darker."""
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  is_ink = (y % 8 < 2) & (x % 11 > 2)
  return np.where(is_ink, 249, 255)


def fog():
  """A bright slope of a few levels."""
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  return 236 + 6 * y / SIZE[0] + 3 * np.sin(x / 5)


def snow():
  """Saturated white with soft hollows."""
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  return np.minimum(248 + 9 * np.sin(x / 4 + y / 9), 255)


SCENES = {'paper': faint_writing, 'fog': fog, 'snow': snow}


def draw(name, is_dark):
  """Draws a scene, uint8 [H, W, 3]; dark ones are its negative."""
  image = np.repeat(np.rint(SCENES[name]())[..., None], 3, axis=2)
  return np.uint8(255 - image if is_dark else image)


@pytest.mark.parametrize('is_dark', [False, True], ids=['bright', 'dark'])
@pytest.mark.parametrize('name', SCENES)
def test_image_near_the_end_of_the_range_keeps_its_contrast(name, is_dark):
  image = draw(name, is_dark)
  assert (image.mean() < 30) if is_dark else (image.mean() > 225)
  found = encode.encode_image(image, CONFIG)
  decoded = families.decode(found.data)
  gain = distortion.psnr_above_one_color(image, decoded)
  assert gain > 3
  assert found.details['psnr_above_one_color'] == pytest.approx(gain)
  sheet = report.markdown(found.details, name)
  assert f'| PSNR above the best single color, dB | {gain:.3f} |' in sheet
  wanted, kept = image.astype(float), decoded.astype(float)
  # of the least-squares line of decoded on original values: 1 keeps all contrast
  slope = np.mean((wanted - wanted.mean()) * (kept - kept.mean())) / wanted.var()
  assert 0.5 < slope < 1.5


def test_loss_of_a_synthesis_brighter_than_white_has_a_gradient():
  target = jnp.asarray(draw('paper', False), jnp.float32) / 255
  nets = networks(SMALL, (*SIZE, 3), spread=0.0)
  last = f'b{archs.layers(SMALL, "synthesis") - 1}'
  latents = jnp.zeros(sum(h * w for h, w in archs.grid_shapes(SMALL, *SIZE)))

  @jax.jit
  @jax.grad
  def slope(bias):
    found = {**nets, 'synthesis': {**nets['synthesis'], last: bias}}
    return objective.compute(found, SMALL, latents, target, 0.0)[0]

  assert (slope(jnp.full(3, 3.0)) > 0.1).all()
  assert (slope(jnp.full(3, -3.0)) < -0.1).all()


def test_report_of_an_image_of_one_color_has_no_gain():
  image = np.full((*SIZE, 3), 255, np.uint8)
  found = encode.encode_image(image, CONFIG._replace(stage_steps=Steps(4, 1)))
  assert found.details['psnr_above_one_color'] is None
  assert 'color, dB | - |' in report.markdown(found.details, 'white')

"""A new image size compiles few programs: the networks' own serve all sizes."""

import jax
import numpy as np
import pytest
from tiny import SMALL

from codax.overfit import encode, measure, train
from codax.overfit.presets import Steps, TrainConfig

QUICK = encode.EncodeConfig(
  arch=SMALL,
  recipe=TrainConfig(optimizer='adam'),
  stage_steps=Steps(3, 1),
  weight_rounding=False,
)


@pytest.fixture
def compiled():
  """The list of compilations of this test so far."""
  found = []

  def listen(name, seconds, **facts):
    if name.endswith('backend_compile_duration'):
      found.append(name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_new_size_compiles_three_programs(compiled):
  rng = np.random.default_rng(0)
  encode_size = lambda h, w: encode.encode_image(
    rng.integers(0, 256, (h, w, 3), np.uint8), QUICK
  )
  encode_size(40, 48)
  first = len(compiled)
  encode_size(43, 45)  # the step of the latents, the image, the mean color
  assert len(compiled) - first <= 3
  encode_size(40, 48)
  assert len(compiled) - first <= 3
  encode_size(37, 51)
  for program in (train._latents_program, measure._image):
    assert program.programs.cache_info().currsize == 2


def test_entropy_model_measures_any_size_by_one_program():
  """In blocks, and equal to the bits of the whole image at once."""
  from tiny import grids, networks

  from codax.overfit import model

  count = measure._bits._cache_size()
  for shape in ((24, 32, 3), (97, 83, 3)):
    net = networks(SMALL, shape)['entropy']
    latents = tuple(np.float32(g) for g in grids(SMALL, shape))
    found = measure.latent_bits(SMALL, net, measure.fix_latents(SMALL, latents))
    assert found == pytest.approx(float(model.rate(net, SMALL, latents)), rel=1e-5)
  assert measure._bits._cache_size() <= count + 1

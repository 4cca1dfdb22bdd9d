"""Hostile files of this family: one error or an image, in bounded time and memory.

CODAX_MUTATIONS=20000 runs more mutations than the usual 2,000.
"""

import contextlib
import os
import random
import time
import tracemalloc

import hostile
import numpy as np
import pytest

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.layers.kan_spec import Spec
from codax.overfit import codec, describe
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream, weights

MUTATIONS = int(os.environ.get('CODAX_MUTATIONS', 2000))
# Without the one that takes as long as a small file may.
FILES = [
  data
  for name in ('overfit_1', 'overfit_2')
  for data in hostile.corpus(hostile.GOLDEN / name)[1]
  if bitstream.peek(data).height < 500
]
SMALLEST = min((f for f in FILES if len(f) > 60), key=len)
BARE = archs.Arch(1, 1, (), (), 0, 'relu', False)
WIDE = archs.Arch(8, 24, (64,) * 3, (64,) * 3, 4)
NARROW = archs.Arch(8, 24, (1,) * 3, (1,) * 3, 0)
BOTH = archs.Arch(inter_grid_context=14, upsampling='learned')
CUBIC = Spec(62, 3, -31.0, 31.0, 'linear')


def test_file_with_another_byte_or_cut_is_an_error():
  data = SMALLEST
  for damaged in hostile.every_damage(data):
    with pytest.raises(BitstreamError):
      codec.decode(damaged)


def test_file_with_a_flipped_bit_is_an_error_or_an_image():
  judge = hostile.Judge(codec.NAME)
  hostile.judge_every_flipped_bit(judge, SMALLEST)
  assert judge.errors > len(SMALLEST[:-4])


@pytest.mark.parametrize(
  'count', [300, pytest.param(MUTATIONS, marks=pytest.mark.slow)]
)
def test_mutated_file_is_an_error_or_an_image(count):
  judge = hostile.Judge(codec.NAME)
  hostile.judge_mutations(judge, FILES, count)
  assert judge.pictures > count / 50  # damage got through to the image
  assert judge.errors > count / 5


def _random_arch(rng):
  """Any shape that a file can spell out."""
  widths = lambda: [rng.choice((1, 2, 7, 64)) for _ in range(rng.randrange(4))]
  kan = lambda: rng.choice(
    ([0], [0], [8, 1, 240, 16, 0], [16, 3, 224, 32, 2], [1, 3, 252, 0, 1])
  )
  while True:
    body = [rng.randrange(1, 9), rng.randrange(1, 25), rng.randrange(5)]
    body.append(rng.randrange(6))
    for _ in archs.MODULES:
      hidden = widths()
      body += [len(hidden), *hidden, *kan()]
    if rng.random() < 0.5:
      body += [rng.randrange(15), rng.randrange(2)]
    try:
      return stream.get_arch(bytes(body))
    except BitstreamError:
      continue


def _make_payload(arch, shape, draw, grids, fracs=(0, 0)):
  """An image whose arrays are ``draw(module, tensor)``."""
  listed = archs.tensors(arch, len(grids), shape[2])
  modules = {
    name: integer.Module(
      {t.name: draw(name, t) for t in listed if t.module == name}, *fracs
    )
    for name in archs.MODULES
  }
  return stream.Payload(arch, shape, modules, tuple(grids))


def test_networks_of_any_weights_are_refused_or_run():
  """Files that are sound but for what their networks would do."""
  rng, np_rng, ran = random.Random(0), np.random.default_rng(0), 0
  for _ in range(40):
    arch = _random_arch(rng)
    shape = rng.randrange(1, 9), rng.randrange(1, 9), rng.choice((1, 3))
    scale = rng.choice((0.1, 3, 100))
    grids = [
      np_rng.laplace(scale=scale, size=s).clip(-255, 255).astype(np.int32)
      for s in archs.grid_shapes(arch, *shape[:2])
    ]
    largest = rng.choice((3, 100, 10_000, weights.MAX_WEIGHT))
    draw = lambda _, t, m=largest: np_rng.integers(-m, m + 1, t.shape)
    made = _make_payload(
      arch, shape, draw, grids, (rng.randrange(16), rng.randrange(16))
    )
    with np.errstate(all='raise'):
      try:
        data, _ = codec.pack(made)
      except BitstreamError:
        continue
      back = codec.unpack(data)
      for a, b in zip(made.grids, back.grids, strict=True):
        np.testing.assert_array_equal(a, b)
      assert codec.synthesize(back).shape == shape
    ran += 1
  assert 12 < ran < 40


@pytest.mark.parametrize('payload', [b'', b'\0' * 50, b'\xff' * 50, b'\x5a' * 1000])
@pytest.mark.parametrize(
  'arch', [archs.PROFILES[1], BARE, WIDE], ids=['1', 'bare', 'w']
)
@pytest.mark.parametrize('size', [(65535, 4096), (4096, 65535), (65535, 1), (1, 65535)])
def test_small_file_of_a_large_image_is_refused_soon(payload, arch, size):
  """Refused, or a constant image, before much is decoded or allocated."""
  profile = archs.profile(arch)
  sections = [bitstream.Section(bitstream.CODES, payload)]
  if not profile:
    sections.append(bitstream.Section(stream.ARCH, stream.put_arch(arch)))
  data = bitstream.write(bitstream.Header(2, profile, *size, 3), sections)
  for read in (codec.decode, describe.describe):
    start = time.process_time()
    tracemalloc.start()
    try:
      with contextlib.suppress(BitstreamError):
        read(data)
        assert arch is BARE and 1 in size
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    assert time.process_time() - start < hostile.SECONDS
    assert peak < 2**27


def _cheapest(arch, shape, reach):
  """A sound file of latents that cost next to nothing: the worst of its size."""

  def draw(module, t):
    array = np.zeros(t.shape, np.int64)
    if (module, t.name) == ('entropy', f'b{archs.layers(arch, "entropy") - 1}'):
      array[1] = -6  # a scale of 2**-7: the least
    return array

  grids = []
  for s in archs.grid_shapes(arch, *shape[:2]):
    grid = np.zeros(s, np.int32)
    grid.flat[:: max(1, grid.size - 1)] = reach
    grids.append(grid)
  return codec.pack(_make_payload(arch, shape, draw, grids))[0]


WORST = [
  (archs.PROFILES[1], (768, 768, 3), 1),
  (archs.PROFILES[1], (1, 8000, 3), 1),
  (archs.PROFILES[1], (8000, 1, 3), 1),
  (BARE, (500, 500, 3), 255),
  (BARE, (65535, 1, 3), 255),  # one wave
  (BARE, (2900, 2900, 3), 0),
  (WIDE._replace(convs=4, entropy=()), (16, 16000, 3), 0),
  (WIDE._replace(activation='gelu'), (260, 260, 3), 1),
  (WIDE._replace(entropy_kan=CUBIC, synthesis_kan=CUBIC), (50, 50, 3), 1),
  (BOTH, (660, 660, 3), 1),
  (BOTH, (7000, 1, 3), 1),
  (BARE._replace(grids=8, inter_grid_context=14), (800, 800, 3), 1),
  (BARE._replace(grids=8, upsampling='learned'), (1700, 1700, 3), 0),
  (NARROW._replace(entropy_kan=CUBIC), (1, 2700, 3), 1),
]


@pytest.mark.parametrize(('arch', 'shape', 'reach'), WORST)
def test_worst_small_file_ends_in_time(arch, shape, reach):
  data = _cheapest(arch, shape, reach)
  assert len(data) < 4500
  judge = hostile.Judge(codec.NAME)
  assert judge(data)
  assert stream.work(arch, shape) <= stream.FREE_WORK + stream.WORK_PER_BYTE * len(data)


@pytest.mark.parametrize(('arch', 'shape', 'reach'), [WORST[0], WORST[1], WORST[-1]])
def test_payload_with_more_work_needs_more_bytes(arch, shape, reach):
  height, width, channels = shape
  ranges = np.array([[reach, reach]] * 8)[: len(archs.grid_shapes(arch, height, width))]
  small = stream.least_size(stream.work(arch, shape, ranges))
  larger = (4 * height, width, channels) if height > 1 else (1, 4 * width, channels)
  assert stream.least_size(stream.work(arch, larger, ranges)) > small + 1000

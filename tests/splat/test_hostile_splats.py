"""Hostile files of this family: one error or an image, in bounded time and memory."""

import os

import hostile
import pytest
from test_splat_integer import make_payload, wide
from test_splat_reference import in_layers
from test_splat_vectors import coded, large

from codax.bitstream import BitstreamError
from codax.splat import codec
from codax.splat.format import container

MUTATIONS = int(os.environ.get('CODAX_MUTATIONS', 1000))
FILES = [
  container.pack(made)[0]
  for made in (
    make_payload((20, 33, 3), 9),
    make_payload((1, 1, 1), 1),
    make_payload((40, 60, 1), 70, covariance='rotation'),
    make_payload((90, 120, 3), 150, blend='sum', seed=3),
    coded(make_payload((9, 7, 1), 4), (2, 2)),
    coded(make_payload((45, 70, 3), 90), (9, 5, 2)),
    in_layers(make_payload((9, 7, 1), 6), 3),
    in_layers(make_payload((45, 70, 3), 90, seed=2), 2),
  )
]

# few bytes: every bit of them is flipped
SMALL = container.pack(make_payload((6, 9, 3), 4))[0]
SMALL_LAYERS = container.pack(in_layers(make_payload((5, 6, 1), 4), 2))[0]


def test_every_other_value_of_every_byte_and_every_cut_is_an_error():
  for damaged in hostile.every_damage(FILES[1]):
    with pytest.raises(BitstreamError):
      codec.decode(damaged)


@pytest.mark.parametrize(
  'data', [SMALL, FILES[4], SMALL_LAYERS], ids=['scalar', 'vector', 'layers']
)
def test_every_flipped_bit_under_a_good_checksum_is_an_error_or_an_image(data):
  judge = hostile.Judge(codec.NAME)
  hostile.judge_every_flipped_bit(judge, data)
  assert judge.errors and judge.pictures


def test_mutations_are_an_error_or_an_image():
  judge = hostile.Judge(codec.NAME)
  hostile.judge_mutations(judge, FILES, MUTATIONS)
  assert judge.pictures and judge.errors > MUTATIONS / 5


@pytest.mark.parametrize(
  'made',
  [
    wide(40, (1500, 2000, 3)),  # 6 kB; a kB more may take half a second more
    wide(1, (6000, 6000, 3)),
    make_payload((60000, 64, 3), 3000),
    make_payload((512, 768, 3), 9000),
    large(9),
    large(4000),
    in_layers(wide(40, (1500, 2000, 3)), 4),
  ],
)
def test_worst_small_files_are_decoded_within_bounds(made):
  data, _ = container.pack(made)
  judge = hostile.Judge(codec.NAME)
  assert judge(data)

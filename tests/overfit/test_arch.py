"""Shapes and costs of the overfitted codec."""

import pytest

from codax.errors import CodaxError
from codax.layers.kan_spec import Spec
from codax.overfit.format import arch as archs


def test_macs_of_c3_are_the_published_ones():
  macs = archs.macs(archs.C3, 512, 768)
  assert round(macs.upsampling) == 48
  assert round(macs.entropy) == 1056
  assert round(macs.synthesis) == 666
  assert round(macs.total) == 1770
  latents = sum(h * w for h, w in archs.grid_shapes(archs.C3, 512, 768))
  assert latents == 524_256


@pytest.mark.parametrize(
  ('size', 'shapes'),
  [
    ((1, 1), ((1, 1),)),
    ((1, 2), ((1, 2), (1, 1))),
    ((17, 33), ((17, 33), (9, 17), (5, 9), (3, 5), (2, 3), (1, 2), (1, 1))),
    ((3, 3), ((3, 3), (2, 2), (1, 1))),
  ],
)
def test_small_images_have_fewer_grids(size, shapes):
  assert archs.grid_shapes(archs.Arch(), *size) == shapes


def test_window_is_the_causal_half_of_7_by_7():
  window = {(dy, dx) for dy in range(-3, 1) for dx in range(-3, 4)}
  assert set(archs.WINDOW) == {o for o in window if o < (0, 0)}
  assert len(archs.WINDOW) == len(set(archs.WINDOW)) == 24


@pytest.mark.parametrize(
  ('context', 'slope'), [(1, 0), (3, 1), (14, 2), (22, 2), (24, 4)]
)
def test_slope_with_a_context_is_that_of_its_last_neighbor(context, slope):
  assert archs.Arch(context=context).slope == slope


def test_parent_offsets_are_different_and_in_coarser_grids():
  assert len(set(archs.PARENT_OFFSETS)) == len(archs.PARENT_OFFSETS)
  for up, dy, dx in archs.PARENT_OFFSETS:
    assert up >= 1 and abs(dy) <= 1 and abs(dx) <= 1


def test_inter_grid_context_costs_a_column_of_weights_and_keeps_the_slope():
  arch, more = archs.Arch(context=10), archs.Arch(context=10, inter_grid_context=4)
  latents = sum(h * w for h, w in archs.grid_shapes(arch, 512, 768)) / (512 * 768)
  added = archs.macs(more, 512, 768).entropy - archs.macs(arch, 512, 768).entropy
  assert added == pytest.approx(4 * (16 + 2) * latents)
  assert more.slope == arch.slope
  # as many inputs, so as many multiplications as without
  assert archs.macs(more, 512, 768) == archs.macs(archs.Arch(context=14), 512, 768)


def test_macs_of_learned_upsampling_are_the_products_that_run():
  learned = archs.Arch(upsampling='learned')
  assert archs.macs(learned._replace(grids=1), 512, 768).upsampling == 0
  # four products for each sample of the half, then of the whole width
  assert archs.macs(learned._replace(grids=2), 512, 768).upsampling == 2 + 4
  three = 2 * (2 + 4) + (2 + 4) / 4
  assert archs.macs(learned._replace(grids=3), 512, 768).upsampling == three


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'grids': 0}, 'grids is 0; valid: 1 to 8'),
    ({'context': 25}, 'context is 25; valid: 1 to 24'),
    ({'synthesis': (65,)}, 'synthesis width is 65'),
    ({'entropy': (1, 2, 3, 4)}, 'number of entropy layers is 4'),
    ({'convs': True}, 'convs is True'),
    ({'inter_grid_context': 15}, 'inter_grid_context is 15; valid: 0 to 14'),
    ({'upsampling': 'lerned'}, "did you mean 'learned'"),
    ({'entropy_kan': Spec(4, 3, -1.0, 1.0, 'relu')}, 'valid: whole'),
    ({'activation': 'rlu'}, "did you mean 'relu'"),
  ],
)
def test_invalid_architecture_is_refused(change, text):
  with pytest.raises(CodaxError, match=text):
    archs.check(archs.Arch()._replace(**change))


def test_architecture_of_lists_becomes_one_of_tuples():
  made = archs.check(archs.Arch(entropy=[8, 8], synthesis=[4]))
  assert made == archs.Arch(entropy=(8, 8), synthesis=(4,))
  assert hash(made)

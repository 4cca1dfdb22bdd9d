"""The decoding order: complete, causal, and as few waves as the slope allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax.entropy import wavefront
from codax.errors import CodaxError

OFFSETS = st.lists(
  st.one_of(
    st.tuples(st.integers(-3, -1), st.integers(-5, 5)),
    st.tuples(st.just(0), st.integers(-5, -1)),
  ),
  min_size=1,
  max_size=8,
  unique=True,
)


@given(st.integers(1, 9), st.integers(1, 9), OFFSETS)
def test_schedule_visits_positions_once_after_their_neighbours(height, width, offsets):
  slope = wavefront.slope(offsets)
  when = {}
  for wave, (rows, cols) in enumerate(wavefront.schedule(height, width, slope)):
    assert len(rows) == len(cols) >= 1
    for at in zip(rows.tolist(), cols.tolist()):
      assert at not in when
      when[at] = wave
  assert set(when) == {(y, x) for y in range(height) for x in range(width)}
  for (y, x), wave in when.items():
    for dy, dx in offsets:
      assert when.get((y + dy, x + dx), -1) < wave


@given(OFFSETS)
def test_slope_is_the_least_that_works(offsets):
  slope = wavefront.slope(offsets)
  assert all(dx + slope * dy < 0 for dy, dx in offsets)
  if slope:
    assert any(dx + (slope - 1) * dy >= 0 for dy, dx in offsets)


def test_slopes_and_wave_counts_of_known_offsets():
  assert wavefront.slope([(0, -1)]) == 0
  assert wavefront.slope([(0, -1), (-1, 0)]) == 1
  assert wavefront.slope([(-1, 1)]) == 2
  # The 7 x 7 window of C3: x + 4 y.
  window = [(dy, dx) for dy in (-3, -2, -1) for dx in range(-3, 4)]
  assert wavefront.slope(window) == 4
  assert len(list(wavefront.schedule(128, 128, 2))) == 128 + 2 * 127


@pytest.mark.parametrize('offsets', [[(0, 0)], [(0, 1)], [(1, -1)], [(0, -1)] * 2])
def test_offsets_that_are_not_causal_are_refused(offsets):
  with pytest.raises(CodaxError, match='context offset'):
    wavefront.slope(offsets)

"""Windows cover an axis once, tiles agree with one piece, programs do not pile up."""

import numpy as np
import pytest

from codax.layers import tiling


@pytest.mark.parametrize('size', [1, 9, 16, 17, 26, 27, 30, 61, 1000])
def test_windows_cover_an_axis_once_with_one_length(size):
  tile, halo = 10, 8
  windows = list(tiling.windows(size, tile, halo))
  assert len({w.stop - w.start for w in windows}) == 1
  covered = [x for w in windows for x in range(w.first, w.last)]
  assert covered == list(range(size))
  for start, stop, first, last in windows:
    assert 0 <= start <= first < last <= stop <= size
    assert start == 0 or first - start >= halo
    assert stop == size or stop - last >= halo
    assert stop - start <= tile + 2 * halo


@pytest.mark.parametrize('scale_in, scale_out', [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize('size', [(5, 4), (12, 31)])
def test_tiles_of_a_local_function_equal_one_piece(size, scale_in, scale_out):
  """A difference to the neighbours a step away needs a halo of one step."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(size[0] * scale_in, size[1] * scale_in, 2))
  shapes = set()

  def run(x):
    shapes.add(x.shape)
    grid = x[:, ::scale_in, ::scale_in]
    padded = np.pad(grid, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:]
    return y.repeat(scale_out, 1).repeat(scale_out, 2)

  whole = run(x[None])[0]
  shapes.clear()
  tiled = tiling.apply_tiled(run, x, scale_in, scale_out, tile=4, halo=1)
  np.testing.assert_array_equal(tiled, whole)
  assert len(shapes) == 1

"""Figures of the networks in files, against the layer that training runs."""

import numpy as np
import pytest
import tiny

from codax.errors import CodaxError
from codax.layers import kan
from codax.layers.kan_spec import Spec
from codax.overfit import figures
from codax.overfit.format import arch as archs
from codax.overfit.format import container

KAN = archs.Arch(
  3, 6, (5,), (6,), 1, entropy_kan=Spec(8, 1, -4.0, 4.0, 'relu'),
  synthesis_kan=Spec(4, 3, -4.0, 4.0, 'relu'),
)  # fmt: skip


@pytest.fixture(scope='module')
def file():
  payload = tiny.make_payload(KAN)
  return container.pack(payload)[0], payload


@pytest.mark.parametrize(
  ('module', 'layer'), [('entropy', 0), ('entropy', 1), ('synthesis', 0)]
)
def test_edges_of_a_file_add_up_to_its_layer(file, module, layer):
  data, payload = file
  x, values, spec = figures.evaluate_edges(data, module, layer)
  weights, frac = payload.modules[module].weights, payload.modules[module].weight_frac
  width = values.shape[1]
  params = {
    'spline': np.float32(weights[f's{layer}'] * 2.0**-frac),
    'base': np.float32(weights[f'w{layer}'] * 2.0**-frac),
    'bias': np.zeros(values.shape[2], np.float32),
  }
  rows = np.float32(np.repeat(x[:, None], width, 1))
  want = np.asarray(kan.apply(params, rows, spec))
  assert spec.base == ('relu' if layer else 'linear')
  np.testing.assert_allclose(values.sum(1), want, atol=1e-4 * np.abs(want).max())
  assert x[0] < spec.low and x[-1] > spec.high


def test_figure_has_the_edges_that_vary_most(file):
  data, _ = file
  x, values, spec = figures.evaluate_edges(data, 'entropy')
  figure = figures.draw_edges(data, 'entropy')
  assert len(figure.axes) == min(18, values[0].size)
  drawn = [axes.lines[0].get_ydata() for axes in figure.axes]
  is_inside = (spec.low <= x) & (x <= spec.high)
  spreads = [y[is_inside].std() for y in drawn]
  assert spreads == sorted(spreads, reverse=True)
  assert spreads[0] == pytest.approx(values[is_inside].std(0).max())


def test_files_without_splines_and_missing_layers_are_refused(file):
  plain = container.pack(tiny.make_payload())[0]
  with pytest.raises(CodaxError, match='entropy network of this file has dense layers'):
    figures.draw_edges(plain, 'entropy')
  with pytest.raises(CodaxError, match='layer is 2; valid: 0 to 1'):
    figures.draw_edges(file[0], 'entropy', 2)

"""Times of KAN layers: what is compared, and tables of it."""

import pytest

from codax.errors import CodaxError
from codax.layers import kan_bench
from codax.reports import sweep_tables


def test_layers_have_the_parameters_that_they_say():
  """An edge has G + 3 + 2 numbers; the dense layer of equal parameters is square."""
  only = ['bspline', 'rbf', *kan_bench.DENSE]
  found = kan_bench.measure_layers((12, 10), 4, 8, 1, only)
  rows = {row['layer']: row for row in found['layers']}
  assert list(rows) == only
  assert rows['bspline']['parameters'] == rows['rbf']['parameters'] == 12 * 10 * 9
  assert rows['dense, same shape']['parameters'] == 120
  assert rows['dense, equal parameters']['parameters'] == 33**2
  assert all(row['step_ms'] > 0 and row['forward_ms'] > 0 for row in rows.values())
  assert (found['shape'], found['grid'], found['batch']) == ('12 to 10', 4, 8)


def test_unknown_layer_is_named():
  with pytest.raises(CodaxError, match="unknown layer 'splines'"):
    kan_bench.measure_layers((2, 2), 4, 8, 1, ['splines'])


def test_table_divides_by_the_dense_layer_of_the_same_shape():
  layer = lambda name, ms: {
    'layer': name, 'parameters': 10, 'forward_ms': ms, 'step_ms': 3 * ms,
  }  # fmt: skip
  result = {
    'kind': 'layer_times', 'name': 'b', 'hardware': {'platform': 'cpu', 'cores': 2},
    'shape': '5 to 5', 'grid': 8, 'batch': 4,
    'layers': [layer('bspline', 2.0), layer('dense, same shape', 0.5)],
  }  # fmt: skip
  lines = sweep_tables.layer_times([result]).splitlines()
  assert lines[0] == '5 to 5, 8 intervals, batches of 4, 2 CPU cores:'
  assert lines[4] == '| bspline | 10 | 2.00 | 6.00 | 4.0 |'
  assert lines[5].endswith('| 0.50 | 1.50 | 1.0 |')

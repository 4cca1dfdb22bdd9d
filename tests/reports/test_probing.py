"""Recognition as a judge: tiles, labels in their order, `--probe` end to end."""

import json

import jax
import numpy as np
import pytest
from kept import script

from codax import bundle as bundles
from codax import errors
from codax.classify import bundle_io, defaults, network
from codax.classify.architecture import read
from codax.data import sources
from codax.reports import probing


def make_images(count, side=8, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def test_tiles_come_back_in_their_order():
  images = make_images(600)
  mosaics = probing.tile(images)
  assert mosaics.shape == (2, 128, 128, 3)
  np.testing.assert_array_equal(mosaics[0, :8, 8:16], images[1])
  np.testing.assert_array_equal(mosaics[1, 8:16, :8], images[256 + 16])
  for i, mosaic in enumerate(mosaics):
    np.testing.assert_array_equal(
      probing.untile(mosaic, 8), images[256 * i : 256 * (i + 1)]
    )
  with pytest.raises(errors.CodaxError, match='255 images do not fill'):
    probing.tile(images[:255])


@pytest.fixture
def run(tmp_path, monkeypatch):
  """An untrained classifier of gray levels, with a data set of its own."""
  images = make_images(300)
  config = defaults.get()
  config.model.update({
    'front_widths': (2, 2, 2), 'widths': (4, 4), 'classes': 4, 'pool': 2
  })  # fmt: skip
  model = read(config.model)
  made = network.init(jax.random.key(0), model, (8, 8, 3))
  predicted = jax.jit(network.predict, static_argnums=1)(made, model, images)
  labels = np.array(predicted.argmax(-1))
  labels[::4] = (labels[::4] + 1) % 4  # a quarter of the labels is wrong
  load = lambda i: {'image': images[i], 'label': int(labels[i])}
  source = sources.Source(tuple(f'{i:03d}' for i in range(300)), load, shape=(8, 8))
  monkeypatch.setitem(sources.SOURCES, 'digits', lambda split: source)
  bundle = bundle_io.pack(config, jax.device_get(made), {})
  bundles.save(bundle, tmp_path / 'run' / bundles.FILE_NAME)
  return tmp_path / 'run'


def test_probe_counts_the_tiles_that_are_recognized(run):
  """192 of 256; of a mosaic of one color all tiles are one class."""
  probe = probing.make(str(run), 300)
  assert (probe.count, probe.tile, probe.accuracy) == (256, 8, 0.75)
  (mosaic,) = probe.inputs
  assert probe.judge(mosaic.name, mosaic.load()) == {'accuracy': 0.75}
  flat = probe.judge(mosaic.name, np.full((128, 128, 3), 9, np.uint8))['accuracy']
  assert round(256 * flat) == 256 * flat < 192
  assert probe.describe()['id'] == bundles.load(run).id.hex()
  with pytest.raises(errors.CodaxError, match='--count=100; a probe needs 256'):
    probing.make(str(run), 100)


def test_evaluation_with_a_probe_has_accuracies(run, tmp_path, capsys):
  evaluate = script('evaluate')
  out = tmp_path / 'out'
  args = [f'--probe={run}', '--count=256', '--codecs=jpeg', f'--out={out}']
  assert evaluate.main([*args, '--qualities=5,95']) == 0
  found = json.loads((out / 'results.json').read_text())
  low, high = (row['accuracy'] for row in found['rows'])
  assert low < high <= 0.75 + 0.05 and found['means'][1]['accuracy'] == high
  assert found['request']['probe']['accuracy'] == 0.75
  text = capsys.readouterr().out
  assert 'accuracy without a codec: 0.7500' in text and f'{high:.4f} |' in text
  assert (out / 'accuracy.png').is_file()


def test_bundle_of_a_codec_is_no_probe(tmp_path):
  bundle = bundles.make('vqvae', {}, {'x': np.zeros(1)}, {})
  bundles.save(bundle, tmp_path / bundles.FILE_NAME)
  with pytest.raises(errors.CodaxError, match=r'vqvae.* has no probe .*classify'):
    probing.make(str(tmp_path), 256)

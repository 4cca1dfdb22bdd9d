r"""The guide's table: epochs to 85 and 90 % on CIFAR-10, at the guide's own settings.

  python launch/sweep.py --grid=configs/grids/kan_guide.py
  python launch/tables.py --add=runs/sweep_kan_guide --name=kan_guide

An accelerator's job: 50 epochs each, of batches of 32 and 64 images. CIFAR-10 by
TensorFlow Datasets is expected in ``data/tfds``. An interrupted sweep goes on where it
was. Beside the guide's two smaller KANs stand an MLP head and no head at all. Patience
is off, so that all have their 50 epochs.
"""

from codax.classify import defaults
from codax.sweeps import Grid, Setting

BASELINE = 'rapid_kan'
VARIANTS = (BASELINE, 'rapid_kan_lite', 'mlp', 'cnn')
COMMON = {
  'data.data_dir': 'data/tfds',
  'patience': 0,
  'writers': (),
}


def make_setting(name: str) -> Setting:
  """Makes the setting of a model; checkpoints are ten epochs apart."""
  _, batch_size, _ = defaults.GUIDE[name]
  epoch = -(-45_000 // batch_size)
  own = {'steps_per_call': 200, 'checkpoint_every': 10 * epoch}
  return Setting(name, f'configs/rapid_kan.py:variant={name}', COMMON | own)


def get_grid() -> Grid:
  return Grid(
    settings=[make_setting(name) for name in VARIANTS],
    seeds=(0, 1, 2),
    baseline=BASELINE,
    accuracy_targets=(0.85, 0.9),
  )

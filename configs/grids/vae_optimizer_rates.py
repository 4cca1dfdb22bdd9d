r"""Learning rates for the comparison of optimizers (`vae_optimizers.py`): a small scan.

  python launch/sweep.py --grid=configs/grids/vae_optimizer_rates.py

Every optimizer at four peak rates, one seed, half the steps of the comparison. Momentum
0.9 adds ten gradients up, so rates with it are a tenth. The best rate of each, by PSNR
of the held-out crops, goes into `vae_optimizers.py` by hand.
"""

import runpy
from pathlib import Path

from codax.sweeps import Grid, Setting

# The network and the data of the gate's runs.
_GATE = runpy.run_path(str(Path(__file__).with_name('vae_gate.py')))
COMMON = {**_GATE['COMMON'], 'model.width': _GATE['WIDTH']}
HALF = {'total_steps': 500, 'report_images': 0}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
RMSPROP = {'name': 'rmsprop', 'decay': 0.95}
OPTIMIZERS = {
  'adam': {'name': 'adam'},
  'adam_b2_0.95': {'name': 'adam', 'b2': 0.95},
  'adamw': {'name': 'adamw', 'weight_decay': 0.01},
  'rmsprop': RMSPROP,
  'rmsprop_momentum': RMSPROP | {'momentum': 0.9},
  'rmsprop_centered': RMSPROP | {'centered': True},
  'rmsprop_centered_momentum': RMSPROP | {'centered': True, 'momentum': 0.9},
}


def make_setting(name: str, options: dict, rate: float) -> Setting:
  """Makes the setting of an optimizer and a rate, without or with momentum."""
  rate = round(rate / 10, 6) if 'momentum' in options else rate
  own = {f'optimizers.vae.{key}': value for key, value in options.items()}
  own['optimizers.vae.learning_rate'] = rate
  return Setting(f'{name}.{rate:g}', 'configs/vae_bezier.py', COMMON | HALF | own)


def get_grid() -> Grid:
  settings = [
    make_setting(name, options, rate)
    for name, options in OPTIMIZERS.items()
    for rate in RATES
  ]
  return Grid(settings, seeds=(0,), baseline='adam.0.002', target=20.0)

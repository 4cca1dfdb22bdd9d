r"""Optimizers of the convolutional VAE, each at its tuned rate.

  python launch/sweep.py --grid=configs/grids/vae_optimizers.py
  python launch/tables.py --add=runs/sweep_vae_optimizers --name=vae_optimizers

Adam, AdamW, and RMSprop without and with momentum, plain and centered; and Adam whose
second moment forgets as fast as RMSprop's. The network and the data are those of
``vae_gate.py`` (its reference, the split Bezier curve of width 24). Rates are the best
ones of the scan in ``vae_optimizer_rates.py``; all have 100 steps of warm-up and a
cosine to 1/1000.

The `clipped.` settings have a clip norm below every gradient, as the loss weights of
the report that this family starts from gave it: each step's gradient is normalized, and
the table shows the share of such steps. Runs take 1 to 2 minutes of one core each.
"""

import runpy
from pathlib import Path

from codax.sweeps import Grid, Setting

# The network, the data and the length of the gate's runs.
_GATE = runpy.run_path(str(Path(__file__).with_name('vae_gate.py')))
COMMON = {**_GATE['COMMON'], 'model.width': _GATE['WIDTH']}
RMSPROP = {'name': 'rmsprop', 'decay': 0.95}
ALL_CLIPPED = {'clip_norm': 1e-3}
# Peak rates from the scan.
OPTIMIZERS = {
  'adam': {'name': 'adam', 'learning_rate': 2e-3},
  'adam_b2_0.95': {'name': 'adam', 'learning_rate': 2e-3, 'b2': 0.95},
  'adamw': {'name': 'adamw', 'learning_rate': 2e-3, 'weight_decay': 0.01},
  'rmsprop': {**RMSPROP, 'learning_rate': 2e-3},
  'rmsprop_momentum': {**RMSPROP, 'learning_rate': 2e-4, 'momentum': 0.9},
  'rmsprop_centered': {**RMSPROP, 'learning_rate': 2e-3, 'centered': True},
  'rmsprop_centered_momentum': {
    **RMSPROP, 'learning_rate': 2e-4, 'momentum': 0.9, 'centered': True,
  },
}  # fmt: skip
for _name in ('adam', 'rmsprop_centered_momentum'):
  OPTIMIZERS[f'clipped.{_name}'] = OPTIMIZERS[_name] | ALL_CLIPPED


def get_grid() -> Grid:
  return Grid(
    settings=[
      Setting(
        name,
        'configs/vae_bezier.py',
        COMMON | {f'optimizers.vae.{key}': value for key, value in options.items()},
      )
      for name, options in OPTIMIZERS.items()
    ],
    seeds=(0, 1, 2),
    baseline='adam',
    target=22.0,
    lmbdas=_GATE['LMBDAS'],
  )

r"""KL warm-up, free bits, latent width and SPADE of the convolutional VAE, one by one.

  python launch/sweep.py --grid=configs/grids/vae_switches.py
  python launch/tables.py --add=runs/sweep_vae_switches --name=vae_switches

Each is compared with the reference of ``vae_gate.py``, the split Bezier curve of width
24 with 24 latent channels, a warm-up of 300 steps to a weight of 1e-4 and no free bits.
As that weight is small, warm-up is also switched off at ten times the weight. Latents
have a position for every 8 x 8 pixels; beside their PSNR stands the rate, as more of
them can hold more. Runs take 1 to 2 minutes of one core each.
"""

import runpy
from pathlib import Path

from codax.sweeps import Grid, Setting

# The network, the data and the length of the gate's runs.
_GATE = runpy.run_path(str(Path(__file__).with_name('vae_gate.py')))
COMMON = {**_GATE['COMMON'], 'model.width': _GATE['WIDTH']}
BASELINE = 'baseline'
SWITCHES = {
  BASELINE: {},
  'warmup_off': {'kl.warmup_steps': 0},
  'weight_10': {'kl.weight': 1e-3},
  'weight_10.warmup_off': {'kl.weight': 1e-3, 'kl.warmup_steps': 0},
  'weight_10.free_bits': {'kl.weight': 1e-3, 'kl.free_bits': 0.5},
  'latent_32': {'model.latent_dim': 32},
  'latent_64': {'model.latent_dim': 64},
  'latent_128': {'model.latent_dim': 128},
  'spade_off': {'model.has_spade': False},
}


def get_grid() -> Grid:
  return Grid(
    settings=[
      Setting(name, 'configs/vae_bezier.py', COMMON | change)
      for name, change in SWITCHES.items()
    ],
    seeds=(0, 1, 2),
    baseline=BASELINE,
    target=22.0,
    lmbdas=_GATE['LMBDAS'],
  )

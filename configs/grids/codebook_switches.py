r"""What else is done to a codebook, each on and off, at equal time.

  python launch/sweep.py --grid=configs/grids/codebook_switches.py
  python launch/tables.py --add=runs/sweep_codebook_switches --name=codebook_switches

Model and data are those of ``cifar10_codebooks_reduced.py``, K = 512 (two groups have
23 codes each, which is the same number of bits). 60 runs of 2 to 3 minutes on two CPU
cores. ``launch/studies/codebook_steps.py`` measures, on an idle machine, how many steps
every setting makes in the time that `ema` needs for 800, and prints `STEPS`. Until then
all have 800. Not measured yet.

=================  =================================================================
ema                running averages, nearest codes: the baseline
revive, revive_data    dead codes go beside the most used one, or to a latent
rotation           the rotation trick in place of the straight-through estimator
warm_up            a fifth of the steps without the quantizer, and revival
warm_up_spectrum   half of them at most, ended by water-filling, and revival
dim_4              four channels are quantized, and revival
groups_2           two codebooks for half the channels each, and revival
vq, diveq          codebook learnt by gradient (its losses, the decoder), and revival
ba                 Blahut-Arimoto as shipped: beta is constant; revival
ba.KEY             annealing (beta falls from 1000 to 200 beta_c), and with it: five
                   iterations a batch, soft k-means, warm-up, four channels, two groups
=================  =================================================================
"""

import runpy
from pathlib import Path

from codax.sweeps import Grid, Setting

_path = lambda name: str(Path(__file__).with_name(name))
_REDUCED = runpy.run_path(_path('cifar10_codebooks_reduced.py'))
_FULL = runpy.run_path(_path('cifar10_codebooks.py'))
BASELINE = 'ema'
BASE_STEPS = _REDUCED['STEPS']
# Steps of equal time, printed by launch/studies/codebook_steps.py; others have
# `BASE_STEPS`.
STEPS: dict[str, int] = {}
COMMON = _REDUCED['COMMON'] | {'quantizer.num_codes': 512}
REVIVAL, ANNEALED = _FULL['WITH_REVIVAL'], _FULL['ANNEALED']
WARM_UP = {'quantize_from': 0.2}
SPECTRUM = {'quantize_from': 0.5, 'quantize_when': 'spectrum'}
DIM_4 = {'model.latent_dim': 4}
GROUPS_2 = {'quantizer.groups': 2, 'quantizer.num_codes': 23}
EMA, BA, DIVEQ = (f'configs/vqvae_{name}.py' for name in ('ema', 'ba', 'diveq'))
SWITCHES = {
  BASELINE: (EMA, {}),
  'revive': (EMA, REVIVAL),
  'revive_data': (EMA, REVIVAL | {'quantizer.revival.to': 'data'}),
  'rotation': (EMA, {'quantizer.estimator': 'rotation'}),
  'warm_up': (EMA, REVIVAL | WARM_UP),
  'warm_up_spectrum': (EMA, REVIVAL | SPECTRUM),
  'dim_4': (EMA, REVIVAL | DIM_4),
  'groups_2': (EMA, REVIVAL | GROUPS_2),
  'vq': (DIVEQ, {'quantizer.estimator': 'straight_through'}),
  'diveq': (DIVEQ, {}),
  'diveq.warm_up': (DIVEQ, WARM_UP),
  'ba': (BA, {}),
  'ba.annealed': (BA, ANNEALED),
  'ba.iterations_5': (BA, {'quantizer.iterations': 5}),
  'ba.annealed.iterations_5': (BA, ANNEALED | {'quantizer.iterations': 5}),
  'ba.annealed.balance_0.5': (BA, ANNEALED | {'quantizer.balance': 0.5}),
  'ba.annealed.warm_up': (BA, ANNEALED | WARM_UP),
  'ba.annealed.dim_4': (BA, ANNEALED | DIM_4),
  'ba.annealed.groups_2': (BA, ANNEALED | GROUPS_2),
  'ba.free_energy': (BA, {'quantizer.codebook': 'free_energy'}),
}


def make_setting(name: str) -> Setting:
  """Makes a setting; its schedules have the length of its run."""
  config, change = SWITCHES[name]
  steps = STEPS.get(name, BASE_STEPS)
  values = {
    **COMMON,
    'total_steps': steps,
    'revive_steps': steps // 2,
    'eval_every': steps,
    'checkpoint_every': steps // 2,
    **change,
  }
  if 'quantizer.beta_start' in change:
    values['quantizer.beta_steps'] = steps * 6 // 10
  return Setting(name, config, values)


def get_grid() -> Grid:
  return Grid(settings=[make_setting(name) for name in SWITCHES], seeds=(0, 1, 2))

r"""The effect of each switch of the overfitted codec: one change at a time.

  python launch/sweep.py --grid=configs/grids/overfit_switches.py
  python launch/tables.py --add=runs/sweep_overfit_switches \
      --name=overfit_switches

Each run encodes the middles of the four held-out photographs (`[scikit-learn]`
installed) at two lambdas in one program. All but `start` begin with random networks,
since the package has others only for the baseline's architecture; these were trained on
other photographs. J = MSE + lambda * bpp of whole files is compared, image by image. It
is a report: choose settings by other images.

A switch is a line: its name, and its changes of the configuration.
"""

from codax.sweeps import Grid, Setting

COMMON = {
  'total_steps': 300,
  'stage2_steps': 30,
  'eval_every': 300,
  'checkpoint_every': 300,
  'pretrained_init': False,
  'lmbdas': (1e-3, 4e-3),
  'data.split': 'test',
  'data.crop': 128,
  'data.limit': 4,
}
SWITCHES = {
  'start': {'pretrained_init': True},
  'refine_off': {'weight_rounding': False},
  'adam': {'recipe.optimizer': 'adam'},
  # with as many inputs of the entropy network
  'parents_off': {'arch.context': 14, 'arch.inter_grid_context': 0},
  'learnt_upsampling': {'arch.upsampling': 'learned'},
  'context_6': {'arch.context': 6},
  'context_20': {'arch.context': 20},
  'stabilisers_off': {'arch.linear_skip': False},
  'gelu': {'arch.activation': 'gelu'},
  'synthesis_16': {'arch.synthesis': (16,)},
  'synthesis_48': {'arch.synthesis': (48,)},
  # the noise, its bounds and its temperature as in C3
  'kumaraswamy': {
    'recipe.noise_distribution': 'kumaraswamy',
    'recipe.noise': (2.0, 1.0),
    'recipe.temperature': (0.3, 0.1),
  },
  'clip_all': {'recipe.clip': 'all'},
  'clip_none': {'recipe.clip': 'none'},
  # 300 steps in all, as the baseline: 15 for each of four initializations, then 240
  'candidates': {'candidates': 4, 'warm_steps': 15, 'total_steps': 240},
}


def get_grid() -> Grid:
  changes = {'baseline': {}, **SWITCHES}
  return Grid(
    settings=[
      Setting(name, 'configs/overfit_mlp.py', COMMON | change)
      for name, change in changes.items()
    ],
    seeds=(0,),
    baseline='baseline',
  )

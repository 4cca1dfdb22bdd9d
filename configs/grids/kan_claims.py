r"""The claims of the guide to fast-learning KANs, each on and off.

  python launch/sweep.py --grid=configs/grids/kan_claims.py
  python launch/tables.py --add=runs/sweep_kan_claims --name=kan_claims

CIFAR-10 by TensorFlow Datasets is expected in ``data/tfds``. Reduced sizes, so that a
run takes a few minutes of one core: half of the front's channels, a head of 256 and 64
units with 8 intervals, batches of 128, 8 epochs of which one warms up, about 45,000
training images (about 5,000 are for the evaluations under way). `guide` has everything
that the guide recommends but frequent grid updates; every other setting changes one
thing.

`grid_updates` tries to move the grids in every tenth step of the first half: the inputs
whose moves change the outputs of their layer by no more than 1 % of these outputs' root
mean square, all together, do move. `grid_updates.any_change` moves all, whatever that
does to the outputs. The table has the share of inputs that moved in a try.
"""

from codax.sweeps import Grid, Setting

BASELINE = 'guide'
CONFIG = 'configs/rapid_kan.py:variant=rapid_kan_lite'
EPOCH = 352  # steps
COMMON = {
  'data.data_dir': 'data/tfds',
  'data.batch_size': 128,
  'total_steps': 8 * EPOCH,
  'log_every': EPOCH // 4,
  'eval_every': EPOCH // 4,
  'checkpoint_every': 2 * EPOCH,
  'patience': 0,
  'writers': (),
  'model.front_widths': (32, 64, 128),
  'model.widths': (256, 64),
  'optimizer.learning_rate': 3e-3,
  'optimizer.warmup_steps': EPOCH,
}
CLAIMS = {
  BASELINE: {},
  'learning_rate_1e-3': {'optimizer.learning_rate': 1e-3},
  'base_scale_1': {'model.base_scale': 1.0},
  'noise_init': {'model.spline_init': 'noise'},
  'batch_norm_off': {'model.has_batch_norm': False},
  # one rate for all: the base rate, and the KAN layers' own
  'groups_off': {'optimizer.groups': ()},
  'groups_off.rate_9e-3': {'optimizer.groups': (), 'optimizer.learning_rate': 9e-3},
  # AdamW without its weight decay is Adam
  'adam': {'optimizer.name': 'adam', 'optimizer.weight_decay': 0.0},
  'constant_rate': {'optimizer.schedule': 'constant'},
  'warmup_off': {'optimizer.warmup_steps': 0},
  'grid_updates': {'training.grid_update_prob': 0.1},
  'grid_updates.any_change': {
    'training.grid_update_prob': 0.1,
    'training.grid_tolerance': 1e9,
  },
  'residual_off': {'model.has_residual': False},
  'rbf': {'model.basis': 'rbf'},
  'chebyshev': {'model.basis': 'chebyshev'},
  'recursion': {'model.form': 'recursion'},
  'scan': {'model.form': 'scan'},
  'bfloat16': {'model.dtype': 'bfloat16'},
}


def get_grid() -> Grid:
  return Grid(
    settings=[
      Setting(name, CONFIG, COMMON | change) for name, change in CLAIMS.items()
    ],
    seeds=(0, 1, 2),
    baseline=BASELINE,
    accuracy_targets=(0.6, 0.7, 0.8),
  )

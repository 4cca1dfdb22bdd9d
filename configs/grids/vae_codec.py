r"""Parts of the transform codec, one change at a time, in short trainings.

  python launch/sweep.py --grid=configs/grids/vae_codec.py
  python launch/tables.py --add=runs/sweep_vae_codec --name=vae_codec

The images of BSDS500's parts train and val are expected in ``data/bsds500``, any
folder's inside. A setting is 1500 steps with the learning rate down to 0, 10 to 20
minutes of one core; files of the held-out photographs (`[scikit-learn]` installed) are
compared at equal PSNR with the baseline's.

`factorized` is without hyper-latents, and so without all that sees them; `means` is one
mean for both passes, `blocks` a block transform, without the filter over boundaries.
"""

from codax.sweeps import Grid, Setting

COMMON = {
  'data.path': 'data/bsds500',
  'data.test_fraction': 0.04,
  'data.eval_crops': 32,
  'total_steps': 1500,
  'steps_per_call': 50,
  'log_every': 250,
  'eval_every': 0,
  'checkpoint_every': 500,
  'average_decay': 0.99,
  'report_images': 2,
  'writers': (),
  'outside_image': '',
}
BASELINE = 'baseline'
CHANGES = {
  BASELINE: {},
  'silu': {'model.act': 'silu'},
  'gelu': {'model.act': 'gelu'},
  'gdn': {'model.act': 'gdn'},
  'bezier': {'model.act': 'bezier'},
  'blocks': {'model.lapped': False},
  'small': {'model.width': 160, 'model.blocks': 2},
  'b2_0.999': {'optimizer.b2': 0.999},
  'means': {'model.context': False},
  'scales': {'model.scale_context': 0},
  'hyperprior': {'model.context': False, 'model.scale_context': 0},
  'factorized': {'model.hyper_dim': 0, 'model.scale_context': 0},
}


def get_grid() -> Grid:
  return Grid(
    settings=[
      Setting(name, 'configs/vae_bezier.py:codec,folder', COMMON | change)
      for name, change in CHANGES.items()
    ],
    seeds=(0,),
    lmbdas=(2e-4, 5e-4, 1.2e-3, 3e-3, 8e-3),
    preset='medium',
    nominal=1.2e-3,
    searched=(BASELINE,),
  )

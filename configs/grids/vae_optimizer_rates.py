r"""Learning rates for the comparison of optimizers (`vae_optimizers.py`): a small scan.

  python launch/sweep.py --grid=configs/grids/vae_optimizer_rates.py

Every optimizer at four peak rates, one seed, half the steps of the comparison. Momentum
0.9 adds ten gradients up, so rates with it are a tenth. The best rate of each, by PSNR
of the held-out crops, goes into `vae_optimizers.py` by hand.
"""

from codax.sweeps import Grid, Setting

COMMON = {
  'total_steps': 500,
  'steps_per_call': 1,
  'log_every': 1,
  'eval_every': 50,
  'checkpoint_every': 500,
  'report_images': 0,
  'writers': (),
  'average_decay': 0.95,
  'data.batch_size': 8,
  'data.crop': 64,
  'model.width': 24,
  'model.latent_dim': 24,
  'model.stages': 1,
  'model.body': 1,
  'model.color_head': (24,),
  'model.has_linear_path': False,
  'kl.weight': 1e-4,
  'kl.warmup_steps': 300,
  'outside_every': 0,
}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
RMSPROP = {'name': 'rmsprop', 'decay': 0.95}
OPTIMIZERS = {
  'adam': {'name': 'adam'},
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
  return Setting(f'{name}.{rate:g}', 'configs/vae_bezier.py', COMMON | own)


def get_grid() -> Grid:
  settings = [
    make_setting(name, options, rate)
    for name, options in OPTIMIZERS.items()
    for rate in RATES
  ]
  return Grid(settings, seeds=(0,), baseline='adam.0.002', target=20.0)

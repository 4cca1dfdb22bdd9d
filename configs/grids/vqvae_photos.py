"""EMA against Blahut–Arimoto codebooks at equal budget, on the embedded photographs.

  python launch/sweep.py --grid=configs/grids/vqvae_photos.py
  python launch/tables.py --add=runs/sweep_vqvae_photos --name=vqvae_photos_table

21 runs of 800 steps, K = 512 but for ema_128, 2 to 3 minutes each on one CPU core. All
have the same networks, data, context model and entropy coder; the table has the rest.

=============  =====================================================================
ema            running averages, nearest codes: the usual VQ-VAE
ema_revive     the same with dead codes moved, as in the Blahut–Arimoto runs
ema_128        K = 128: the savings of a smaller codebook
ba_0           balance 0, code lengths from the marginal
ba_0_context   balance 0, code lengths from the context model from 40 % of the steps
ba_0.5         soft k-means: codes have no cost, so that runs with and without the
               context model's costs are the same
ba_0.9         towards equal use; the same
=============  =====================================================================

Beta falls from 1000 to 200 beta_c: at first codes are nearly free, so that a useful
codebook is learnt, and then bits get their weight. With that weight from the start the
rich get richer before the codes have a meaning.
"""

from codax.sweeps import Grid, Setting

STEPS = 800
COMMON = {
  'total_steps': STEPS,
  'revive_steps': STEPS // 2,
  'eval_every': STEPS,
  'checkpoint_every': STEPS // 2,
  'report_images': 1,
}
BA = {
  'quantizer.beta_schedule': 'exponential',
  'quantizer.beta_start': 1000.0,
  'quantizer.beta_end': 200.0,
  'quantizer.beta_steps': STEPS * 6 // 10,
  'quantizer.encoder_loss': 'free_energy',
}


def ema(name: str, **values) -> Setting:
  more = {f'quantizer.{key}': value for key, value in values.items()}
  return Setting(name, 'configs/vqvae_ema.py', COMMON | more)


def ba(name: str, balance: float, cost_from: float = 1.0) -> Setting:
  more = {'quantizer.balance': balance, 'context.context_cost_from': cost_from}
  return Setting(name, 'configs/vqvae_ba.py', COMMON | BA | more)


def get_grid() -> Grid:
  return Grid(
    settings=[
      ema('ema'),
      ema('ema_revive', **{'revival.below': 0.02}),
      ema('ema_128', num_codes=128),
      ba('ba_0', 0.0),
      ba('ba_0_context', 0.0, cost_from=0.4),
      ba('ba_0.5', 0.5),
      ba('ba_0.9', 0.9),
    ],
    seeds=(0, 1, 2),
    lmbdas=(1e-6, 0.02, 0.05, 0.1, 0.2, 0.4),
    nominal=0.1,
    nearest=('ema', 'ema_128'),
    searched=('ema', 'ema_revive'),
  )

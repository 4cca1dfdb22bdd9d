"""EMA against Blahut–Arimoto codebooks at equal budget, on the embedded photographs.

  python launch/sweep.py --grid=configs/grids/vqvae_photos.py
  python launch/tables.py --add=runs/sweep_vqvae_photos --name=vqvae_photos_table

21 runs of 800 steps, K = 512 but for ema_128, 2 to 3 minutes each on one CPU core. All
have the same networks, data, context model and entropy coder; what differs is below.

=============  =====================================================================
ema            running averages, nearest codes, as everybody uses it
ema_revive     dead codes moved, as Blahut–Arimoto does: is it only that?
ema_128        K = 128: what a smaller codebook saves
ba_0           balance 0, prices from the marginal
ba_0_context   balance 0, prices from the context model from 40 % of the steps on
ba_0.5         soft k-means: codes have no price, so there is nothing for a context
               model to price either: with and without it are one run
ba_0.9         towards equal use; the same
=============  =====================================================================

Beta falls from 1000 to 200 beta_c: at first codes are nearly free, so that a codebook
is learnt that is worth choosing from, and then they get their price. With a price from
the start the rich get richer before anybody knows what the codes are good for.
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


def ema(name: str, **knobs) -> Setting:
  more = {f'quantizer.{key}': value for key, value in knobs.items()}
  return Setting(name, 'configs/vqvae_ema.py', COMMON | more)


def ba(name: str, balance: float, price_from: float = 1.0) -> Setting:
  more = {'quantizer.balance': balance, 'context.price_from': price_from}
  return Setting(name, 'configs/vqvae_ba.py', COMMON | BA | more)


def get_grid() -> Grid:
  return Grid(
    settings=[
      ema('ema'),
      ema('ema_revive', revive_below=0.02),
      ema('ema_128', num_codes=128),
      ba('ba_0', 0.0),
      ba('ba_0_context', 0.0, price_from=0.4),
      ba('ba_0.5', 0.5),
      ba('ba_0.9', 0.9),
    ],
    seeds=(0, 1, 2),
    lmbdas=(1e-6, 0.02, 0.05, 0.1, 0.2, 0.4),
    nominal=0.1,
    nearest=('ema', 'ema_128'),
    searched=('ema', 'ema_revive'),
  )

r"""VAE whose nonlinearities are cubic Bezier curves, and a codec made of it.

  python launch/train.py --config=configs/vae_bezier.py
      Embedded photographs, the compact model (467,312 parameters). About 5 minutes on
      two CPU cores; then 31.1 dB at 0.78 bpp of file on the held-out astronaut, where
      JPEG has 31.7 dB. Smaller files take the argument `codec`, below.

  python launch/train.py --config=configs/vae_bezier.py:act=relu,folder \
      --config.data.path=DIR
      Another activation (names are in `codax.layers.activations`), images of a folder;
      `tfds:NAME` is a data set through TFDS.

  python launch/train.py --config=configs/vae_bezier.py:reference,folder \
      --config.data.path=DIR
      The model of the report that this family starts from: 12,580,553 parameters in the
      compressor, 94,006,863 in the expander, RMSprop, bfloat16. An accelerator's job:
      1024 x 1024 pixels cost 0.36 TMAC to encode and 10.5 TMAC to decode.

  python launch/train.py --config=configs/vae_bezier.py:codec,folder \
      --config.data.path=DIR
      The transform codec of the family, one model for all rates.

Arguments go together with commas, in any order. Every evaluation writes a mosaic into
images/ of the work directory: originals, reconstructions, samples of the prior.

Switches: --config.model.has_spade=False, --config.model.attention_blocks=2,
--config.model.latent_dim=64, --config.kl.warmup_steps=0, --config.kl.free_bits=0.1,
--config.loss.lpips=0.1 --config.loss.lpips_weights=FILE, --config.loss.gan=0.5,
--config.accumulate=4, --config.model.dtype=bfloat16, --config.model.remat=True.
"""

from ml_collections import ConfigDict

from codax.vae import defaults


def get_config(argument: str = '') -> ConfigDict:
  config = defaults.get(argument)  # every key
  if config.objective == 'rate' or config.model.arch == 'reference':
    return config  # these have their own

  # --- schedule
  config.total_steps = 2400
  config.data.crop, config.data.batch_size = 64, 16
  config.average_decay = 0.99  # of the averaged weights, which are evaluated

  # --- networks
  model = config.model
  model.patch, model.stages = 4, 1  # a latent position is 8 x 8 pixels
  model.latent_dim = 48  # a quarter of the numbers of the image
  model.width = 32  # channels inside; convolutions are 5 times as wide for split curves
  model.body = 1  # residual 3 x 3 convolutions of the latents' resolution
  model.has_spade = True  # the latent map modulates the expander
  model.has_linear_path = True  # starts as the block DCT; without it 10 dB less
  model.attention_blocks = 0  # of windows of 8 x 8 positions

  # --- loss: MSE + weight * KL in nats a position
  config.loss.mse, config.loss.l1 = 1.0, 0.0
  config.kl.weight = 1e-4
  config.kl.warmup_steps = 400
  config.kl.free_bits = 0.0  # nats of each dimension

  # --- optimization
  config.optimizers.vae.name = 'adamw'
  config.optimizers.vae.learning_rate = 2e-3  # falls to 0.001 of it along a cosine
  config.optimizers.vae.clip_norm = 1.0  # the share of clipped steps is logged
  return config

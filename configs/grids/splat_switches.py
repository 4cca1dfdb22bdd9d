r"""Switches of the Gaussian codec, one change at a time.

  python launch/sweep.py --grid=configs/grids/splat_switches.py
  python launch/tables.py --add=runs/sweep_splat_switches --name=splat_switches

Each run encodes crops of the four held-out photographs (`[scikit-learn]` installed)
with two numbers of Gaussians. Compared is the PSNR of whole files at equal bytes: that
of a file, less that of the baseline's files of the same image at its size (linear in
log(bytes), and beyond the two). It is a report: choose settings by other images.

A switch is a line: its name, and its changes of the configuration.
"""

from codax.sweeps import Grid, Setting

COMMON = {
  'total_steps': 600,
  'counts': (300, 600),
  'data.split': 'test',
  'data.crop': 256,
  'data.limit': 4,
}
# units of codebooks' entries
FINE = {
  'recipe.q_steps.log': 3, 'recipe.q_steps.third': 3, 'recipe.q_steps.luma': 6,
  'recipe.q_steps.chroma': 8,
}  # fmt: skip
SWITCHES = {
  'sum': {'recipe.blend': 'sum'},
  # uniform first Gaussians; later ones still go where the error is
  'evenly': {'recipe.uniform_fraction': 1.0},
  'growth_off': {'recipe.initial_fraction': 1.0},
  # colors by gradients alone
  'solved_off': {'recipe.cg_iterations': 0},
  # no rate term in training
  'rate_off': {'recipe.rate_weight': 0.0},
  # shapes and colors are not moved to their quantized values
  'commitment_off': {'recipe.commitment': 0.0},
  # residual vector quantisation: two stages of 48 entries
  'vector_2x48': {'recipe.coding': 'vector', 'recipe.codebook_size': 48, **FINE},
  # quantized as late as in the source
  'qat_70': {'recipe.qat_start': 0.7},
  # rounded at the end only
  'qat_off': {'recipe.qat_start': 1.0},
  # the angle's step, 5.6 degrees, is about as coarse as the ratio's
  'rotation': {'recipe.covariance': 'rotation', 'recipe.q_steps.third': 128},
}


def get_grid() -> Grid:
  changes = {'baseline': {}, **SWITCHES}
  return Grid(
    settings=[
      Setting(name, 'configs/splat.py', COMMON | change)
      for name, change in changes.items()
    ],
    seeds=(0,),
    baseline='baseline',
  )

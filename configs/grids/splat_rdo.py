r"""Gain of optimized codes, with the quantization steps of the codec and finer ones.

  python launch/sweep.py --grid=configs/grids/splat_rdo.py
  python launch/tables.py --add=runs/sweep_splat_rdo --name=splat_rdo

Each run encodes the middles of up to four images of the folder out/four with two
numbers of Gaussians, minutes a run. Compared is the PSNR of whole files at equal bytes,
as in `splat_switches.py`: the baseline rounds, and every other setting says what
optimization, finer steps, or both of them gain on it. Three seeds.
"""

from codax.sweeps import Grid, Setting

COMMON = {
  'total_steps': 1000,
  'counts': (400, 800),
  'data.name': 'folder',
  'data.path': 'out/four',
  'data.split': 'all',
  'data.crop': 256,
  'data.limit': 4,
}
RDO = {'recipe.rdo_sweeps': 8}
# about two thirds of the codec's steps, and half of them
FINE = {
  'recipe.q_steps.log': 6, 'recipe.q_steps.third': 8, 'recipe.q_steps.luma': 19,
  'recipe.q_steps.chroma': 24,
}  # fmt: skip
FINER = {
  'recipe.q_steps.log': 4, 'recipe.q_steps.third': 6, 'recipe.q_steps.luma': 14,
  'recipe.q_steps.chroma': 18,
}  # fmt: skip
SETTINGS = {
  'baseline': {},
  'rdo': RDO,
  'fine': FINE,
  'fine_rdo': FINE | RDO,
  'finer': FINER,
  'finer_rdo': FINER | RDO,
}


def get_grid() -> Grid:
  return Grid(
    settings=[
      Setting(name, 'configs/splat.py', COMMON | change)
      for name, change in SETTINGS.items()
    ],
    seeds=(0, 1, 2),
    baseline='baseline',
  )

r"""KAN, MLP and CNN: equal parameters, equal FLOPs and equal seconds.

  python launch/sweep.py --grid=configs/grids/kan_vs_mlp.py
  python launch/tables.py --add=runs/sweep_kan_vs_mlp --name=kan_vs_mlp

CIFAR-10 by TensorFlow Datasets is expected in ``data/tfds``. All have the front of
`rapid_kan_lite`; `kan` has its head too, 1024 and 256 units with 8 intervals, in
bfloat16 products. Against it stand heads of the same widths without splines (`mlp`) and
no head at all but a dense layer (`cnn`), each

- as it is, for as many steps;
- with as many parameters (`parameters.`), by a wider layer: as the products of a KAN
  layer are those of its coefficients, FLOPs are then the same within 4 %;
- for as many seconds (`seconds.`), by more steps.

Widths and steps are those that ``launch/studies/kan_vs_mlp_sizes.py`` printed. Reduced:
10 epochs of about 45,000 images for `kan` instead of 50, batches of 128.
"""

from codax.sweeps import Grid, Setting

BASELINE = 'kan'
CONFIG = 'configs/rapid_kan.py:variant=rapid_kan_lite'
EPOCH = 352  # steps
EPOCHS = 10
COMMON = {
  'data.data_dir': 'data/tfds',
  'data.batch_size': 128,
  'total_steps': EPOCHS * EPOCH,
  'log_every': EPOCH,
  'eval_every': EPOCH // 2,
  'checkpoint_every': 2 * EPOCH,
  'patience': 0,
  'writers': (),
  'model.dtype': 'bfloat16',
  'optimizer.learning_rate': 3e-3,
  'optimizer.warmup_steps': EPOCH,
}
NO_KAN = {
  'model.head': 'mlp',
  'optimizer.groups': (('^front', 1.0), ('.', 1.5)),
}
WIDTHS = {'mlp': (1024, 256), 'cnn': (1024,)}
EQUAL_PARAMETERS = {'mlp': (1024, 3572), 'cnn': (1923,)}
EQUAL_SECONDS = {'mlp': EPOCHS * EPOCH, 'cnn': EPOCHS * EPOCH}  # steps


def make_rivals() -> dict[str, dict]:
  """Makes the changes of every setting but the baseline."""
  rivals = {}
  for name, widths in WIDTHS.items():
    rivals[name] = {'model.widths': widths}
    rivals[f'parameters.{name}'] = {'model.widths': EQUAL_PARAMETERS[name]}
    rivals[f'seconds.{name}'] = {
      'model.widths': widths,
      'total_steps': EQUAL_SECONDS[name],
    }
  return rivals


def get_grid() -> Grid:
  settings = [Setting(BASELINE, CONFIG, COMMON)]
  for name, change in make_rivals().items():
    settings.append(Setting(name, CONFIG, COMMON | NO_KAN | change))
  return Grid(
    settings=settings,
    seeds=(0, 1, 2),
    baseline=BASELINE,
    accuracy_targets=(0.6, 0.7, 0.8),
  )

"""Results as launch scripts write them, with numbers that tests know."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
CPU = {'platform': 'cpu', 'cores': 2}


def script(name):
  """launch/NAME.py as a module."""
  path = ROOT / 'launch' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def held_out(name, rows, config='a', **more):
  command = f'python launch/train.py --config=configs/{config}.py'
  content = {'kind': 'held_out', 'schema': 1, 'name': name, 'command': command}
  return {**content, 'hardware': CPU, 'rows': rows, **more}


def sweep(runs, **more):
  content = {'kind': 'sweep', 'schema': 1, 'runs': runs, 'baseline': None}
  return {**content, 'nominal': None, 'nearest': [], 'searched': [], **more}


def published(*codecs):
  return {'kind': 'published', 'schema': 1, 'name': 'p', 'published': list(codecs)}


def kodak(points, codec='splat', **figures):
  """A run over 24 images, whose mean bpp and PSNR are these points."""
  rows = []
  for n, (bpp, psnr) in enumerate(points):
    for i in range(24):
      off = 0.5 if i % 2 else -0.5
      row = {'image': f'{i}.png', 'point': f'count {n}', 'bpp': bpp, 'bytes': 1000}
      ours = {key: value[n] for key, value in figures.items()}
      rows.append({**row, 'codec': codec, 'psnr': psnr + off, **ours})
      rows += [{**row, 'codec': name, 'psnr': psnr} for name in ('jpeg', 'webp')]
  return held_out('kodak_s', rows, 's')


def comparison(points, name='kodak_v', codec='vae:runs/v', **more):
  """A comparison over 24 images with JPEG; the codec has half of JPEG's sizes."""
  rows, means = [], []
  for n, (bpp, psnr) in enumerate(points):
    for label, factor in ((codec, 0.5), ('jpeg', 1.0)):
      row = {'codec': label, 'point': f'p{n}', 'bpp': factor * bpp, 'psnr': psnr}
      size = {'bytes': 1000, 'estimated_bits': None if label == 'jpeg' else 7840.0}
      rows += [{**row, **size, 'image': f'{i}.png'} for i in range(24)]
      means.append({**row, 'image': 'mean of 24', 'psnr_pooled': psnr - 0.25})
  training = {
    'command': 'python launch/train.py --config=configs/v.py:codec',
    'hardware': CPU,
    'seconds': 5400.0,
  }
  content = {
    'kind': 'comparison', 'schema': 1, 'name': name,
    'command': f'python launch/evaluate.py --codecs={codec},jpeg', 'hardware': CPU,
    'request': {'preset': 'medium'},
    'rows': rows, 'means': means, 'trainings': {codec: training},
  }  # fmt: skip
  return {**content, **more}

"""Trains the networks that the overfitted codec starts from.

  python launch/studies/overfit_init.py [--profile=N] [--steps=N] [--crop=N]
      [--out=FILE]

One pair of networks is trained for many crops of the embedded training photographs at
once, each with latents of its own, at several lambdas. The encoder of
`codax.overfit` begins with them; they are no part of the format.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from codax import files
from codax.data import sources
from codax.errors import ArgumentParser, CodaxError, exit_status
from codax.overfit import network_init, train
from codax.overfit.format import arch as archs
from codax.overfit.presets import TrainConfig

LMBDAS = (4e-4, 1e-3, 4e-3)


def load_crops(size: int) -> np.ndarray:
  """Returns two crops of each training photograph, uint8 [P, size, size, 3]."""
  crops = []
  for item in sources.get('photos', 'train'):
    image = item['image']
    h, w = image.shape[:2]
    for y, x in ((0.25, 0.25), (0.75, 0.75)):
      top, left = int(y * (h - size)), int(x * (w - size))
      crops.append(image[top : top + size, left : left + size])
  return np.stack(crops)


def main() -> int:
  parser = ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--profile', type=int, default=2)
  parser.add_argument('--steps', type=int, default=800)
  parser.add_argument('--crop', type=int, default=128)
  parser.add_argument('--out', type=Path)
  args = parser.parse_args()
  if args.profile not in archs.PROFILES:
    raise CodaxError(f'no profile {args.profile}; valid: {list(archs.PROFILES)}')
  file = args.out or Path(f'overfit_init_{args.profile}.safetensors')
  if file.suffix != '.safetensors':
    raise CodaxError(f'--out={file} is not the name of a .safetensors file')
  files.try_writing(file)
  arch, recipe = archs.PROFILES[args.profile], TrainConfig()
  images = load_crops(args.crop)
  targets = jnp.asarray(images, jnp.float32) / 255
  lmbdas = jnp.asarray(np.resize(LMBDAS, len(images)), jnp.float32)
  key = jax.random.key(0)
  state = train.init(key, arch, recipe, targets[:1])
  networks = {k: jax.tree.map(lambda x: x[0], state.params[k]) for k in archs.MODULES}
  shapes = archs.grid_shapes(arch, args.crop, args.crop)
  latents = jnp.zeros((len(images), sum(h * w for h, w in shapes)))
  params = {**networks, 'latents': latents}
  step = train.shared_step(arch, recipe, args.steps)
  opt_state = train.init_opt_state(recipe, params)
  with tqdm(total=args.steps, unit='step', disable=None) as bar:
    for i in range(args.steps):
      params, opt_state, loss = step(
        params, opt_state, targets, lmbdas, key, np.int32(i)
      )
      if i % 50 == 49:
        bar.set_postfix(loss=f'{float(loss):.6f}')
        if bar.disable:
          print(f'step {i + 1}  loss {float(loss):.6f}', flush=True)
      bar.update()
  network_init.save(arch, jax.device_get(params), file)
  print(f'{file}: {file.stat().st_size} bytes')
  return 0


if __name__ == '__main__':
  sys.exit(exit_status(main))

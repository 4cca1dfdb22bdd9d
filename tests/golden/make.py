"""Makes a set of golden files: once, and never again.

    python tests/golden/make.py vqvae_1
    python tests/golden/make.py overfit_1
    python tests/golden/make.py overfit_2
    python tests/golden/make.py splat_1
    python tests/golden/make.py splat_3
    python tests/golden/make.py splat_4
    python tests/golden/make.py vae_1

A set is a folder beside this script: files, the bundle that they were made with if
there is one, the pictures that they decode to (PNG) and ``golden.json`` with the
SHA-256 of their codes. Every later version must decode them to the same codes, and to
pixels within 1 of 255, or to the same pixels where the family is integer to the pixel
(tests/test_golden.py). A set that exists is never written to: a change of the format,
or a new family, gets a new set under a new name, and the old ones stay.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

HERE = Path(__file__).parent
if __name__ == '__main__' and (HERE / sys.argv[-1] / 'golden.json').exists():
  # before packages are imported, which takes seconds
  raise SystemExit(f'{HERE / sys.argv[-1]} exists. Golden files are never made again: '
                   'they are what later versions are held to.')  # fmt: skip
sys.path[:0] = [str(HERE.parents[1] / 'codecs'), str(HERE.parent), str(HERE)]
sys.path[:0] = [
  str(HERE.parent / name) for name in ('vqvae', 'overfit', 'splat', 'vae')
]

import facts
import icc_samples
import jax
import test_splat_integer as splats
import test_splat_reference as odd_splats
import tiny
import tiny_vqvae
import vae_files as vae
import vae_models
from test_splat_vectors import coded

from codax import alpha, bitstream, codec, families
from codax import bundle as bundles
from codax.color import sections as color_sections
from codax.color import spaces
from codax.data import pipeline
from codax.entropy import context_coder
from codax.layers.kan_spec import Spec
from codax.overfit import codec as overfit_codec
from codax.overfit import encode, presets, q_step_search
from codax.overfit.format import arch as archs
from codax.splat import encode as splat_encode
from codax.splat import fit_config
from codax.splat.format import container as splat_codec
from codax.splat.format import (
  integer,
  vectors,
)
from codax.vae import bundle_io
from codax.vae.format import laws
from codax.vqvae import codec as vqvae_codec

STEPS = 400


def train_vqvae() -> bundles.Bundle:
  """A VQ-VAE of 16 codes, trained for a moment on the embedded photographs."""
  config = tiny_vqvae.tiny_config(num_codes=16)
  config.total_steps = STEPS
  config.data.update({'crop': 32})
  config.model.update({'hidden': 8, 'encoder_blocks': 1})
  config.context.update({'hidden': 8, 'embed': 4})
  made, state, _ = tiny_vqvae.train(config, STEPS)
  return made.bundle(jax.device_get(state), {})


def write_vqvae(model, codes, shape, profile, ancillary=()) -> bytes:
  """A file of these codes with the entropy model of this profile."""
  if profile == vqvae_codec.STATIC:
    payload, _ = context_coder.encode_static(model.prior, codes)
  else:
    payload, _ = context_coder.encode(model.context, codes)
  header = bitstream.Header(
    families.family('vqvae').id, profile, *shape, bundle_id=model.id[:8]
  )
  sections = [bitstream.Section(bitstream.CODES, payload)]
  return bitstream.add_sections(bitstream.write(header, sections), ancillary)


def ancillary_sections() -> tuple[bitstream.Section, ...]:
  """A colour profile, an orientation, and one that no version knows."""
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  return (
    bitstream.Section(bitstream.ICC, profile),
    bitstream.Section(bitstream.ORIENTATION, bytes([6])),
    bitstream.Section(0xC5, b'of a later version, to be skipped'),
  )


def vqvae_files(bundle: bundles.Bundle) -> dict[str, bytes]:
  """Files of both profiles: sizes of all sorts, grey, sections, tiles, empty runs."""
  model = vqvae_codec.unpack(bundle)
  photo = pipeline.source({'name': 'photos'}, 'test')[0]['image']
  static, context = vqvae_codec.STATIC, vqvae_codec.CONTEXT

  def of(top, left, h, w, c, profile, ancillary=()):
    image = np.ascontiguousarray(photo[top : top + h, left : left + w, :c])
    z = vqvae_codec.latents(model, image)
    codes = vqvae_codec.rd_select_codes(model, z, 0.0)
    return write_vqvae(model, codes, image.shape, profile, ancillary)

  def flat(h, w, profile):
    codes = np.zeros((-(-h // 4), -(-w // 4), 1), np.int32)
    return write_vqvae(model, codes, (h, w, 3), profile)

  icc, turned, unknown = ancillary_sections()
  tall = np.ascontiguousarray(np.tile(photo[:, 200:203], (3, 1, 1))[:1201])
  return {
    'one_pixel': of(100, 200, 1, 1, 3, static),
    'one_grey_pixel': of(100, 200, 1, 1, 1, context),
    'static_rgb': of(70, 170, 33, 47, 3, static),
    'static_grey': of(300, 100, 17, 64, 1, static),
    'context_rgb': of(60, 160, 96, 120, 3, context),
    'context_grey': of(60, 180, 50, 31, 1, context),
    'icc_and_orientation': of(90, 200, 24, 20, 3, context, [icc, turned]),
    'unknown_section': of(90, 200, 20, 24, 3, static, [unknown]),
    # longer than a tile of the decoder
    'tall': write_vqvae(
      model,
      vqvae_codec.rd_select_codes(model, vqvae_codec.latents(model, tall), 0.0),
      tall.shape,
      context,
    ),
    # the first code only: payloads that end in zero bytes
    'flat_static': flat(64, 80, static),
    'flat_context': flat(80, 64, context),
  }


def of(top, left, h, w, c, arch=archs.PROFILES[1], ancillary=(), steps=100) -> bytes:
  """The file of a part of a photograph, trained for a moment."""
  photo = pipeline.source({'name': 'photos'}, 'test')[0]['image']
  image = np.ascontiguousarray(photo[top : top + h, left : left + w, :c])
  plan = encode.EncodeConfig(arch=arch, stage_steps=presets.Steps(steps, steps // 10))
  return bitstream.add_sections(encode.encode_image(image, plan).data, ancillary)


def random(arch, shape, **kwargs) -> bytes:
  """A file of random contents."""
  return overfit_codec.pack(tiny.make_payload(arch, shape, **kwargs))[0]


def overfit_files() -> dict[str, bytes]:
  """Trained for a moment, or of random contents: every sort of network and size."""
  cubic, hats = Spec(4, 3, -2.0, 2.0, 'relu'), Spec(8, 1, -4.0, 4.0, 'none')
  icc, turned, unknown = ancillary_sections()

  def flat(arch, h, w):
    image = np.full((h, w, 3), (200, 30, 77), np.uint8)
    return overfit_codec.pack(q_step_search.make_constant(arch, image))[0]

  small = tiny.SMALL
  return {
    'one_pixel': of(100, 200, 1, 1, 3),
    'one_grey_row': of(100, 200, 1, 9, 1),
    'rgb': of(60, 160, 40, 56, 3, steps=300),
    'grey': of(60, 180, 33, 31, 1, steps=300),
    'flat': flat(archs.PROFILES[1], 64, 80),
    'icc_and_orientation': of(90, 200, 16, 12, 3, small, [icc, turned]),
    'unknown_section': of(90, 200, 12, 16, 3, small, [unknown]),
    'gelu': of(70, 170, 17, 19, 3, small._replace(activation='gelu')),
    'pwl': of(70, 170, 19, 17, 3, small._replace(activation='pwl')),
    'kan': of(
      70, 170, 18, 22, 3, small._replace(synthesis_kan=cubic, entropy_kan=hats)
    ),
    'kan_cubic_entropy': random(
      small._replace(synthesis_kan=hats, entropy_kan=cubic, linear_skip=False),
      (14, 9, 3),
    ),
    # a window of 24 neighbours; latents to 255; many weights with an escape
    'wide': random(archs.C3, (12, 21, 3), fracs=(9, 12), scale=40.0),
    'deep': random(
      archs.Arch(8, 23, (3, 2, 4), (5, 1, 6), 4, 'gelu'), (23, 17, 1), fracs=(0, 3)
    ),
    # one grid and no hidden layer: almost nothing but latents
    'bare': random(archs.Arch(1, 1, (), (), 0, 'relu', False), (13, 11, 3), scale=0.5),
    # zeros at the end, which the work of so many pixels asks for
    'filled_up': flat(archs.Arch(8, 24, (), (64, 64, 64), 4), 500, 500),
  }


def overfit_2_files() -> dict[str, bytes]:
  """With latents of coarser grids in the context, and learnt upsampling."""
  cubic, hats = Spec(4, 3, -2.0, 2.0, 'relu'), Spec(8, 1, -4.0, 4.0, 'none')
  both = archs.Arch(context=10, inter_grid_context=4, upsampling='learned')
  small = tiny.SMALL
  learnt = small._replace(upsampling='learned')
  return {
    'rgb': of(60, 160, 40, 56, 3, both, steps=300),
    'profile_2': random(archs.PROFILES[2], (22, 25, 3)),
    'profile_3': random(archs.PROFILES[3], (27, 20, 3)),
    'grey': random(both, (33, 31, 1)),
    # one grid: no parent and no filter
    'one_pixel': random(both, (1, 1, 3)),
    'one_grey_row': random(both, (1, 9, 1)),
    'parents': random(small._replace(inter_grid_context=6), (16, 12, 3)),
    'learnt': random(learnt, (12, 16, 3)),
    'every_parent': random(
      archs.Arch(8, 24, inter_grid_context=14), (21, 38, 1), scale=40.0
    ),
    # finer and coarser steps than the linear filter's
    'fine_filters': random(both, (19, 26, 3), fracs=(9, 13), scale=40.0),
    'coarse_filters': random(learnt, (14, 9, 3), fracs=(3, 1)),
    'kan': random(
      learnt._replace(inter_grid_context=3, synthesis_kan=cubic, entropy_kan=hats),
      (18, 22, 3),
    ),
  }


def splats_of(top, left, h, w, c, count, ancillary=(), **recipes) -> bytes:
  """The file of a part of a photograph, fitted for a moment."""
  photo = pipeline.source({'name': 'photos'}, 'test')[0]['image']
  image = np.ascontiguousarray(photo[top : top + h, left : left + w, :c])
  plan = splat_encode.EncodeConfig(
    fit_config.FitConfig(**recipes), total=200, count=count
  )
  return bitstream.add_sections(splat_encode.encode_image(image, plan).data, ancillary)


def splat_files() -> dict[str, bytes]:
  """Fitted for a moment, or of random contents: both codings, all that is extreme."""
  icc, turned, unknown = ancillary_sections()
  picture, same_place = splats.make_payload, odd_splats.same_place
  turning = integer.QSteps(6, 64, 16, 20, 9)
  vector = {'coding': 'vector', 'q_steps': integer.QSteps(2, 2, 5, 8, 9)}

  def pack(made):
    return splat_codec.pack(made)[0]

  def fine(made, digits):
    steps = made.q_steps._replace(fine=digits)
    white = integer.whiten(made.covariance, steps, made.shape)
    place = made.fine + 37 * np.arange(len(white))[:, None]
    place &= (1 << integer.count_fine_bits(white, digits)) - 1
    return made._replace(q_steps=steps, fine=place)

  def escapes(kind, seed):
    steps = integer.QSteps(1, 77, 1, 1, 9)
    made = picture((19, 23, 3), 90, kind, seed=seed)._replace(q_steps=steps)
    return odd_splats.random_codes(made, vectors.MAX_CODE, seed)

  heap = same_place(1200, (2, 2, 3))
  most = heap.color * 0 + vectors.MAX_CODE * (1 - 2 * (np.arange(1200) % 2)[:, None])
  heap = heap._replace(
    color=most, q_steps=heap.q_steps._replace(luma=1024, chroma=1024)
  )
  single = same_place(3000, (1, 1, 1))
  wide = splats.wide(150, (390, 410, 3))
  wide = wide._replace(color=wide.color + 9 * (wide.cells[:, :1] > 200))
  return {
    'one_pixel': splats_of(100, 200, 1, 1, 3, 1),
    'one_grey_row': splats_of(100, 200, 1, 9, 1, 3),
    'rgb': splats_of(60, 160, 40, 56, 3, 150),
    'grey': splats_of(60, 180, 33, 31, 1, 70),
    'icc_and_orientation': splats_of(90, 200, 16, 12, 3, 9, [icc, turned]),
    'unknown_section': splats_of(90, 200, 12, 16, 3, 9, [unknown]),
    'rotation': splats_of(
      70, 170, 32, 40, 3, 70, covariance='rotation', q_steps=turning
    ),
    'sum': splats_of(70, 170, 40, 32, 3, 70, blend='sum'),
    'vector': splats_of(60, 160, 40, 56, 3, 150, **vector),
    'vector_grey': splats_of(60, 180, 33, 31, 1, 70, **vector, blend='sum'),
    'vector_of_one_stage': pack(coded(picture((25, 31, 3), 200, seed=1), (30,))),
    'vector_of_three': pack(
      coded(picture((31, 25, 1), 200, 'rotation', seed=2), (9, 8, 7))
    ),
    'vector_of_four': pack(coded(picture((28, 28, 3), 300, seed=3), (20, 1, 6, 30))),
    'vector_of_escapes': pack(coded(fine(escapes('cholesky', 4), 0), (40, 3))),
    # passes of all sorts of neighbours
    'many': pack(picture((50, 64, 3), 1300, 'rotation', seed=5)),
    'escapes': pack(escapes('cholesky', 6)),
    'escapes_rotation': pack(escapes('rotation', 7)),
    'finest': pack(fine(picture((24, 20, 3), 70, seed=8), 15)),
    # more than 255 in a half; sums of colours that are clipped
    'heap': pack(heap),
    # zeros at the end, by the number of Gaussians, of pairs and of tiles
    'filled_by_count': pack(single._replace(color=0 * single.colour)),
    'filled_by_pairs': pack(wide),
    'filled_by_tiles': pack(picture((2000, 1100, 1), 2, seed=9)),
  }


def splat_2_files() -> dict[str, bytes]:
  """In layers."""
  icc, _, _ = ancillary_sections()
  picture, in_layers = splats.make_payload, odd_splats.in_layers

  def pack(made, count):
    return splat_codec.pack(in_layers(made, count))[0]

  return {
    'rgb': splats_of(60, 160, 40, 56, 3, 150, quality_layers=2),
    'grey': splats_of(60, 180, 33, 31, 1, 70, quality_layers=3),
    'icc': splats_of(90, 200, 16, 12, 3, 9, [icc], quality_layers=4),
    'one_each': pack(picture((3, 5, 3), 2, seed=1), 2),
    'rotation': pack(picture((50, 64, 3), 400, 'rotation', 'sum', seed=5), 4),
    'many': pack(picture((40, 30, 1), 900, seed=6), 3),
    # zeros at the end of both, by the number of Gaussians
    'filled': pack(odd_splats.same_place(3000, (1, 1, 1)), 2),
  }


def splat_3_files() -> dict[str, bytes]:
  """With color spaces: names of all three lengths, and compressed profiles."""

  def pack(seed, channels, code=b'', icc=None):
    made = splats.make_payload((3, 5, channels), 2, seed=seed)
    color = color_sections.make_sections(spaces.ColorSpace(code, icc))
    return bitstream.add_sections(splat_codec.pack(made)[0], color)

  monitor = icc_samples.table(1024, lambda x: x**1.9)
  paper = icc_samples.table(256, lambda x: 0.8 * x**1.7 + 0.2 * x)
  return {
    'display_p3': pack(1, 3, spaces.DISPLAY_P3),
    'adobe_rgb': pack(2, 3, spaces.ADOBE_RGB),
    'prophoto_rgb': pack(3, 3, spaces.PROPHOTO_RGB),
    'narrow_hlg': pack(4, 3, b'\x09\x12\0'),
    'grey_gamma': pack(5, 1, spaces.GAMMA_22),
    'profile': pack(6, 3, icc=icc_samples.rgb(icc_samples.GENERIC, curve=monitor)),
    'profile_without_table': pack(7, 3, icc=icc_samples.rgb(gamma=1.9)),
    'grey_profile': pack(8, 1, icc=icc_samples.grey(curve=paper)),
  }


def planes() -> list[np.ndarray]:
  """Alpha, uint8 [H, W], one for each filter of the format: its number is the index."""
  rng = np.random.default_rng(4)
  none = rng.choice([0, 90, 200, 255], (9, 11))
  left = rng.integers(0, 256, (3, 1)) + 9 * np.arange(5)
  above = rng.integers(0, 256, (1, 5)) + 9 * np.arange(3)[:, None]
  sums = rng.integers(0, 256, (24, 1)) + rng.integers(0, 256, (1, 19))
  both = sums + rng.integers(0, 2, (24, 19))
  return [x.astype(np.uint8) for x in (none, left, above, both)]


def splat_4_files() -> dict[str, bytes]:
  """With alpha: every filter, gray and RGB, and beside other sections."""

  def pack(seed, channels, plane, ancillary=()):
    shape = (*plane.shape, channels)
    made = splat_codec.pack(splats.make_payload(shape, 2, seed=seed))[0]
    return bitstream.add_sections(alpha.add(made, plane), ancillary)

  none, left, above, both = planes()
  icc, turned, unknown = ancillary_sections()
  y, x = np.mgrid[:40, :56]
  disk = np.clip(9 * (18 - np.hypot(y - 20, x - 28)), 0, 255).astype(np.uint8)
  return {
    'unfiltered': pack(1, 3, none),
    'left': pack(2, 3, left),
    'above': pack(3, 1, above),
    'left_and_above': pack(4, 3, both),
    'disk': pack(5, 3, disk),
    'gray_disk': pack(6, 1, disk),
    'invisible': pack(7, 3, np.zeros((1, 1), np.uint8)),
    'icc_and_orientation': pack(8, 3, both, [icc, turned]),
    'unknown_section': pack(9, 1, none, [unknown]),
  }


def vae_files(model: bundle_io.Model) -> dict[str, bytes]:
  """Files of all rates: sizes of all sorts, gray, sections, tiles, large integers."""
  last = model.entropy.tables.positions - 1
  high, low = model.lmbdas
  icc, turned, unknown = ancillary_sections()
  image = vae_models.image

  def of(h, w, c, lmbda=low, ancillary=(), **options):
    data = vae.encode(model, image(h, w, c, seed=h), lmbda=lmbda, **options)
    return bitstream.add_sections(data, ancillary)

  def flat(h, w):
    """No integer but 0: payloads that end in zero bytes."""
    hyper, grid = model.entropy.tables.hyper, (-(-h // 4), -(-w // 4))
    latents = None
    if hyper is not None:
      latents = np.zeros((*(-(-n // 2) for n in grid), hyper.mean.shape[1]), np.int64)
    zeros = lambda index: np.zeros(index.shape, np.int64)
    return vae.write(model, (h, w, 3), last, latents, zeros)

  def largest(index):
    """The largest integer at every table that has more than one."""
    reach = model.entropy.tables.laws.reach[index]
    sign = 1 - 2 * (np.indices(index.shape).sum(0) % 2)
    return np.where(reach > 0, sign * (laws.MAX_MAGNITUDE - 1), 0)

  latents = None
  if model.entropy.tables.hyper is not None:
    latents = np.zeros((1, 1, vae_models.CONFIG.hyper_dim), np.int64)
  return {
    'one_pixel': of(1, 1, 3, high),
    'one_gray_pixel': of(1, 1, 1),
    'gray_row': of(1, 37, 1),
    'rgb': of(33, 47, 3),
    'rgb_coarse': of(47, 33, 3, high),
    'rgb_between': of(40, 24, 3, (low * high) ** 0.5, preset='medium'),
    'gray': of(17, 64, 1, high),
    'icc_and_orientation': of(24, 20, 3, high, [icc, turned]),
    'unknown_section': of(20, 24, 3, high, [unknown]),
    'tall': of(1070, 5, 3, high),  # longer than a tile of the decoder
    'escapes': vae.random(model, (30, 22, 3), 21),
    'largest': vae.write(model, (5, 6, 3), 3, latents, largest),
    'flat': flat(120, 100),
  }


def png(pixels: np.ndarray) -> bytes:
  """uint8 [H, W, C] as PNG; alpha is the last channel of 2 or 4."""
  out = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
    out, 'PNG', optimize=True
  )
  return out.getvalue()


def make_vae(folder: Path, config=vae_models.CONFIG) -> None:
  bundle = vae_models.tiny_bundle(config)
  model = bundle_io.unpack(bundle)
  files = vae_files(model)
  listed = {name: facts.vae(model, data) for name, data in files.items()}
  folder.mkdir()
  bundles.save(bundle, folder / bundles.FILE_NAME)
  made = families.get(bundle.family, model=bundle)
  save(folder, made, files, {'bundle': bundle.id.hex()}, listed)


def make_convolutional(folder: Path) -> None:
  """Files of a convolutional VAE, of few sizes: each is compiled."""
  bundle = vae_models.tiny_vae_bundle()
  model = bundle_io.unpack(bundle)
  image = vae_models.image(16, 24)
  files = {
    'rgb': vae.encode(model, image),
    'rgb_fine': vae.encode(model, image, lmbda=model.lmbdas[1]),
    'gray': vae.encode(model, image[:15, :17, :1]),
    'escapes': vae.random(model, (16, 24, 3), 21),
  }
  listed = {name: facts.vae(model, data) for name, data in files.items()}
  folder.mkdir()
  bundles.save(bundle, folder / bundles.FILE_NAME)
  made = families.get(bundle.family, model=bundle)
  save(folder, made, files, {'bundle': bundle.id.hex()}, listed)


def make_vqvae(folder: Path) -> None:
  bundle = train_vqvae()
  model = vqvae_codec.unpack(bundle)
  files = vqvae_files(bundle)
  listed = {name: facts.vqvae(model, data) for name, data in files.items()}
  folder.mkdir()
  bundles.save(bundle, folder / bundles.FILE_NAME)
  made = families.get(bundle.family, model=bundle)
  save(folder, made, files, {'bundle': bundle.id.hex()}, listed)


def make_overfit(folder: Path, make=overfit_files) -> None:
  files = make()
  listed = {name: facts.overfit(data) for name, data in files.items()}
  folder.mkdir()
  save(folder, families.get(overfit_codec.NAME), files, {}, listed)


def make_splat(folder: Path, make=splat_files) -> None:
  files = make()
  listed = {name: facts.splat(data) for name, data in files.items()}
  folder.mkdir()
  save(folder, families.get(splat_codec.NAME), files, {}, listed)


def save(folder: Path, made: codec.Codec, files, more, listed) -> None:
  """Writes files, pictures and golden.json."""
  for name, data in files.items():
    (folder / f'{name}.cdx').write_bytes(data)
    (folder / f'{name}.png').write_bytes(png(made.decode(data)))
  text = {'family': made.name, 'format_version': bitstream.VERSION, **more}
  text['files'] = listed
  (folder / 'golden.json').write_text(json.dumps(text, indent=2) + '\n', 'utf-8')


SETS = {
  'vqvae_1': make_vqvae,
  'overfit_1': make_overfit,
  'overfit_2': lambda folder: make_overfit(folder, overfit_2_files),
  'splat_1': make_splat,
  'splat_2': lambda folder: make_splat(folder, splat_2_files),
  'splat_3': lambda folder: make_splat(folder, splat_3_files),
  'splat_4': lambda folder: make_splat(folder, splat_4_files),
  'vae_1': make_vae,
  'vae_2': lambda folder: make_vae(folder, vae_models.CONFIG._replace(hyper_dim=0)),
  'vae_3': make_convolutional,
  'vae_4': lambda folder: make_vae(folder, vae_models.CONTEXT),
  'vae_5': lambda folder: make_vae(folder, vae_models.LAPPED),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('name', choices=SETS)
  folder = HERE / parser.parse_args().name
  SETS[folder.name](folder)


if __name__ == '__main__':
  main()

"""Makes a set of golden files: once, and never again.

    python tests/golden/make.py vqvae_1

A set is a folder beside this script: a bundle, files made with it, the pictures that
they decode to (PNG) and ``golden.json`` with the SHA-256 of their codes. Every later
version must decode them to the same codes, and to pixels within 1 of 255
(tests/test_golden.py). A set that exists is never written to: a change of the format,
or a new family, gets a new set under a new name, and the old ones stay.
"""

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / 'codecs'), str(HERE.parent / 'vqvae')]

import jax  # noqa: E402
import tiny_vqvae  # noqa: E402

from codax import bitstream, codec  # noqa: E402
from codax import bundle as bundles  # noqa: E402
from codax.data import pipeline  # noqa: E402
from codax.entropy import context_coder  # noqa: E402
from codax.vqvae import codec as vqvae_codec  # noqa: E402

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
    codec.family('vqvae').id, profile, *shape, bundle_id=model.id[:8]
  )
  sections = [bitstream.Section(bitstream.CODES, payload)]
  return bitstream.add_sections(bitstream.write(header, sections), ancillary)


def vqvae_files(bundle: bundles.Bundle) -> dict[str, bytes]:
  """Files of both profiles: sizes of all sorts, grey, sections, tiles, empty runs."""
  model = vqvae_codec.unpack(bundle)
  photo = pipeline.source({'name': 'photos'}, 'test')[0]['image']
  static, context = vqvae_codec.STATIC, vqvae_codec.CONTEXT

  def of(top, left, h, w, c, profile, ancillary=()):
    image = np.ascontiguousarray(photo[top : top + h, left : left + w, :c])
    z = vqvae_codec.latents(model, image)
    codes = vqvae_codec.choose(model, z, 0.0)
    return write_vqvae(model, codes, image.shape, profile, ancillary)

  def flat(h, w, profile):
    codes = np.zeros((-(-h // 4), -(-w // 4), 1), np.int32)
    return write_vqvae(model, codes, (h, w, 3), profile)

  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  icc = bitstream.Section(bitstream.ICC, profile)
  turned = bitstream.Section(bitstream.ORIENTATION, bytes([6]))
  unknown = bitstream.Section(0xC5, b'of a later version, to be skipped')
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
      vqvae_codec.choose(model, vqvae_codec.latents(model, tall), 0.0),
      tall.shape,
      context,
    ),
    # the first code only: payloads that end in zero bytes
    'flat_static': flat(64, 80, static),
    'flat_context': flat(80, 64, context),
  }


def png(pixels: np.ndarray) -> bytes:
  """uint8 [H, W, 1 or 3] as PNG."""
  out = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
    out, 'PNG', optimize=True
  )
  return out.getvalue()


def facts(model: vqvae_codec.Model, data: bytes) -> dict:
  """What golden.json says of a file."""
  codes, header = vqvae_codec.unpack_codes(model, data)
  _, sections = bitstream.read(data)
  icc = bitstream.find(sections, bitstream.ICC)
  return {
    'file': hashlib.sha256(data).hexdigest(),
    'profile': header.profile,
    'codes_shape': list(codes.shape),
    'codes': hashlib.sha256(codes.astype('<i4').tobytes()).hexdigest(),
    'icc': None if icc is None else hashlib.sha256(icc).hexdigest(),
    'orientation': bitstream.orientation(sections),
  }


SETS = {'vqvae_1': (train_vqvae, vqvae_files)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('name', choices=SETS)
  folder = HERE / parser.parse_args().name
  if folder.exists():
    raise SystemExit(f'{folder} exists. Golden files are never made again: they are '
                     'what later versions are held to.')  # fmt: skip
  train, make_files = SETS[folder.name]
  bundle = train()
  made = codec.get(bundle.family, model=bundle)
  model = vqvae_codec.unpack(bundle)
  folder.mkdir()
  bundles.save(bundle, folder / bundles.FILE_NAME)
  listed = {}
  for name, data in make_files(bundle).items():
    listed[name] = facts(model, data)
    (folder / f'{name}.cdx').write_bytes(data)
    (folder / f'{name}.png').write_bytes(png(made.decode(data)))
  text = {
    'family': bundle.family,
    'format_version': bitstream.VERSION,
    'bundle': bundle.id.hex(),
    'files': listed,
  }
  (folder / 'golden.json').write_text(json.dumps(text, indent=2) + '\n', 'utf-8')


if __name__ == '__main__':
  main()

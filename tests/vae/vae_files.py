"""Files of family 4 for tests: of images, and of integers that no encoder chooses."""

import numpy as np

from codax import bitstream, codec, families
from codax.vae import codec as vae_codec
from codax.vae import coding
from codax.vae.format import laws, scales


def encode(model, image, preset='fast', **options) -> bytes:
  """Encodes an image by a model."""
  return vae_codec._encode(model, codec.Options(preset=preset, **options), image).data


def write(model, shape, position, latents, integers, ancillary=()) -> bytes:
  """Writes a file of these integers."""
  grid = vae_codec._grid(model, *shape[:2])
  sided = coding.side_information(model.entropy, latents, position, grid)

  def take(stage, at, index):
    given = callable(integers)
    return integers(index) if given else integers[at, stage.start : stage.stop]

  integers, sided = coding.walk(model.entropy, sided, take)
  symbols = coding.Symbols(position, latents, integers)
  payload, _ = coding.write(model.entropy, symbols, sided)
  header = bitstream.Header(
    families.family('vae').id, model.profile, *shape, bundle_id=model.id[:8]
  )
  sections = [bitstream.Section(bitstream.CODES, payload)]
  return bitstream.add_sections(bitstream.write(header, sections), ancillary)


def random(model, shape, position, spread=1.0, seed=0, ancillary=()) -> bytes:
  """Writes a file of integers as wide as their tables, times `spread`; some escape."""
  rng = np.random.default_rng(seed)
  h, w = vae_codec._grid(model, *shape[:2])
  tables = model.entropy.tables

  def draw(index):
    scale = spread * laws.scale_of(index)
    values = np.rint(rng.logistic(0, 1, index.shape) * scale).astype(np.int64)
    far = (rng.uniform(size=index.shape) < 0.02 * spread) & (
      tables.laws.reach[index] > 0
    )
    most = laws.MAX_MAGNITUDE - 1
    values = np.where(far, rng.integers(-most, most + 1, index.shape), values)
    return coding.limit(tables.laws, values, index)

  latents = None
  if tables.hyper is not None:
    side = -(-h // 2), -(-w // 2), tables.hyper.mean.shape[1]
    latents = draw(np.broadcast_to(scales.latent_index(tables.hyper, position), side))
    latents = np.clip(latents, -40, 40)
  return write(model, shape, position, latents, draw, ancillary)


def read(model, data):
  """Returns (header, `coding.Symbols`, `coding.Sided`) of a file."""
  header, _, payload = families.read_payload('vae', data)
  shape = vae_codec._grid(model, header.height, header.width)
  return header, *coding.read(model.entropy, payload, shape)

"""Facts of golden files by family: what ``golden.json`` says of each."""

import hashlib

import numpy as np
import vae_files

from codax import bitstream
from codax.color import sections as color_sections
from codax.overfit import codec as overfit_codec
from codax.overfit.format import arch as archs
from codax.splat.format import container as splat_codec
from codax.splat.format import integer
from codax.vae import bundle_io
from codax.vqvae import codec as vqvae_codec


def sha256(array: np.ndarray | bytes) -> str:
  data = array if isinstance(array, bytes) else array.astype('<i4').tobytes()
  return hashlib.sha256(data).hexdigest()


def of_container(data: bytes) -> dict:
  """What golden.json says of a file of any family."""
  header, sections = bitstream.read(data, known=None)
  icc = bitstream.find(sections, bitstream.ICC)
  color, _ = color_sections.read_sections(sections, header.channels)
  expanded = None if color.icc is None else sha256(color.icc)
  return {
    'file': sha256(data),
    'profile': header.profile,
    'icc': None if icc is None else sha256(icc),
    'color': {'code': color.code.hex(), 'icc': expanded},
    'orientation': bitstream.orientation(sections),
  }


def vqvae(model: vqvae_codec.Model, data: bytes) -> dict:
  codes, _ = vqvae_codec.unpack_codes(model, data)
  return {
    **of_container(data),
    'codes_shape': list(codes.shape),
    'codes': sha256(codes),
  }


def overfit(data: bytes) -> dict:
  """Latents and weights: all arrays one after the other, in the file's order."""
  picture = overfit_codec.unpack(data)
  channels = picture.shape[2]
  listed = archs.tensors(picture.arch, len(picture.grids), channels)
  weights = [picture.modules[t.module].weights[t.name].ravel() for t in listed]
  return {
    **of_container(data),
    'grid_shapes': [list(g.shape) for g in picture.grids],
    'latents': sha256(np.concatenate([g.ravel() for g in picture.grids])),
    'weights': sha256(np.concatenate(weights)),
  }


def splat_numbers(picture: integer.Payload) -> list[np.ndarray]:
  """All numbers of a file, in its order."""
  head = [
    len(picture.cells),
    integer.COVARIANCES.index(picture.covariance),
    integer.BLENDS.index(picture.blend),
    picture.vectors is not None,
  ]
  groups = picture.vectors or ()
  codes = [group.index for group in groups] or [picture.shape, picture.color]
  return [
    np.array(head), picture.base, np.array(picture.q_steps), picture.cells,
    *(book for group in groups for book in group.books), *codes, picture.fine,
  ]  # fmt: skip


def splat(data: bytes) -> dict:
  picture = splat_codec.unpack(data)
  numbers = np.concatenate([x.ravel().astype(int) for x in splat_numbers(picture)])
  return {
    **of_container(data),
    'gaussians': len(picture.cells),
    'coding': 'scalar' if picture.vectors is None else 'vector',
    **({} if picture.layers is None else {'layers': sha256(picture.layers)}),
    'codes': sha256(numbers),
  }


def vae(model: bundle_io.Model, data: bytes) -> dict:
  _, symbols, sided = vae_files.read(model, data)
  latents = {} if symbols.latents is None else {'latents': sha256(symbols.latents)}
  return {
    **of_container(data),
    'position': symbols.position,
    'shape': list(symbols.coefficients.shape),
    'scales': sha256(sided.index),
    **latents,
    'codes': sha256(symbols.coefficients),
  }

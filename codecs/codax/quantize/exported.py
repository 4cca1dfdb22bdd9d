"""Exported quantizers in NumPy: what an encoder and a decoder of files need.

`Quantizer.export` names arrays so that they are complete in themselves:

* ``codebook``: float32 [G, K, d], the codewords of G groups;
* ``residual/I/...``: the arrays of stage I, whose codewords are summed;
* ``NAME/...``: the arrays of the implicit quantizer NAME of the registry, whose module
  turns them into codewords (`codebook_from`) and latents into the space where the
  nearest codeword is its choice (`project`).

All arrays lead with the group axis. Codes are int [..., S * G], stage by stage.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from codax.errors import CodaxError
from codax.quantize.registry import REGISTRY

MAX_STAGES = 64


class Codebooks(NamedTuple):
  """Codewords of an exported quantizer.

  Attributes:
    stages: float32 [G, K, d] each; a value is the sum over stages of one codeword.
    project: latents float [..., D] -> latents in the codewords' space.
  """

  stages: tuple[np.ndarray, ...]
  project: Callable[[np.ndarray], np.ndarray]

  @property
  def groups(self) -> int:
    """Returns the number of codes at a position."""
    return len(self.stages) * len(self.stages[0])

  @property
  def num_codes(self) -> int:
    """Returns K, the same for all codes of a position."""
    return self.stages[0].shape[1]

  @property
  def dim(self) -> int:
    """Returns the number of channels, D."""
    groups, _, width = self.stages[0].shape
    return groups * width


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Codebooks:
  """Checks exported arrays and expands them to codewords.

  Raises:
    CodaxError: arrays are missing, superfluous or do not fit each other.
  """
  names = sorted(arrays)
  heads = {name.partition('/')[0] for name in names}
  if names == ['codebook']:
    books, project = (_check_codebook(arrays['codebook']),), _identity
  elif heads == {'residual'}:
    books, project = _stages(_below(arrays, 'residual')), _identity
  elif len(heads) == 1 and heads <= set(REGISTRY):
    (head,) = heads
    module = importlib.import_module(REGISTRY[head])
    if not hasattr(module, 'codebook_from'):
      raise CodaxError(f'quantizer {head} has an explicit codebook')
    inner = _below(arrays, head)
    books = (_check_codebook(module.codebook_from(inner)),)
    project = lambda z: module.project(inner, z)
  else:
    raise CodaxError(f'exported quantizer: arrays {names} form no quantizer')
  if len({book.shape for book in books}) > 1:
    raise CodaxError('exported quantizer: stages of different shapes')
  return Codebooks(books, project)


def decode(books: Codebooks, codes: np.ndarray) -> np.ndarray:
  """Returns the values float32 [..., D] of codes int [..., S * G]."""
  width = len(books.stages[0])
  total = None
  for s, book in enumerate(books.stages):
    parts = [words[codes[..., s * width + g]] for g, words in enumerate(book)]
    values = np.concatenate(parts, axis=-1)
    total = values if total is None else total + values
  return total


def costs(books: Codebooks, z: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """Returns squared distances to the next code's codewords, up to a constant a row.

  Args:
    books: codewords.
    z: float32 [N, D], projected latents.
    codes: int [N, g], the first g < S * G codes of each latent: the next is code g.

  Returns:
    float32 [N, K].
  """
  width = len(books.stages[0])
  stage, group = divmod(codes.shape[-1], width)
  parts = z.reshape(len(z), width, -1)[:, group]
  for before in range(stage):
    parts = parts - books.stages[before][group][codes[:, before * width + group]]
  book = books.stages[stage][group]
  cross = parts @ (2 * book.T)
  return (book**2).sum(-1)[None, :] - cross


def _identity(z: np.ndarray) -> np.ndarray:
  return z


def _below(arrays: Mapping[str, np.ndarray], head: str) -> dict[str, np.ndarray]:
  """Returns the arrays whose names begin with `head`/, without it."""
  return {name.partition('/')[2]: array for name, array in arrays.items()}


def _stages(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
  """Returns the codebooks of 'I/codebook' for I = 0, 1, ..."""
  count = len(arrays)
  if set(arrays) != {f'{i}/codebook' for i in range(count)} or count > MAX_STAGES:
    raise CodaxError(f'exported quantizer: stages {sorted(arrays)} are not complete')
  return tuple(_check_codebook(arrays[f'{i}/codebook']) for i in range(count))


def _check_codebook(array: np.ndarray) -> np.ndarray:
  book = np.asarray(array, np.float32)
  if book.ndim != 3 or not book.size:
    raise CodaxError(f'exported quantizer: a codebook of shape {book.shape}')
  if not np.isfinite(book).all():
    raise CodaxError('exported quantizer: a codebook that is not finite')
  return book

"""Claims about Gaussian codecs, measured: variants of rendering and of quantizing.

GaussianImage says that adding Gaussians up is better than compositing them, and LGI's
note that training with quantization from 70 % of the steps on loses under 1 dB where
rounding afterwards loses about 5. Every variant is one whole fit of the same number of
Gaussians with the same steps and seed. With the codec's own steps there is little to
lose by rounding; with four times as large ones there is. Of codebooks the distance of
their entries from the fitted values is measured, and the saving in size.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from codax.metrics import distortion
from codax.splat import codebooks, fit, quantization
from codax.splat.fit_config import FitConfig
from codax.splat.format import container, integer

_NEVER = 2.0  # more than all steps
_SETTLED = 0.7  # share of the steps after which every quantizing variant does so
_MIN_TIMED = 3  # calls after it: the first one may compile
_DEFAULT = FitConfig()
_COARSER, _FINE = 4, 4  # factor of coarse steps, and their loss of `fine`
_COARSE = integer.QSteps(
  *(_COARSER * step for step in _DEFAULT.q_steps[:-1]),
  fine=_DEFAULT.q_steps.fine - _FINE,
)

# Units of codebooks' entries; little depends on them.
_FINEST = integer.QSteps(3, 3, 6, 8, _DEFAULT.q_steps.fine)
_VECTORS = _DEFAULT._replace(coding='vector', q_steps=_FINEST, adaptive_steps=False)

VARIANTS = {
  'alpha': _DEFAULT._replace(blend='alpha', qat_start=_NEVER),
  'sum': _DEFAULT._replace(blend='sum', qat_start=_NEVER),
  'normalized': _DEFAULT._replace(blend='normalized', qat_start=_NEVER),
  'qat_70': _DEFAULT._replace(blend='normalized', qat_start=0.7),
  'qat': _DEFAULT._replace(blend='normalized'),
  'qat_coarse': _DEFAULT._replace(blend='normalized', q_steps=_COARSE),
  'vq_256': _VECTORS._replace(rvq_stages=1, codebook_size=256),
  'rvq': _VECTORS._replace(rvq_stages=2, codebook_size=48),
}
_CODEBOOKS = ('vq_256', 'rvq')
# Headings of the columns of tables, by the names of `compare`.
COLUMNS = {
  'alpha': 'alpha',
  'sum': 'sum',
  'normalized': 'normalized',
  'rounded': 'rounded at the end',
  'qat_70': 'quantized from 70 %',
  'qat': f'from {_DEFAULT.qat_start:.0%}'.replace('%', ' %'),
  'rounded_coarse': 'rounded at the end, coarsely',
  'qat_coarse': 'quantized coarsely',
  'sum_gain': 'sum above alpha',
  'rounded_loss': 'lost by rounding',
  'qat_70_loss': 'lost from 70 %',
  'qat_loss': 'lost by default',
  'rounded_coarse_loss': 'lost by rounding coarsely',
  'qat_coarse_loss': 'lost when quantized coarsely',
  'normalized_seconds': 's a fit, not quantized',
  'qat_70_seconds': 's from 70 %',
  'qat_seconds': 's by default',
  'qat_time': 'a quantizing step is longer by, %',
  'vq_256': 'codebooks of 256',
  'rvq': 'two stages of 48',
  'vq_256_loss': 'lost with codebooks of 256',
  'rvq_loss': 'lost with two stages of 48',
  'vq_256_shape': 'distortion of shapes, 256',
  'rvq_shape': 'two stages of 48',
  'vq_256_colour': 'distortion of colors, 256',
  'rvq_colour': 'two stages of 48',
  'vq_256_ratio': 'shapes and colors are smaller, times, 256',
  'rvq_ratio': 'two stages of 48',
}


class Job(NamedTuple):
  """One fit.

  Attributes:
    variant: one of `VARIANTS`.
    image: uint8 [H, W, C].
    count: number of Gaussians.
    steps: number of steps.
    seed: seed of everything random.
  """

  variant: str
  image: np.ndarray
  count: int
  steps: int
  seed: int


def measure(
  job: Job, progress: Callable | None = None, reason: Callable = lambda: None
) -> dict[str, Any]:
  """Fits one variant.

  Args:
    job: the fit.
    progress: called as ``progress(done, total)``.
    reason: asked from time to time; the fit ends when it returns something.

  Returns:
    JSON-able: 'vectors' and 'attribute_ratio' of `codebooks.describe_codebooks`, of a
    variant with codebooks; 'psnr', dB of the 8-bit image, of a quantizing variant as
    its file has it; 'rounded' and 'rounded_coarse', the same of a variant that did not
    quantize, rounded at the end (not of 'alpha', which no file has); 'seconds' of the
    fit, compilation in it, and 'step_ms' of the median step beyond `_SETTLED`, None of
    too few; 'stopped', None or the reason, and then nothing but seconds beside it.
  """
  recipe, times, begin = VARIANTS[job.variant], [], time.monotonic()

  def note(done: int, total: int) -> None:
    times.append((done / total, time.monotonic()))
    if progress is not None:
      progress(done, total)

  gaussians, facts = fit.run(
    job.image, job.count, job.steps, recipe, job.seed, note, reason
  )
  seconds = time.monotonic() - begin
  each = [
    now - before
    for (_, before), (share, now) in zip(times, times[1:])
    if share > _SETTLED
  ]
  found = {'seconds': seconds, 'stopped': facts.stopped}
  if facts.stopped:
    return found
  found['psnr'] = facts.psnr_float
  settled = len(each) >= _MIN_TIMED
  found['step_ms'] = (
    1e3 * statistics.median(each) / recipe.rebin_every if settled else None
  )
  if recipe.coding == 'vector':
    found |= _describe_books(job.image, gaussians, recipe)
  if recipe.blend in integer.BLENDS:
    coded = fit.apply_chosen_steps(recipe, facts)
    found['psnr' if recipe.qat_start < 1 else 'rounded'] = _measure_file(
      job.image, gaussians, coded
    )
    if recipe.qat_start > 1:
      mse = 10 ** (-facts.psnr_float / 10)
      coarse = recipe._replace(
        q_steps=quantization.adapt_steps(recipe.covariance, _COARSE, mse)
      )
      found['rounded_coarse'] = _measure_file(job.image, gaussians, coarse)
  return found


def _measure_file(image: np.ndarray, gaussians, recipe: FitConfig) -> float:
  """Returns the PSNR of the decoded file of Gaussians."""
  made = quantization.to_payload(recipe, gaussians, image.shape)
  return distortion.psnr(image, integer.render(made))


def _describe_books(image: np.ndarray, gaussians, recipe: FitConfig) -> dict[str, Any]:
  """Returns facts about the codebooks in the file of Gaussians."""
  made = quantization.to_payload(recipe, gaussians, image.shape)
  return codebooks.describe_codebooks(gaussians, made, container.pack(made)[1], recipe)


def compare(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
  """Compares the variants of one image, by the names of `COLUMNS`.

  Args:
    found: each variant's result of `measure`.

  Returns:
    PSNR in dB, differences of PSNR in dB, seconds, and the additional time of a step
    that quantizes, in % of one that does not (left out where too few were made); of
    codebooks the mean squared distance of shapes and colors from their entries, in
    steps, and the factor by which their bits are fewer than those of float32.
  """
  psnr = {name: one['psnr'] for name, one in found.items()}
  out = {**psnr, **{k: found['normalized'][k] for k in ('rounded', 'rounded_coarse')}}
  out['sum_gain'] = psnr['sum'] - psnr['alpha']
  for name in ('rounded', 'qat_70', 'qat', 'rounded_coarse', 'qat_coarse', *_CODEBOOKS):
    out[f'{name}_loss'] = psnr['normalized'] - out[name]
  for name in ('normalized', 'qat_70', 'qat'):
    out[f'{name}_seconds'] = found[name]['seconds']
  for name in _CODEBOOKS:
    for group, facts in found[name]['vectors'].items():
      out[f'{name}_{group}'] = facts['distortion']
    out[f'{name}_ratio'] = found[name]['attribute_ratio']
  steps = [found[name]['step_ms'] for name in ('qat', 'normalized')]
  if all(steps):
    out['qat_time'] = 100 * (steps[0] / steps[1] - 1)
  return out

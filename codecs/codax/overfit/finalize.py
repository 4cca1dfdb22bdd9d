"""Turns trained parameters into files: quantizes, codes, decodes again, measures."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from codax.codec import Encoded
from codax.errors import CodaxError
from codax.overfit import (
  divergence,
  events,
  latent_rounding,
  measure,
  model,
  q_step_search,
  report,
  weight_rounding,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import container, stream
from codax.overfit.format.arch import Arch


class FitResult(NamedTuple):
  """Parameters that training fitted to an image.

  Attributes:
    params: NumPy arrays, see `model`.
    lmbda: final weight of the rate.
    steps: number of steps, corrections included.
    seconds: time of the steps, without compilation.
    stop_reason: None, or the reason for an early end, see `codec.Encoded`.
    stage2: facts about the plateau rule, see `stages.describe`; None without it.
    events: events of training, see `events`.
  """

  params: Any
  lmbda: float
  steps: int
  seconds: float
  stop_reason: str | None
  stage2: dict[str, Any] | None = None
  events: Sequence[dict[str, Any]] = ()


def write(
  image: np.ndarray,
  arch: Arch,
  trained: FitResult,
  weight_rate_factors: Sequence[float] = (1.0,),
  is_joint: bool = True,
  is_quick: bool = False,
) -> list[Encoded]:
  """Writes files of trained parameters, and decodes them again.

  Args:
    image: uint8 [H, W, C].
    arch: architecture.
    trained: result of training.
    weight_rate_factors: divisors of the weight of the networks' rate, one a file: more
      is finer weights and a larger file.
    is_joint: whether weights are rounded together (`weight_rounding`), or each alone.
    is_quick: whether they are rounded alone, and few steps are tried.

  Returns:
    A file for each factor. One of the mean color takes the place of a single one that
    is worse, and follows several of which any is worse.
  """
  target = np.asarray(image, np.float32) / 255
  rate_weight = trained.lmbda / (image.shape[0] * image.shape[1])
  rate_weights = [rate_weight / factor for factor in weight_rate_factors]
  shapes = archs.grid_shapes(arch, *image.shape[:2])
  rounded = latent_rounding.round_on_host(trained.params['latents'])
  latents = measure.fix_latents(arch, model.split(rounded, shapes))
  before = report.measure_floats(arch, trained.params, latents)
  pairs = q_step_search.QUICK_PAIRS if is_quick else q_step_search.PAIRS
  begin = time.time()
  payloads = _quantize(
    image, arch, trained.params, latents, rate_weights, is_joint and not is_quick, pairs
  )
  search = [
    events.make_event('search of quantization steps begins', begin),
    events.make_event('search of quantization steps ends', time.time()),
  ]
  trained = trained._replace(events=[*trained.events, *search])
  encode = lambda payload: _encode_payload(image, payload, before, trained)
  files, flat = [], None
  # The mean color alone, in a few bytes, is always a choice. No constant is nearer to
  # the image than its variance: mostly there is no need to try.
  variance = divergence.mean_color_mse(target)
  for payload in payloads:
    file = encode(payload)
    if _loss(file) >= 0.999 * variance:
      if flat is None:
        flat = encode(q_step_search.make_constant(arch, image))
      # By a target, and not by the loss, the caller chooses among several.
      file = file if len(payloads) > 1 else min(file, flat, key=_loss)
    files.append(file)
  return files + [flat] if flat is not None and len(payloads) > 1 else files


def _quantize(
  image: np.ndarray,
  arch: Arch,
  params: Any,
  latents: measure.FixedLatents,
  rate_weights: Sequence[float],
  is_joint: bool,
  pairs: Sequence[tuple[int, int]],
) -> list[stream.Payload]:
  """Rounds latents and networks, the latter for each weight of the rate."""
  target = np.asarray(image, np.float32) / 255
  grids = tuple(np.int32(grid) for grid in latents.grids)
  try:
    if is_joint:
      made = weight_rounding.round_networks(arch, params, latents, target, rate_weights)
    else:
      found = q_step_search.candidates(arch, params, latents, target, pairs=pairs)
      made = [q_step_search.choose(found, weight) for weight in rate_weights]
  except CodaxError as e:  # training that diverged leaves such weights
    logging.warning('%s: the file is of one color', e)
    return [q_step_search.make_constant(arch, image)] * len(rate_weights)
  return [stream.Payload(arch, image.shape, modules, grids) for modules in made]


def _encode_payload(
  image: np.ndarray,
  payload: stream.Payload,
  before: report.FloatMeasures,
  trained: FitResult,
) -> Encoded:
  """Writes a file, decodes it again, and measures it."""
  data, bits = container.pack(payload)
  pixels = container.decode(data)
  details = report.make_report(image, payload, data, bits, pixels, before, trained)
  bits = details['estimated_bits']
  return Encoded(data, pixels, bits, details, trained.stop_reason)


def _loss(file: Encoded) -> float:
  details = file.details
  return details['distortion'] + details['lmbda'] * details['file_bpp']

"""The report of an encoded image: all its figures, as JSON and Markdown."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from codax.metrics import distortion
from codax.overfit import latent_rounding, measure
from codax.overfit.format import arch as archs
from codax.overfit.format import stream


class FloatMeasures(NamedTuple):
  """Measures of trained networks before quantization, with rounded latents.

  Attributes:
    pixels: uint8 [H, W, C], their image.
    latent_bits: bits of the latents.
  """

  pixels: np.ndarray
  latent_bits: float


def measure_floats(
  arch: archs.Arch, networks: Any, latents: measure.FixedLatents
) -> FloatMeasures:
  """Measures networks before quantization."""
  pixels = measure.pixels(arch, networks['synthesis'], latents.grids)
  return FloatMeasures(pixels, measure.latent_bits(arch, networks['entropy'], latents))


def make_report(
  image: np.ndarray,
  payload: stream.Payload,
  data: bytes,
  bits: stream.Bits,
  pixels: np.ndarray,
  before: FloatMeasures,
  trained: Any,
) -> dict[str, Any]:
  """Measures an encoded image.

  Args:
    image: uint8 [H, W, C], the original.
    payload: decoded content of the file.
    data: the file.
    bits: ideal lengths of its parts.
    pixels: uint8 [H, W, C], the decoded file.
    before: measures before quantization.
    trained: `encode.FitResult`.

  Returns:
    JSON-able dict; 'bits' and 'bpp' are dicts by part. Keys with 'float_' are of the
    trained networks before quantization (latents rounded).
  """
  height, width, channels = image.shape
  count = height * width
  parts = _part_bits(bits, data)
  mse = distortion.mse(image, pixels) / 255**2
  float_mse = distortion.mse(image, before.pixels) / 255**2
  float_bits = before.latent_bits + bits.synthesis + bits.entropy
  return {
    'height': height,
    'width': width,
    'channels': channels,
    'pixels': count,
    'latents': sum(g.size for g in payload.grids),
    'lmbda': trained.lmbda,
    'psnr': distortion.psnr(image, pixels),
    'psnr_above_one_color': distortion.psnr_above_one_color(image, pixels),
    'float_psnr': distortion.psnr(image, before.pixels),
    'ssim': distortion.ssim(image, pixels),
    'float_ssim': distortion.ssim(image, before.pixels),
    'distortion': mse,
    'float_distortion': float_mse,
    'loss': mse + trained.lmbda * parts['total'] / count,
    'float_loss': float_mse + trained.lmbda * float_bits / count,
    'source_loss': mse + trained.lmbda * parts['latents'] / count,
    'float_source_loss': float_mse + trained.lmbda * before.latent_bits / count,
    'float_latent_bits': before.latent_bits,
    'float_latent_bpp': before.latent_bits / count,
    'bits': parts,
    'bpp': {name: value / count for name, value in parts.items()},
    'grid_bits': list(bits.latents),
    'file_bytes': len(data),
    'file_bpp': 8 * len(data) / count,
    'estimated_bits': parts['total'],
    **_network_facts(payload),
    'steps': trained.steps,
    'steps_per_second': trained.steps / trained.seconds if trained.seconds else None,
    'stopped': trained.stop_reason,
    'status': trained.stop_reason or 'complete',
    'fit_id': identify(trained.params),
    'stage2': trained.stage2,
    'events': list(trained.events),
  }


def identify(params: Any) -> str:
  """Returns the first 16 hex digits of the SHA-256 of fitted parameters.

  Latents count as the integers of the file, as stored fits have them.
  """
  digest = hashlib.sha256()
  for module in archs.MODULES:
    for name in sorted(params[module]):
      digest.update(f'{module}/{name}'.encode())
      digest.update(np.ascontiguousarray(params[module][name], '<f4'))
  latents = latent_rounding.round_on_host(params['latents'])
  digest.update(np.ascontiguousarray(latents, '<i2'))
  return digest.hexdigest()[:16]


def _part_bits(bits: stream.Bits, data: bytes) -> dict[str, float]:
  """Computes the bits of each part of a file, and their total."""
  parts = {
    'latents': sum(bits.latents),
    'synthesis': bits.synthesis,
    'entropy': bits.entropy,
    'side': bits.side,
    'container': 8.0 * (len(data) - stream.payload_size(data)),
  }
  parts['total'] = sum(parts.values())
  return parts


def _network_facts(payload: stream.Payload) -> dict[str, Any]:
  """Collects quantization steps of the networks, and the decoder's cost."""
  macs = archs.macs(payload.arch, *payload.shape)
  return {
    'steps_chosen': {
      name: {'weights': 2.0**-m.weight_frac, 'biases': 2.0**-m.bias_frac}
      for name, m in payload.modules.items()
    },
    'macs_per_pixel': {**macs._asdict(), 'total': macs.total},
    'network_macs_per_pixel': macs.total - macs.upsampling,
  }


_LINES = (
  ('PSNR, dB', 'psnr', '{:.3f}'),
  ('PSNR above the best single color, dB', 'psnr_above_one_color', '{:.3f}'),
  ('PSNR before the networks were quantized, dB', 'float_psnr', '{:.3f}'),
  ('SSIM', 'ssim', '{:.4f}'),
  ('SSIM before', 'float_ssim', '{:.4f}'),
  ('loss', 'loss', '{:.4e}'),
  ('loss before', 'float_loss', '{:.4e}'),
  ("loss by C3's definition, without networks", 'source_loss', '{:.4e}'),
  ('the same before', 'float_source_loss', '{:.4e}'),
  ('distortion (MSE of values in [0, 1])', 'distortion', '{:.4e}'),
  ('distortion before', 'float_distortion', '{:.4e}'),
  ('bits of latents before', 'float_latent_bits', '{:.0f}'),
  ('bpp of latents before', 'float_latent_bpp', '{:.4f}'),
  ('lambda', 'lmbda', '{:.4g}'),
  ('file, bytes', 'file_bytes', '{:d}'),
  ('file, bpp', 'file_bpp', '{:.4f}'),
  ('pixels', 'pixels', '{:d}'),
  ('latents', 'latents', '{:d}'),
  ('steps', 'steps', '{:d}'),
  ('steps a second', 'steps_per_second', '{:.2f}'),
  ('status of training', 'status', '{}'),
  ('fit, SHA-256 of its parameters', 'fit_id', '{}'),
)
# Losses are MSE + lambda * bpp of the latents, with rounded latents.
_STAGE2_LINES = (
  ('loss before it', 'best_loss_before', '{:.6e}'),
  ('best loss', 'best_loss_after', '{:.6e}'),
  ('step of the best loss', 'best_step', '{:d}'),
  ('last learning rate', 'lr', '{:.4e}'),
  ('cuts of the learning rate', 'lr_cuts', '{:d}'),
  ('ended by', 'end', '{}'),
  ('ended at step', 'ended_at', '{:d}'),
)


def markdown(report: Mapping[str, Any], title: str) -> str:
  """Formats a report as Markdown tables that read well as plain text."""
  lines = [f'# {title}', '', '| figure | value |', '|---|--:|']
  for text, key, form in _LINES:
    value = report.get(key)  # sheets of earlier versions lack some
    lines.append(f'| {text} | {"-" if value is None else form.format(value)} |')
  if report.get('stage2'):
    lines += ['', '| second stage | |', '|---|--:|']
    for text, key, form in _STAGE2_LINES:
      value = report['stage2'][key]
      lines.append(f'| {text} | {"-" if value is None else form.format(value)} |')
  lines += ['', '| part | bits | bpp |', '|---|--:|--:|']
  for name, value in report['bits'].items():
    lines.append(f'| {name} | {value:.0f} | {report["bpp"][name]:.4f} |')
  lines += ['', '| grid | bits |', '|---|--:|']
  lines += [f'| {i} | {value:.0f} |' for i, value in enumerate(report['grid_bits'])]
  lines += ['', '| network | step of weights | step of biases |', '|---|--:|--:|']
  for name, steps in report['steps_chosen'].items():
    lines.append(f'| {name} | {steps["weights"]:g} | {steps["biases"]:g} |')
  lines += ['', '| part | MAC/pixel |', '|---|--:|']
  for name, value in report['macs_per_pixel'].items():
    lines.append(f'| {name} | {value:.0f} |')
  value = report['macs_per_pixel']['total'] - report['macs_per_pixel']['upsampling']
  lines.append(f'| total without upsampling | {value:.0f} |')
  if report.get('events'):
    lines += ['', '| event | time | facts |', '|---|---|---|']
  for event in report.get('events', ()):
    facts = {k: v for k, v in event.items() if k not in ('event', 'time')}
    text = ', '.join(f'{key} {value:.6g}' for key, value in facts.items())
    lines.append(f'| {event["event"]} | {event["time"] or "-"} | {text} |')
  return '\n'.join(lines) + '\n'

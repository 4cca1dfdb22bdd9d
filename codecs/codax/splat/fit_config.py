"""Settings of a fit of Gaussians: every setting, and none of the work."""

from typing import NamedTuple

from codax.splat.format import integer

CODINGS = ('scalar', 'vector')
# Steps of whole fits by preset.
TOTAL_STEPS = {'fast': 1500, 'medium': 5000, 'full': 20_000}
# Sweeps of rate-distortion optimization after them.
RDO_SWEEPS = {'fast': 0, 'medium': 8, 'full': 8}
MAX_RDO_SWEEPS = 64


class FitConfig(NamedTuple):
  """Settings of a fit.

  Attributes:
    covariance: parametrization of covariances, one of `geometry.COVARIANCES`.
    blend: rendering of overlapping Gaussians, one of `render.BLENDS`.
    q_steps: quantization steps of a file of 32 dB or less.
    adaptive_steps: whether quantization steps become finer the better the image is
      fitted when quantization begins (`quantization.adapt_steps`), or stay as they are.
    coding: 'scalar': shapes and colors are whole numbers of steps; 'vector': entries
      of codebooks, which are whole numbers of steps (finer ones cost little then).
    rvq_stages: stages of residual vector quantization; 1 is a plain codebook.
    codebook_size: entries of each codebook; 0 chooses by the number of Gaussians.
    commitment: share of the way to their quantized values, 0 to 1, by which shapes and
      colors are moved after every step.
    position_lr: initial learning rate of positions, in pixels.
    covariance_lr, color_lr: initial learning rates.
    final_lr_factor: final learning rates in units of the initial ones.
    qat_start: share of the steps after which Gaussians are quantized before rendering.
    rate_weight: weight w of the rate term during quantization-aware training; the loss
      is log MSE + w log bits. Near 1, as log MSE falls by about 1 where the logarithm
      of the number of Gaussians rises by 1.
    quality_layers: number of quality layers (`format.quality_layers`), each prefix of
      which is an image too; 1 is a plain file.
    quality_layer_weight: weight of the log MSE of the prefixes together, from the start
      of quantization on, beside the whole image's.
    cg_iterations: iterations of conjugate gradients for least-squares colors, at the
      start, after each growth and before quantization; 0 is without.
    initial_fraction: share of the Gaussians that exist from the start, above 0.
    growth_end: share of the steps after which all Gaussians exist, below 1.
    num_growths: number of times that Gaussians are added.
    init_scale: standard deviations of new Gaussians, in units of the mean distance to
      their nearest neighbors.
    uniform_fraction: share of the first Gaussians whose positions are uniform; others
      follow the image's gradient.
    min_scale: lower bound of standard deviations, in pixels, above 0.
    rebin_every: steps between two binnings of Gaussians to tiles, and of every call of
      `step.advance`.
    bin_margin: distance in pixels that Gaussians may move or grow between two binnings.
    rdo_sweeps: number of times, at most, that the file's codes are optimized one
      Gaussian after another (`rdo`), with `rate_weight` as in training; 0 is without.
      Files in layers or with codebooks cannot have it.
  """

  covariance: str = 'cholesky'
  blend: str = 'normalized'
  q_steps: integer.QSteps = integer.QSteps(9, 12, 28, 36, 9)
  adaptive_steps: bool = True
  coding: str = 'scalar'
  rvq_stages: int = 2
  codebook_size: int = 0
  commitment: float = 0.03
  position_lr: float = 0.5
  covariance_lr: float = 0.05
  color_lr: float = 0.015
  final_lr_factor: float = 0.03
  qat_start: float = 0.5
  rate_weight: float = 1.0
  quality_layers: int = 1
  quality_layer_weight: float = 0.2
  cg_iterations: int = 8
  initial_fraction: float = 0.5
  growth_end: float = 0.4
  num_growths: int = 4
  init_scale: float = 0.65
  uniform_fraction: float = 0.1
  min_scale: float = 0.5
  rebin_every: int = 25
  bin_margin: float = 1.5
  rdo_sweeps: int = 0


# Settings that act between calls of a program, or reach it as arrays.
_BETWEEN_CALLS = (
  'q_steps', 'adaptive_steps', 'coding', 'rvq_stages', 'codebook_size',
  'cg_iterations', 'initial_fraction', 'growth_end', 'num_growths', 'qat_start',
  'init_scale', 'uniform_fraction', 'rebin_every', 'bin_margin',
  'rdo_sweeps',
)  # fmt: skip


def to_program_config(recipe: FitConfig) -> FitConfig:
  """Returns the settings that a compiled step reads, the others at their defaults.

  Fits that differ in the others, as those that continue for a target do, share their
  programs.
  """
  defaults = FitConfig._field_defaults
  return recipe._replace(**{key: defaults[key] for key in _BETWEEN_CALLS})

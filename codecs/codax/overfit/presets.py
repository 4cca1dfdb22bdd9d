"""Settings of training and the presets of the encoder; nothing here needs JAX."""

from typing import NamedTuple

from codax.errors import unknown
from codax.layers.kan_spec import Spec
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch

# Valid values of the names in a `TrainConfig`.
CHOICES = {
  'clip': ('networks', 'all', 'none'),
  'noise_distribution': ('gaussian', 'kumaraswamy'),
  'optimizer': ('soap', 'adam'),
  'stage2_latents': ('fixed', 'straight_through'),
}


class TrainConfig(NamedTuple):
  """Settings of the optimization. Hashable: a static argument of `jax.jit`.

  Attributes:
    learning_rate: initial learning rate of stage 1; falls to 0 along a cosine.
    stage2_lr: initial learning rate of stage 2, likewise.
    clip_norm: largest norm of a gradient, 0 or more.
    clip: gradient to clip: 'networks', 'all' (all parameters as one) or 'none'.
    temperature: temperatures of soft rounding at the start and the end of stage 1,
      above 0, linear between.
    noise_distribution: distribution of the noise in stage 1, 'gaussian', or C3's
      'kumaraswamy', which lies within +-1/2 and becomes uniform as its parameter falls
      to 1.
    noise: standard deviation of Gaussian noise in quantization steps, or parameter
      a >= 1 of Kumaraswamy's, at the start and the end of stage 1, linear between. C3
      has 'kumaraswamy', (2, 1), with temperatures (0.3, 0.1).
    optimizer: optimizer of the networks, 'soap' or 'adam'; latents have Adam.
    refresh: number of steps between two computations of SOAP's bases, 1 or more.
    stage2_latents: latents in stage 2: 'fixed', or C3's 'straight_through', which
      rounds them and lets them move by the derivative of soft rounding.
    stage2_temperature: temperature of that derivative, above 0.
    stage2_patience: number of steps without a lower loss after which the learning rate
      of stage 2 falls (C3's plateau rule, see `stages`); 0 is a cosine.
    stage2_decay: factor by which it falls then, above 0 and below 1.
    stage2_min_lr: rate below which stage 2 of the plateau rule ends, 0 or more.
  """

  learning_rate: float = 1e-2
  stage2_lr: float = 1e-3
  clip_norm: float = 0.1
  clip: str = 'networks'
  temperature: tuple[float, float] = (0.35, 0.08)
  noise_distribution: str = 'gaussian'
  noise: tuple[float, float] = (0.22, 0.15)
  optimizer: str = 'soap'
  refresh: int = 10
  stage2_latents: str = 'fixed'
  stage2_temperature: float = 1e-4
  stage2_patience: int = 0
  stage2_decay: float = 0.8
  stage2_min_lr: float = 1e-8


class Steps(NamedTuple):
  """Numbers of steps of the two stages.

  Attributes:
    noise: steps of stage 1, in which noise stands for rounding.
    ste: steps of stage 2, in which latents are rounded.
  """

  noise: int
  ste: int

  @property
  def total(self) -> int:
    """Number of all steps."""
    return self.noise + self.ste


class RunConfig(NamedTuple):
  """The family's keys of a configuration that are in no section.

  Attributes:
    total_steps: number of steps of both stages, 1 or more.
    stage2_steps: number of the last of them that are stage 2, 0 to `total_steps`.
    lmbdas: weights of the rate, above 0; every image is encoded with each.
    pretrained_init: whether networks start from pretrained values, if the package has
      any for the architecture; else at random.
    candidates: number of initializations to choose from, see `warm_up`.
    warm_steps: number of steps that each candidate trains, 1 or more.
    weight_rounding: whether weights are rounded together, see `weight_rounding`; else
      each by itself.
  """

  total_steps: int = 1000
  stage2_steps: int = 100
  lmbdas: tuple[float, ...] = (1e-3,)
  pretrained_init: bool = True
  candidates: int = 1
  warm_steps: int = 50
  weight_rounding: bool = True


class Preset(NamedTuple):
  """A compromise between time and size of the file.

  Attributes:
    arch: architecture.
    steps: numbers of steps.
  """

  arch: Arch
  steps: Steps


# The third profile was chosen on parts of training images of BSDS500, at 3,000 steps on
# a GPU: 2.0 % less MSE + lambda * bpp by 48 units, 1.0 % by inter-grid context and
# learned upsampling together. With few steps on small images neither pays.
PRESETS = {
  'fast': Preset(archs.PROFILES[2], Steps(900, 100)),
  'medium': Preset(archs.PROFILES[3], Steps(9_500, 500)),
  'full': Preset(archs.PROFILES[3], Steps(100_000, 10_000)),
}


def find_preset(name: str | None) -> Preset:
  """Finds a preset; None or '' is 'fast'.

  Raises:
    CodaxError: unknown name; names the nearest.
  """
  name = name or 'fast'
  if name not in PRESETS:
    raise unknown('preset', name, PRESETS)
  return PRESETS[name]


# Few edges and coarse grids, so that coefficients cost few bits. Inputs of the entropy
# network are whole numbers: edge functions of its first layer are tables.
_KAN_ENTROPY = {
  'entropy': (6,),
  'entropy_kan': Spec(grid=8, degree=1, low=-4.0, high=4.0, base='relu'),
}
_KAN_SYNTHESIS = {
  'synthesis': (8,),
  'synthesis_kan': Spec(grid=4, degree=3, low=-4.0, high=4.0, base='relu'),
}
# Changes of an architecture by the name of its networks.
NETWORKS: dict[str, dict] = {
  'mlp': {},
  'kan': {**_KAN_ENTROPY, **_KAN_SYNTHESIS},
  'kan-entropy': _KAN_ENTROPY,
  'kan-synthesis': _KAN_SYNTHESIS,
  'pwl': {'activation': 'pwl'},
}


def with_networks(arch: Arch, name: str) -> Arch:
  """Returns an architecture with other networks, as ``configs/overfit_*.py`` have them.

  Args:
    arch: architecture of perceptrons.
    name: a name in `NETWORKS`.

  Raises:
    CodaxError: unknown name; names the nearest.
  """
  if name not in NETWORKS:
    raise unknown('kind of networks', name, NETWORKS)
  return arch._replace(**NETWORKS[name])

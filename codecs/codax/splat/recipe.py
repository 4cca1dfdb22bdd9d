"""How Gaussians are fitted: every setting, and none of the work."""

from typing import NamedTuple

from codax.splat.format import integer

CODINGS = ('scalar', 'vector')


class Recipe(NamedTuple):
  """How to fit.

  Attributes:
    kind, how: of `geometry` and `render`.
    steps: of quantisation.
    adapted: whether steps become finer the better the picture is fitted when
      quantisation begins (`quantise.steps_for`), or are taken as they are.
    coding: 'scalar': shapes and colours are whole numbers of steps; 'vector': entries
      of codebooks, which are whole numbers of steps (finer ones cost little then).
    stages: of residual vector quantisation; 1 is a plain one.
    entries: of each codebook; 0: by the number of Gaussians.
    commitment: by what share of the way shapes and colours go, in every step, to what
      they are quantised to.
    position_rate: learning rate in pixels.
    shape_rate, colour_rate: learning rates.
    last_rate: of all rates, what is left at the end.
    quantised_from: the share of the steps after which what is rendered is quantised.
    rate: what bits weigh while quantising: log MSE + rate log bits is made smaller;
      about by how much log MSE falls when the logarithm of the number of Gaussians
      rises by one.
    layers: how many, if the first ones are to be a picture too (`layers`); 1 is none.
    layer_weight: what the log MSE of the first layers counts, from when quantisation
      begins, beside that of the whole.
    solved: steps of conjugate gradients for colours of least squares, at the start,
      when Gaussians are added and when quantisation begins; 0 is without.
    first: the share of the Gaussians that are there from the start.
    grown: the share of the steps after which all are there.
    growths: how often some are added.
    spread: standard deviations of new Gaussians, of the distance to their neighbours.
    evenly: the share of the first Gaussians that are placed anywhere.
    least: standard deviations do not fall below, in pixels.
    every: steps between two listings of what touches which tile.
    margin: pixels by which Gaussians may move in between.
  """

  kind: str = 'cholesky'
  how: str = 'normalised'
  steps: integer.Steps = integer.Steps(9, 12, 28, 36, 9)
  adapted: bool = True
  coding: str = 'scalar'
  stages: int = 2
  entries: int = 0
  commitment: float = 0.03
  position_rate: float = 0.5
  shape_rate: float = 0.05
  colour_rate: float = 0.015
  last_rate: float = 0.03
  quantised_from: float = 0.5
  rate: float = 1.0
  layers: int = 1
  layer_weight: float = 0.2
  solved: int = 8
  first: float = 0.5
  grown: float = 0.4
  growths: int = 4
  spread: float = 0.65
  evenly: float = 0.1
  least: float = 0.5
  every: int = 25
  margin: float = 1.5


# What happens between steps, or comes to them as arrays.
_BETWEEN = (
  'steps', 'adapted', 'coding', 'stages', 'entries', 'solved', 'first', 'grown',
  'growths', 'quantised_from', 'spread', 'evenly',
)  # fmt: skip


def of_program(recipe: Recipe) -> Recipe:
  """What a step looks at, the rest as by default: so fits that differ in the rest, as
  those that go on for a target do, share their programs."""
  return recipe._replace(**{k: Recipe._field_defaults[k] for k in _BETWEEN})

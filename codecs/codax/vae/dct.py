"""Linear maps that a network starts from: the block DCT, scaled to unit variance.

The first step of training already decodes images. Coefficients are ordered by their
standard deviation in a model of photographs (power falls with the square of the
frequency, color differences are a quarter of lightness), so a narrow latent holds the
most important ones.
"""

import numpy as np

# Lightness and two color differences, orthonormal.
_COLORS = np.array(
  [
    np.array([1, 1, 1]) / np.sqrt(3),
    np.array([1, 0, -1]) / np.sqrt(2),
    np.array([1, -2, 1]) / np.sqrt(6),
  ]
)
_DEVIATION = 0.8  # of a block's mean on the scale from -1 to 1, times sqrt(3) colors
_COLOR_SHARE = 0.25
_AC_SHARE = 0.2  # of the mean's deviation, at the lowest frequency


def linear_maps(factor: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
  """Makes the maps of blocks to latents and back.

  Args:
    factor: side of a block in pixels.
    channels: number of latents; those above 3 * factor^2 are 0.

  Returns:
    analysis: float32 [3 * factor^2, channels], for blocks as `space_to_depth` has them,
      colors from -1 to 1; latents of photographs have a variance of about 1.
    synthesis: float32 [channels, 3 * factor^2], the inverse on the latents that exist.
  """
  n = np.arange(factor)
  cosines = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / (2 * factor))
  cosines *= np.sqrt(2 / factor)
  cosines[0] /= np.sqrt(2)
  # [row and column frequency, color, row, column, color of the pixel]
  basis = np.einsum('ui,vj,kc->uvkijc', cosines, cosines, _COLORS)
  frequency = np.hypot(n[:, None], n[None])
  deviation = np.where(frequency == 0, 1, _AC_SHARE / np.maximum(frequency, 1))
  colors = np.array([1, _COLOR_SHARE, _COLOR_SHARE])
  deviation = _DEVIATION * factor * deviation[..., None] * colors
  order = np.argsort(-deviation.reshape(-1), kind='stable')[:channels]
  rows = basis.reshape(len(basis) ** 2 * 3, -1)[order]
  scale = deviation.reshape(-1)[order][:, None]
  analysis = np.zeros((rows.shape[1], channels), np.float32)
  analysis[:, : len(order)] = (rows / scale).T
  synthesis = np.zeros((channels, rows.shape[1]), np.float32)
  synthesis[: len(order)] = rows * scale
  return analysis, synthesis

"""Rate-distortion plots."""

import io
from collections.abc import Collection, Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def rate_distortion(
  curves_of: Mapping[str, Sequence[tuple[float, float]]],
  title: str,
  bold: Collection[str] = (),
  about: str = '',
  label: str = 'PSNR (RGB), dB',
) -> bytes:
  """Draws a curve for each codec, as a PNG.

  Args:
    curves_of: name -> (bits per pixel, PSNR in dB or another figure), in any order.
    title: title of the plot.
    bold: names whose curves stand out; without any all are alike.
    about: description that goes into the file.
    label: name of the figure.
  """
  figure = Figure(figsize=(7, 5), layout='constrained')
  axes = figure.add_subplot()
  for name, points in curves_of.items():
    thick = not bold or name in bold
    axes.plot(
      *zip(*sorted(points)), 'o-' if thick else '.--', label=name,
      linewidth=1.6 if thick else 0.9, markersize=4, zorder=3 if thick else 2,
    )  # fmt: skip
  axes.set(xlabel='bits per pixel, of the file', ylabel=label, title=title)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_png(buffer, metadata={'Description': about})
  return buffer.getvalue()

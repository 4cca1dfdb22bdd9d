"""Plots of results: rate and distortion, and figures over a number."""

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


def series(
  panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
  label: str,
  about: str = '',
) -> bytes:
  """Draws figures over a number, a panel for each figure, as a PNG.

  Args:
    panels: label of the figure -> name -> rows of number, mean and standard error.
    label: name of the number, whose axis is logarithmic.
    about: description that goes into the file.
  """
  figure = Figure(figsize=(5 * len(panels), 4), layout='constrained')
  for axes, (name, curves_of) in zip(
    figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
  ):
    for curve, rows in curves_of.items():
      at, mean, error = zip(*sorted(rows))
      axes.errorbar(at, mean, error, fmt='o-', label=curve, markersize=4, capsize=2)
    ticks = sorted({row[0] for rows in curves_of.values() for row in rows})
    axes.set_xscale('log', base=2)
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.set(xlabel=label, ylabel=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_png(buffer, metadata={'Description': about})
  return buffer.getvalue()

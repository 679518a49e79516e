"""The pictures of a report."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from common.files import save_atomically
from common.mel_plot import draw_mel
from metrics import METRICS


def save_mel_picture(mel, mel_config, path, limits):
    """Draws a mel as `common.mel_plot.draw_mel` does, into a file."""
    figure = Figure(figsize=(6, 1.8), layout="constrained")
    draw_mel(figure.subplots(), mel, mel_config, limits)
    _save(figure, path, dpi=100)


def save_plot(rows, references, metric, x, x_label, path):
    """Plots the mean of a metric against `x`, an attribute of a row, with a line for each sampler.

    Args:
        rows: those of a `benchmarking.tools.quality_file.Quality` that have a network.
        references: rows without one, drawn as horizontal lines.
        metric: a name in `METRICS`.
    """
    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    axes = figure.subplots()
    markers = "osD^vP*X"
    for number, sampler in enumerate(dict.fromkeys(row.sampler for row in rows)):
        own = [row for row in rows if row.sampler == sampler and None not in (getattr(row, x), row.means[metric])]
        points = sorted((getattr(row, x), row.means[metric], row.shown) for row in own)
        color = f"C{number}"
        axes.plot(*zip(*[point[:2] for point in points]) if points else ([], []), markers[number % 8], color=color, label=_plain(sampler))
        side = 1 if number % 2 else -1  # names of one sampler above its points, those of the next below
        for value, mean, name in points:
            place = {"xytext": (3, 3 * side), "textcoords": "offset points", "rotation": 40 * side, "rotation_mode": "anchor"}
            axes.annotate(_plain(name.split(", GLA-Grad")[0]), (value, mean), fontsize=7, color=color, **place)
    for row, style in zip(references, ("--", ":")):
        if row.means[metric] is not None:
            axes.axhline(row.means[metric], color="grey", linestyle=style, label=_plain(row.shown))
    axes.set_xscale("log")
    values = sorted({getattr(row, x) for row in rows} - {None})
    if x == "network_calls":
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    axes.margins(x=0.2, y=0.35)  # room for the names
    axes.set_xlabel(x_label)
    axes.set_ylabel(METRICS[metric].label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)  # outside, where it hides no point
    _save(figure, path, dpi=120)


def _plain(text):
    """Text as it is: matplotlib would read what stands between dollar signs as TeX."""
    return text.replace("$", r"\$")


def _save(figure, path, dpi):
    save_atomically(lambda temporary: figure.savefig(temporary, dpi=dpi, format="png"), path)

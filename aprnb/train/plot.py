"""loss.svg: training loss, validation points and the ln V of a uniform guess, in nats.

Plain SVG 1.1 that any browser shows, and no plotting library to install. More than MAX_POINTS steps
are averaged in equal buckets, so the file stays small however long the run.

Below, `x` and `y` are the maps from steps and nats to pixels; SVG counts y downwards from the top.
"""
import math
from html import escape

from ..words import counted

WIDTH, HEIGHT = 840, 460  # pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 56  # margins, pixels
MAX_POINTS = 800  # of the training curve
INK, FAINT, TRAIN, VALIDATION, UNIFORM = "#1f2933", "#e4e7eb", "#7aa5d2", "#c2410c", "#6b7280"


def loss_svg(train, validation, ln_vocab_nats, title):
    """The picture as text.

    train, validation: lists of (step, loss in nats); a validation point stands at the step after
    which it was measured. ln_vocab_nats is drawn as a line where it does not squeeze the curves
    into less than half of the height, and is named otherwise.
    """
    curve = bucket_means(train, MAX_POINTS)
    losses = [loss for _, loss in curve + validation] or [ln_vocab_nats]
    low, high = min(losses), max(losses)
    shown = low - (high - low) <= ln_vocab_nats <= high + max(high - low, 0.1 * high)
    if shown:
        low, high = min(low, ln_vocab_nats), max(high, ln_vocab_nats)
    x_ticks = nice_ticks(0, max([step for step, _ in train + validation] + [1]), 8)
    y_ticks = nice_ticks(low, high, 6)
    x = scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*_axes(x, y, x_ticks, y_ticks),
             *_uniform(y, ln_vocab_nats, shown),
             *_training(x, y, curve),
             *_validation(x, y, validation),
             *_legend(),
             _text(LEFT, 24, title, size=15, weight="bold")]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *parts, "</svg>", ""])


# ---------------------------------------------------------------- numbers

def bucket_means(points, most):
    """At most `most` points: the means of equal runs of neighbours, at their mean step.

    points: list of (step, loss). The last bucket is shorter when the count does not divide.
    """
    width = max(1, -(-len(points) // most))
    buckets = [points[i:i + width] for i in range(0, len(points), width)]
    return [tuple(sum(values) / len(bucket) for values in zip(*bucket)) for bucket in buckets]


def nice_ticks(low, high, count):
    """About `count` multiples of 1, 2 or 5 times a power of ten that enclose low..high.

    At least two, also where low equals high.
    """
    span = max(high - low, abs(high) * 1e-6, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    unit = next(m * power for m in (1, 2, 5, 10) if m * power * count >= span)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [i * unit for i in range(first, max(last, first + 1) + 1)]


def scale(low, high, start, end):
    """The linear map of low..high onto the pixels start..end."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


# ---------------------------------------------------------------- parts of the picture
# each as SVG elements in text; what is drawn later lies on top

def _text(x, y, text, anchor="start", size=12, weight="normal", colour=INK, turn=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'fill="{colour}" text-anchor="{anchor}"{turn}>{escape(text)}</text>')


def _line(x1, y1, x2, y2, colour, style=""):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}" {style}/>')


def _axes(x, y, x_ticks, y_ticks):
    """Grid lines with their losses, ticks with their steps, and what both are."""
    floor, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    for value in y_ticks:
        yield _line(LEFT, y(value), WIDTH - RIGHT, y(value), FAINT)
        yield _text(LEFT - 8, y(value) + 4, f"{value:.6g}", "end")
    for value in x_ticks:
        yield _line(x(value), floor, x(value), floor + 5, INK)
        yield _text(x(value), floor + 20, f"{value:,.6g}", "middle")
    yield _line(LEFT, floor, WIDTH - RIGHT, floor, INK)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "step", "middle", 13)
    yield _text(18, middle, "loss (nats per token)", "middle", 13,
                turn=f' transform="rotate(-90 18 {middle:.1f})"')


def _uniform(y, ln_vocab_nats, shown):
    """ln V as a dashed line, or in words where it lies outside of the picture."""
    label = f"ln V = {ln_vocab_nats:.3f}, a uniform guess"
    if not shown:
        yield _text(WIDTH - RIGHT - 4, TOP + 14, f"{label}: outside this picture", "end",
                    colour=UNIFORM)
        return
    at = y(ln_vocab_nats)
    yield _line(LEFT, at, WIDTH - RIGHT, at, UNIFORM, 'stroke-dasharray="6 4"')
    yield _text(WIDTH - RIGHT - 4, at - 6, label, "end", colour=UNIFORM)


def _points(x, y, points):
    """The `points` attribute of a polyline; a tenth of a pixel is finer than eyes."""
    return " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)


def _training(x, y, curve):
    """The loss of the training steps, one line."""
    yield (f'<polyline id="train" points="{_points(x, y, curve)}" fill="none" '
           f'stroke="{TRAIN}" stroke-width="1.6" stroke-linejoin="round"/>')


def _validation(x, y, points):
    """A dot for every evaluation, which says its step and loss when pointed at, and a line."""
    yield (f'<polyline id="validation" points="{_points(x, y, points)}" fill="none" '
           f'stroke="{VALIDATION}" stroke-width="1.2"/>')
    for step, loss in points:
        yield (f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.5" fill="{VALIDATION}">'
               f"<title>after {counted(step, 'step')}: {loss:.4f} nats</title></circle>")


def _legend():
    """Names of both curves, at the top right."""
    at = WIDTH - RIGHT - 190
    yield _line(at, 20, at + 24, 20, TRAIN, 'stroke-width="2"')
    yield _text(at + 30, 24, "training")
    yield f'<circle cx="{at + 112}" cy="20" r="3.5" fill="{VALIDATION}"/>'
    yield _text(at + 122, 24, "validation")

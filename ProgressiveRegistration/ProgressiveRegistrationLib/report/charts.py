"""The drawn figures of a report as SVG text: histogram and colour scale.

By hand: a plotting library takes longer to load than a lung to be registered by the preset *fast*.
"""

from __future__ import annotations

import numpy as np

# ColorBrewer's RdBu, reversed: the colours of volume change, from halved (blue) to doubled (red).
SHRINK_TO_GROW = np.array(
    [
        (5, 48, 97),
        (33, 102, 172),
        (67, 147, 195),
        (146, 197, 222),
        (209, 229, 240),
        (247, 247, 247),
        (253, 219, 199),
        (244, 165, 130),
        (214, 96, 77),
        (178, 24, 43),
        (103, 0, 31),
    ]
)
BEFORE_COLOUR = "#b9b4ab"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 310, 46, 44, 10
MOST_BARS = 40


def colours(share: np.ndarray) -> np.ndarray:
    """(..., 3) in [0, 1]: the colour of ``share`` (...) of the way from shrinking to growing, 0 to 1."""
    at = np.linspace(0, 1, len(SHRINK_TO_GROW))
    return np.stack([np.interp(share, at, SHRINK_TO_GROW[:, c] / 255) for c in range(3)], -1)


def histogram_svg(before: np.ndarray, after: np.ndarray, after_colour: str) -> str:
    """TRE before and after, in mm, as one SVG; the last bar also holds what lies beyond."""
    top = max(1.0, float(np.percentile(np.concatenate([before, after]), 99.5)))
    widths = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 100.0)
    width = next((w for w in widths if top / w <= MOST_BARS), top / MOST_BARS)
    edges = np.arange(0, top + 2 * width, width)
    rows = [(before, BEFORE_COLOUR, "before"), (after, after_colour, "after")]
    counts = [np.histogram(np.minimum(v, edges[-1] - width / 2), edges)[0] for v, _, _ in rows]
    most = max(1, max(c.max() for c in counts))
    across, up = (WIDTH - LEFT - 8) / edges[-1], (HEIGHT - BOTTOM - TOP) / most
    floor = HEIGHT - BOTTOM
    out = [
        _head(WIDTH, HEIGHT, 13),
        "<title>Histogram of the target registration error</title>",
    ]
    for (values, colour, _), found in zip(rows, counts):
        bars = [
            f'<rect x="{LEFT + across * edges[i]:.1f}" y="{floor - up * n:.1f}" width="{across * width:.1f}" '
            f'height="{up * n:.1f}"/>'
            for i, n in enumerate(found)
            if n
        ]
        out.append(
            f'<g fill="{colour}" fill-opacity="0.85" stroke="#fff" stroke-width="0.6">{"".join(bars)}</g>'
        )
        mean = LEFT + across * min(float(values.mean()), edges[-1])
        out.append(
            f'<path d="M{mean:.1f} {floor}V{TOP}" stroke="{colour}" stroke-width="1.4" '
            'stroke-dasharray="5 3"/>'
        )
    out.append(f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - 8}" fill="none" stroke="#333" stroke-width="0.8"/>')
    for value in _ticks(edges[-1]):
        x = LEFT + across * value
        out.append(
            _text(x, floor + 17, f"{value:g}", "middle") + f'<path d="M{x:.1f} {floor}v4" stroke="#333"/>'
        )
    for value in _ticks(most, whole=True):
        y = floor - up * value
        out.append(
            _text(LEFT - 7, y + 4, f"{value:g}", "end") + f'<path d="M{LEFT} {y:.1f}h-4" stroke="#333"/>'
        )
    out.append(_text((LEFT + WIDTH) / 2, HEIGHT - 8, "target registration error (mm)", "middle"))
    middle = (floor + TOP) / 2
    out.append(_text(13, middle, "landmarks", "middle", f' transform="rotate(-90 13 {middle:.1f})"'))
    for number, (values, colour, name) in enumerate(rows):
        y = TOP + 12 + 20 * number
        out.append(f'<rect x="{WIDTH - 190}" y="{y - 10}" width="20" height="11" fill="{colour}"/>')
        out.append(_text(WIDTH - 163, y, f"{name}: mean {values.mean():.2f} mm", "start"))
    return "".join([*out, "</svg>"])


def scale_svg(largest: float) -> str:
    """The colour scale of volume change, from 1 / ``largest`` to ``largest`` times the volume, as SVG."""
    last = len(SHRINK_TO_GROW) - 1
    stops = "".join(
        f'<stop offset="{i / last:.2f}" stop-color="rgb({r},{g},{b})"/>'
        for i, (r, g, b) in enumerate(SHRINK_TO_GROW.tolist())
    )
    out = [
        _head(520, 46, 12),
        "<title>Colours of volume change</title>",
        f'<defs><linearGradient id="volume-change">{stops}</linearGradient></defs>',
        '<rect x="16" y="2" width="488" height="20" fill="url(#volume-change)" stroke="#333"/>',
    ]
    for share in np.linspace(0, 1, 5):
        out.append(_text(16 + 488 * share, 39, f"{largest ** (2 * share - 1):.2g}", "middle"))
    return "".join([*out, "</svg>"])


def _head(width: int, height: int, font: int) -> str:
    name = "http://www.w3.org/2000/svg"
    return f'<svg xmlns="{name}" viewBox="0 0 {width} {height}" role="img" font-size="{font}" fill="#333">'


def _ticks(top: float, whole: bool = False) -> np.ndarray:
    """Round numbers from 0 to ``top``, about six of them."""
    steps = [m * 10.0**e for e in range(-2, 7) for m in (1, 2, 5)]
    step = next((s for s in steps if top / s <= 7 and (s >= 1 or not whole)), top)
    return np.arange(0, top + 1e-9, step)


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{text}</text>'


def cost_accuracy_svg(points: list[tuple[str, float, float, bool]]) -> str:
    """Error over cost as SVG, with a logarithmic axis: (name, CPU seconds, mean TRE in mm, is it ours)."""
    left, floor, wide = 56.0, 290.0, 600.0
    seconds, errors = np.array([p[1] for p in points]), np.array([p[2] for p in points])
    low, high = np.log10(seconds.min() / 1.6), np.log10(seconds.max() * 1.6)
    top = max(0.1, 1.15 * float(errors.max()))
    out = [_head(640, 340, 13), "<title>Registration error over CPU seconds</title>"]
    out.append(
        f'<path d="M{left} 12V{floor}H{left + wide - 30}" fill="none" stroke="#333" stroke-width="0.8"/>'
    )

    def x(value: float) -> float:
        return left + (wide - 30) * (np.log10(value) - low) / (high - low)

    def y(value: float) -> float:
        return floor - (floor - 12) * value / top

    for value in [m * 10.0**e for e in range(-1, 6) for m in (1, 2, 5)]:
        if low <= np.log10(value) <= high:
            out.append(f'<path d="M{x(value):.1f} {floor}v4" stroke="#333"/>')
            out.append(_text(x(value), floor + 18, f"{value:g}", "middle"))
    for value in _ticks(top):
        out.append(_text(left - 8, y(value) + 4, f"{value:g}", "end"))
        out.append(f'<path d="M{left} {y(value):.1f}H{left + wide - 30}" stroke="#ddd" stroke-width="0.6"/>')
    out.append(_text((left + wide) / 2, 332, "CPU seconds of the whole process", "middle"))
    out.append(_text(15, 150, "mean TRE (mm)", "middle", ' transform="rotate(-90 15 150)"'))
    taken = [(x(p[1]) - 5, y(p[2]) - 5, x(p[1]) + 5, y(p[2]) + 5) for p in points]
    for name, cost, error, ours in points:
        colour, across, up = "#d9731a" if ours else "#2f7fc4", x(cost), y(error)
        out.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{colour}"/>')
        long = 7.5 * len(name)
        places = [  # left end, baseline: above, below, and on either side of the dot
            (across - long / 2, up - 10),
            (across - long / 2, up + 20),
            (across + 9, up + 4),
            (across - 9 - long, up + 4),
        ]
        boxes = [(begin, line - 10, begin + long, line + 3) for begin, line in places]
        free = [k for k, box in enumerate(boxes) if box[3] < floor and not any(_meet(box, o) for o in taken)]
        where = free[0] if free else 0
        taken.append(boxes[where])
        out.append(_text(places[where][0] + long / 2, places[where][1], name, "middle"))
    return "".join([*out, "</svg>"])


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Do two rectangles (left, top, right, bottom) overlap?"""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

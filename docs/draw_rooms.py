"""Draws docs/rooms.svg, the rooms on their floors with an arrow from each to those that it imports.

It also writes the table of rooms in docs/architecture.md and README.md.

python docs/draw_rooms.py            writes all three
python docs/draw_rooms.py --check    exits 1 if they are not those of the code
"""

from __future__ import annotations

import html
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from generated import with_part, write_or_check
from rooms import FLOORS, GUESTS, floor_of, room_arrows, sign_of

HERE = Path(__file__).parent
PICTURE, PAGES = HERE / "rooms.svg", (HERE / "architecture.md", HERE.parent / "README.md")
WIDTH, BOX_WIDTH, BOX_HEIGHT = 900, 272, 62
TOP, FLOOR_HEIGHT, PORT = 74, 104, 38
HEIGHT = TOP + FLOOR_HEIGHT * len(FLOORS) + 10
ROOF, CELLAR = (86, 96, 178), (24, 132, 124)  # the colours of the top and the bottom floor, those between are mixed

CAPTION = "An arrow means “imports”. All arrows go down; one that follows from others is left out."

Arrow = tuple[str, str]  # (room, room that it imports)

STYLE = """
text { font-family: system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; }
.title { font-size: 19px; font-weight: 600; fill: #1f2540; }
.caption { font-size: 12.5px; fill: #5b6178; }
.name { font: 600 14.5px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
.says { font-size: 11.2px; fill: #3b4058; }
"""


@dataclass(frozen=True)
class Box:
    room: str
    floor: int
    x: float  # of its middle

    @property
    def y(self) -> float:
        """Of its upper edge."""
        return TOP + FLOOR_HEIGHT * self.floor + (FLOOR_HEIGHT - BOX_HEIGHT) / 2

    @property
    def color(self) -> str:
        share = self.floor / (len(FLOORS) - 1)
        return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(ROOF, CELLAR, strict=True))


def boxes() -> dict[str, Box]:
    """Each floor's rooms side by side; the guests stand left and right of the top floor's room."""
    placed: dict[str, Box] = {}
    for floor, rooms in enumerate(FLOORS):
        gap = 20 if len(rooms) > 2 else 60
        for number, room in enumerate(rooms):
            middle = number - (len(rooms) - 1) / 2
            placed[room] = Box(room, floor, WIDTH / 2 + middle * (BOX_WIDTH + gap))
    for side, guest in zip((-1, 1), GUESTS, strict=True):
        placed[guest] = Box(guest, 0, WIDTH / 2 + side * (BOX_WIDTH + 20))
    return placed


def drawn_arrows() -> dict[Arrow, int]:
    """The arrows that do not follow from two others, with their number of imports."""
    arrows = room_arrows()
    below: dict[str, set[str]] = defaultdict(set)
    for room, other in sorted(arrows, key=lambda arrow: -floor_of(arrow[1])):
        below[room].add(other)

    def reachable(room: str) -> set[str]:
        return below[room].union(*(reachable(other) for other in below[room]))

    indirect = {room: set().union(*(reachable(other) for other in below[room])) for room in list(below)}
    return {arrow: arrows[arrow] for arrow in sorted(arrows) if arrow[1] not in indirect[arrow[0]]}


def free_middle(floor: int, wanted: float, placed: dict[str, Box]) -> float:
    """The x nearest to the wanted one at which a line passes a floor beside its boxes."""
    margin = BOX_WIDTH / 2 + 12
    taken = [box.x for box in placed.values() if box.floor == floor]
    if all(abs(wanted - x) >= margin for x in taken):
        return wanted
    edges = [x + side * margin for x in taken for side in (-1, 1)]
    free = [edge for edge in edges if all(abs(edge - x) >= margin for x in taken) and 0 < edge < WIDTH]
    return min(free, key=lambda edge: abs(edge - wanted), default=wanted)


def ports(arrows: dict[Arrow, int], placed: dict[str, Box]) -> dict[tuple[str, Arrow], float]:
    """(room, arrow) -> x at which the arrow leaves or enters the room's box, so that arrows do not share a point."""
    found: dict[tuple[str, Arrow], float] = {}

    def beyond(arrow: Arrow, end: int) -> float:
        """The x towards which an arrow leaves, or from which it comes."""
        upper, lower = placed[arrow[0]], placed[arrow[1]]
        if end == 0 or lower.floor == upper.floor + 1:
            return placed[arrow[1 - end]].x
        return free_middle(lower.floor - 1, lower.x, placed)

    for end in (0, 1):
        for room in placed:
            here = sorted((arrow for arrow in arrows if arrow[end] == room), key=lambda arrow: beyond(arrow, end))
            for number, arrow in enumerate(here):
                found[room, arrow] = placed[room].x + (number - (len(here) - 1) / 2) * PORT
    return found


def path_of(start: tuple[float, float], end: tuple[float, float], placed: dict[str, Box], floors: range) -> str:
    """A smooth line from box to box, which passes the floors between beside their boxes."""
    points = [start]
    for floor in floors:
        wanted = end[0] if floor == floors[-1] else points[-1][0]  # straight down, and across on the last floor
        x = free_middle(floor, wanted, placed)
        top = TOP + FLOOR_HEIGHT * floor + (FLOOR_HEIGHT - BOX_HEIGHT) / 2
        points += [(x, top), (x, top + BOX_HEIGHT)]
    points.append(end)
    text = f"M {start[0]:.1f} {start[1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (y1 - y0) * 0.5
        text += f" C {x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}"
    return text


def draw_arrow(arrow: Arrow, imports: int, placed: dict[str, Box], at: dict[tuple[str, Arrow], float]) -> str:
    upper, lower = placed[arrow[0]], placed[arrow[1]]
    start = (at[upper.room, arrow], upper.y + BOX_HEIGHT)
    end = (at[lower.room, arrow], lower.y - 7)
    line = path_of(start, end, placed, range(upper.floor + 1, lower.floor))
    width = 1.7 if imports <= 2 else 2.8 if imports <= 6 else 4.2  # in classes: one more import is no new picture
    x, y = end[0], lower.y - 1
    head = f"M {x - 5.5:.1f} {y - 9:.1f} L {x + 5.5:.1f} {y - 9:.1f} L {x:.1f} {y:.1f} Z"
    return (
        f"<g><title>{sign_of(arrow[0])} imports {sign_of(arrow[1])}</title>"
        f'<path d="{line}" fill="none" stroke="{upper.color}" stroke-opacity="0.6" stroke-width="{width:.2f}"/>'
        f'<path d="{head}" fill="{upper.color}"/></g>'
    )


def draw_box(box: Box) -> str:
    left, guest = box.x - BOX_WIDTH / 2, box.room in GUESTS
    text = (GUESTS | {room: says for floor in FLOORS for room, says in floor.items()})[box.room]
    lines = textwrap.wrap(text.replace("`", ""), 43)
    dashes = ' stroke-dasharray="5 4"' if guest else ""
    color = "#777c93" if guest else box.color
    parts = [
        f'<rect x="{left:.1f}" y="{box.y:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="9" fill="#ffffff" '
        f'stroke="{color}" stroke-width="1.4"{dashes}/>',
        f'<text class="name" x="{box.x:.1f}" y="{box.y + 20:.1f}" text-anchor="middle" fill="{color}">'
        f"{sign_of(box.room)}</text>",
    ]
    for number, line in enumerate(lines):
        y = box.y + (37 if len(lines) > 1 else 42) + 14 * number
        parts.append(f'<text class="says" x="{box.x:.1f}" y="{y:.1f}" text-anchor="middle">{html.escape(line)}</text>')
    return "\n".join(parts)


def picture() -> str:
    placed, arrows = boxes(), drawn_arrows()
    at = ports(arrows, placed)
    floors = [
        f'<rect x="12" y="{TOP + FLOOR_HEIGHT * number + 4}" width="{WIDTH - 24}" height="{FLOOR_HEIGHT - 8}" rx="10" '
        f'fill="#f4f5fa"/>'
        for number in range(len(FLOORS))
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'role="img" aria-label="The rooms of tgpo_ray on their floors; every arrow goes down">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="#ffffff"/>',
            '<text class="title" x="24" y="34">The rooms of tgpo_ray</text>',
            f'<text class="caption" x="24" y="56">{CAPTION}</text>',
            *floors,
            *(draw_arrow(arrow, imports, placed, at) for arrow, imports in arrows.items()),
            *map(draw_box, placed.values()),
            "</svg>\n",
        ]
    )


def table() -> str:
    """Returns the rooms as a table, floor by floor."""
    rows = [
        f"| {number} | `{sign_of(room)}` | {says} |"
        for number, floor in enumerate(FLOORS, start=1)
        for room, says in floor.items()
    ]
    return "\n".join(["| floor | room | what it is |", "|---|---|---|", *rows])


def main() -> None:
    script = Path(__file__).name
    write_or_check({PICTURE: picture()} | {page: with_part(page, script, table()) for page in PAGES}, script)


if __name__ == "__main__":
    main()

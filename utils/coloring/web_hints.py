"""Color hints on the web page: placing, choosing, moving, recoloring and removing them.

All of it is taps on a picture and on buttons. A tap on a free place adds a hint. A tap on a hint takes hold of it,
and the next tap moves it. `gr.Image.select` reports the taps of a mouse and of a finger alike, so that no component
of our own is needed; dragging would need one, and on a phone it would fight with scrolling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import dist
from pathlib import Path
from re import fullmatch

import gradio as gr

from utils.coloring.hints import Hint, parse_hints, takes_hints
from utils.coloring.palette import likely_colors
from utils.coloring.visits import Photo
from utils.coloring.web import Page, lightness_at
from utils.images import ImageError, read_picture
from utils.run import UserError

REACH = 1 / 24  # of the longer side: a tap so near to a hint means the hint. On a phone it is some 14 pixels
UNDO = 100  # changes that can be taken back


def parse_color(color: str) -> str:
    """Convert what the color picker gives, "#rrggbb" or "rgba(r, g, b, a)", to "#rrggbb".

    Raises:
        gr.Error: it is something else.
    """
    if fullmatch("#[0-9a-fA-F]{6}", color):
        return color.lower()
    if channels := fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+).*\)", color):
        return "#" + bytes(min(255, round(float(channel))) for channel in channels.groups()).hex()
    raise gr.Error(f"{color[:40]}: is no color")


def with_warnings(handler: Callable[..., list]) -> Callable[..., list]:
    """Make a handler's errors warnings, which change nothing: Gradio would cover the canvas with "Error"."""

    @functools.wraps(handler)
    def handle(*args: object) -> list:
        try:
            return handler(*args)
        except gr.Error as error:
            gr.Warning(error.message, title="Not done")
            return gr.skip()

    return handle


def nearest(photo: Photo, x: int, y: int) -> int | None:
    """Give the index of the hint that a tap at a place of the photograph means, or None."""
    distances = [dist((hint.x, hint.y), (x, y)) for hint in photo.hints]
    near = [number for number, distance in enumerate(distances) if distance <= REACH * max(photo.size)]
    return min(near, key=distances.__getitem__, default=None)


@dataclass(frozen=True)
class HintEditor:
    """The handlers of the hints. Each gives what `Page.canvas` gives; `Page.update` is to follow for the rest.

    Their arguments are the chosen photograph, the checkpoint and the saturation, and what the handler needs besides.
    All raise gr.Error if there is no photograph, its file is gone, or the checkpoint takes no hints.
    """

    page: Page

    def change(
        self, photo: Photo, name: str, saturation: float, hints: list[Hint], current: int | None, held: bool = False
    ) -> list:
        """Give a photograph other hints, or take hold of one: its canvas."""
        if not takes_hints(self.page.colorizer.generator(name)[0]):
            raise gr.Error(f"{name}: this checkpoint takes no hints; choose another")
        if hints != photo.hints:
            photo.earlier[:] = [*photo.earlier, list(photo.hints)][-UNDO:]
        photo.hints[:], photo.current, photo.held = hints, current, held
        try:
            return self.page.canvas(photo, name, saturation)
        except (ImageError, OSError):
            raise gr.Error(f"{photo.path.name}: is gone; upload it again") from None

    def tap(
        self,
        chosen: str | None,
        name: str,
        saturation: float,
        color: str,
        pick: bool,
        request: gr.Request,
        event: gr.SelectData,
    ) -> list:
        """Add a hint where the canvas was tapped, take hold of the one there, let it go, or move the one held.

        Returns:
            The canvas, the color, and that no color is to be picked any more. With `pick`, the color is that of the
            tapped place, and the hints stay.
        """
        photo = self.page.visits.photo(request, chosen)
        try:
            small = read_picture(photo.preview).rgb.shape[1::-1]
            if pick:
                return [*[gr.skip()] * 5, self.page.color_at(photo, name, saturation, *event.index), False]
        except ImageError:
            raise gr.Error(f"{chosen}: is gone; upload it again") from None
        sides = zip(event.index, photo.size[::-1], small, strict=True)
        x, y = (min(int((at + 0.5) * side / least), side - 1) for at, side, least in sides)
        hints, current, held = list(photo.hints), nearest(photo, x, y), False
        if photo.held and photo.current is not None and current in (None, photo.current):
            if current is None:
                current = photo.current
                hints[current] = replace(hints[current], x=x, y=y)
        elif current is not None:
            held = True
        else:
            hints.append(Hint(x, y, parse_color(color)))
            current = len(hints) - 1
        return [*self.change(photo, name, saturation, hints, current, held), gr.skip(), False]

    def recolor(self, chosen: str | None, name: str, saturation: float, color: str, request: gr.Request) -> list:
        """Give the hint that is held another color; without one the color is for the next hint."""
        photo = self.page.visits.photos(request).get(str(chosen))
        if photo is None or photo.current is None or not photo.held:
            return [gr.skip()] * 5
        hints = list(photo.hints)
        hints[photo.current] = replace(hints[photo.current], color=parse_color(color))
        if hints == photo.hints:
            return [gr.skip()] * 5
        return self.change(photo, name, saturation, hints, photo.current, held=True)

    def recolor_likely(
        self, chosen: str | None, name: str, saturation: float, number: int, request: gr.Request
    ) -> list:
        """Give the hint that was tapped or placed last a likely color of its place: the canvas and the color."""
        photo = self.page.visits.photo(request, chosen)
        if photo.current is None:
            return [gr.skip()] * 6
        hints = list(photo.hints)
        hint = hints[photo.current]
        try:
            color = likely_colors(lightness_at(photo, read_picture(photo.preview), hint))[number]
        except ImageError:
            raise gr.Error(f"{chosen}: is gone; upload it again") from None
        hints[photo.current] = replace(hint, color=color)
        return [*self.change(photo, name, saturation, hints, photo.current), color]

    def remove(self, chosen: str | None, name: str, saturation: float, request: gr.Request) -> list:
        """Remove the hint that was tapped or placed last."""
        photo = self.page.visits.photo(request, chosen)
        left = [hint for number, hint in enumerate(photo.hints) if number != photo.current]
        return self.change(photo, name, saturation, left, None)

    def undo(self, chosen: str | None, name: str, saturation: float, request: gr.Request) -> list:
        """Take the last change back."""
        photo = self.page.visits.photo(request, chosen)
        if photo.earlier:
            photo.hints[:] = photo.earlier.pop()
        return self.change(photo, name, saturation, list(photo.hints), None)

    def clear(self, chosen: str | None, name: str, saturation: float, request: gr.Request) -> list:
        """Remove all hints."""
        return self.change(self.page.visits.photo(request, chosen), name, saturation, [], None)

    def load(self, chosen: str | None, name: str, saturation: float, file: str, request: gr.Request) -> list:
        """Replace the hints by those of a file, as `infer_lab.py` takes it."""
        path = Path(file)
        try:
            photo = self.page.visits.photo(request, chosen)
            hints = parse_hints(path.read_bytes(), path.name)
            hints.check(*photo.size)
        except UserError as error:
            raise gr.Error(str(error)) from None
        except ImageError as error:
            raise gr.Error(f"{chosen}: {error}") from None
        finally:
            path.unlink(missing_ok=True)
        return self.change(photo, name, saturation, list(hints.hints), None)

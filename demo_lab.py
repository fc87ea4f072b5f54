"""A web page that colors photographs: drop some, compare before and after, choose a checkpoint, download.

    make web                      # installs requirements-demo.txt and starts the page
    python demo_lab.py            # http://127.0.0.1:7860

Reads weights/G_default.pt and the newest G_*.pt of each stage that has run. Uploads and results are
kept in a temporary folder; those of a page are deleted when the page is closed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

try:
    import gradio as gr
except ImportError:
    print("error: the page needs Gradio; run pip install -r requirements-demo.txt", file=sys.stderr)
    sys.exit(2)

from config import MAX_SATURATION, DemoConfig
from utils.coloring.colorize import grayscale
from utils.coloring.palette import COLORS, COMMON
from utils.coloring.visits import EXAMPLES_DIR, PAGES, UPLOADS, Visits
from utils.coloring.web import ADD, Page
from utils.coloring.web_colors import Colorizer
from utils.coloring.web_frontend import CSS, JS
from utils.coloring.web_hints import HintEditor, with_warnings
from utils.data.sample_set import load_photo
from utils.files import IMAGE_EXTENSIONS
from utils.images import Picture, write_image
from utils.run import UserError, run_script, say, set_up_device
from utils.training.checkpoints import find_checkpoints

EXAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
MAX_FILE_SIZE = "64mb"
MAX_WAITING = 64  # requests in the queue; more are refused with a message
MAX_SESSIONS = 500  # of which Gradio keeps the state of the page's components
SWEEP = 60  # seconds between two looks for what nobody uses any more
TITLE = "Automatic image colorization"
EXPLANATION = (
    "The network sees only the lightness and guesses the colors; the result keeps the size and the lightness "
    "of the photograph. Colors are guesses: never take them as evidence of what something looked like."
)


class Limit(TypedDict):
    """How many handlers run at once."""

    concurrency_id: str
    concurrency_limit: int


class AtOnce(TypedDict):
    """A handler that is not queued, and takes what the browser sends."""

    queue: bool
    preprocess: bool
    show_progress: Literal["hidden"]


ONE_AT_A_TIME = Limit(concurrency_id="page", concurrency_limit=1)  # bounds the memory, whoever asks for what
AT_ONCE = AtOnce(queue=False, preprocess=False, show_progress="hidden")  # what needs no time must not wait


def build(page: Page) -> gr.Blocks:
    """Lay the page out and bind its handlers."""
    names = list(page.colorizer.checkpoints)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {TITLE}\n{EXPLANATION}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                drop = gr.File(
                    label=f"Photographs, up to {MAX_FILE_SIZE.upper()} each",
                    file_count="multiple",
                    file_types=sorted(IMAGE_EXTENSIONS),
                    height=150,
                    elem_id="drop",
                )
                checkpoint = gr.Radio(names, value=names[-1], label="Checkpoint", elem_id="checkpoint")
                saturation = gr.Slider(0, MAX_SATURATION, 1, step=0.05, label="Saturation", elem_id="saturation")
                gr.Markdown("Examples")
                with gr.Row(elem_id="examples"):
                    icons = {name: str(page.visits.work / EXAMPLES_DIR / f"{name}.png") for name in EXAMPLES}
                    examples = [gr.Button(name, size="sm", min_width=150, icon=icons[name]) for name in EXAMPLES]
            with gr.Column(scale=2, min_width=300):
                sides = gr.ImageSlider(
                    label="Before and after",
                    interactive=False,
                    max_height=640,
                    buttons=["fullscreen"],
                    elem_id="sides",
                )
                choice = gr.Dropdown([], label="Photograph", visible=False, elem_id="choice")
                download = gr.DownloadButton("Download", interactive=False, variant="primary", elem_id="download")
                everything = gr.Button("Color all of them", visible=False, elem_id="all")
                archive = gr.DownloadButton("Download all", visible=False, elem_id="archive")
        settings = [choice, checkpoint, saturation]
        drop.upload(page.visits.claim, drop, **AT_ONCE)
        hints = lay_out_hints(page, settings, [sides, download, archive])
        shown = [sides, download, archive, *hints]
        added = [drop, choice, everything, *shown]
        drop.upload(page.add, [drop, *settings], added, show_progress_on=sides, **ONE_AT_A_TIME)
        for button in examples:
            inputs = [gr.State(button.value), *settings]
            button.click(page.add_example, inputs, added, show_progress_on=sides, **ONE_AT_A_TIME)
        for event in (choice.input, checkpoint.input, saturation.release):
            event(page.show, settings, shown, show_progress_on=sides, trigger_mode="always_last", **ONE_AT_A_TIME)
        everything.click(page.pack, [checkpoint, saturation], archive, **ONE_AT_A_TIME)
        blocks.unload(page.visits.close)
    return blocks.queue(max_size=MAX_WAITING)


def lay_out_hints(page: Page, settings: list, above: list) -> list:
    """Lay the color hints out and bind their handlers; give the components that `Page.show` fills after `above`."""
    editor = HintEditor(page)
    with gr.Accordion("Color hints", open=False, elem_id="hints"), gr.Row():
        # The picker grows and shrinks: above the canvas it would move it under a click
        with gr.Column(scale=2, min_width=300):
            canvas = gr.Image(label=ADD, interactive=False, buttons=[], height=480, elem_id="canvas")
            with gr.Row(visible=False, elem_id="likely") as likely:
                gr.HTML("Likely colors of this place", padding=False)
                swatches = [
                    gr.Button(f"Likely color {n + 1}", elem_id=f"likely{n}", min_width=28) for n in range(COLORS)
                ]
            colors = gr.HTML("", elem_id="colors")  # the style of the likely colors
            table = gr.Dataframe(headers=["x", "y", "color"], interactive=False, label="Hints", elem_id="table")
        with gr.Column(scale=1, min_width=300):
            common = gr.Dropdown(list(COMMON.items()), value=COMMON["sky"], label="Common colors", elem_id="common")
            color = gr.ColorPicker(COMMON["sky"], label="Color", elem_id="color")
            pick = gr.Checkbox(label="Take the color from the next tap", elem_id="pick")
            remove = gr.Button("Remove this hint", interactive=False, size="sm", elem_id="remove")
            undo = gr.Button("Undo", size="sm", elem_id="undo")
            clear = gr.Button("Clear", size="sm", elem_id="clear")
            save = gr.DownloadButton("Download hints", interactive=False, size="sm", elem_id="save")
            load = gr.UploadButton("Load hints", file_types=[".json"], size="sm", elem_id="load")
    edited = [canvas, table, remove, likely, colors]
    common.input(None, common, color, js="color => color")
    color.change(None, [color, common], common, js="(color, common) => color === common ? common : null")
    load.upload(page.visits.claim, load, **AT_ONCE)
    events: list[tuple] = [
        (canvas.select, editor.tap, [color, pick], [color, pick]),
        (color.change, editor.recolor, [color], []),
        (remove.click, editor.remove, [], []),
        (undo.click, editor.undo, [], []),
        (clear.click, editor.clear, [], []),
        (load.upload, editor.load, [load], []),
        *((swatch.click, editor.recolor_likely, [gr.State(n)], [color]) for n, swatch in enumerate(swatches)),
    ]
    for event, handler, inputs, more in events:
        # First the small picture, which is quick, then the whole one
        mode = "always_last" if handler == editor.recolor else "multiple"
        placed = event(
            with_warnings(handler), [*settings, *inputs], [*edited, *more], trigger_mode=mode, **ONE_AT_A_TIME
        )
        placed.success(page.update, settings, [*above, save], show_progress="hidden", **ONE_AT_A_TIME)
    return [save, *edited]


def demo(cfg: DemoConfig) -> None:
    """Serve the page until it is interrupted.

    Raises:
        UserError: there is no checkpoint, or the address cannot be used.
    """
    checkpoints = find_checkpoints()
    if not checkpoints:
        raise UserError("no checkpoint: run python train_lab.py first")
    try:
        socket.create_server((cfg.host, cfg.port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {cfg.host} --port {cfg.port}: {error}; choose others") from None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="demo_lab_") as folder:
        work = Path(folder).resolve()
        for name in EXAMPLES:
            write_image(work / EXAMPLES_DIR / f"{name}.png", grayscale(Picture(load_photo(name), None)))
        (work / PAGES).mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(work / UPLOADS)
        os.environ["GRADIO_RUN_HISTORY"] = "False"
        # Served from where they lie: Gradio would keep copies. Uploads are not: an HTML file among them would open.
        gr.set_static_paths([work / EXAMPLES_DIR, work / PAGES])
        visits = Visits(work)
        page = build(Page(Colorizer(checkpoints, set_up_device(cfg.device)), visits))
        page.launch(
            server_name=cfg.host,
            server_port=cfg.port,
            max_file_size=MAX_FILE_SIZE,
            state_session_capacity=MAX_SESSIONS,
            css=CSS,
            js=JS,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
        say(f"the page is at http://{cfg.host}:{cfg.port}; Ctrl-C ends it")
        while not stop.wait(SWEEP):
            visits.sweep(time.time())
        page.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(DemoConfig, demo, argv)


if __name__ == "__main__":
    sys.exit(main())

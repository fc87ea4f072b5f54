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
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from config import MAX_SATURATION, DemoConfig
from utils.coloring.colorize import grayscale
from utils.coloring.web import EXAMPLES_DIR, PAGES, UPLOADS, Colorizer, Page
from utils.data.sample_set import load_photo
from utils.files import IMAGE_EXTENSIONS
from utils.images import Picture, write_image
from utils.run import UserError, run_script, say, set_up_device
from utils.training.checkpoints import find_checkpoints

EXAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
MAX_FILE_SIZE = "64mb"
MAX_WAITING = 16  # requests in the queue
PALETTE = {  # sRGB; of their colors only the hue and the chroma count
    "skin": "#c89878",
    "dark skin": "#7a4e38",
    "grass": "#5a8040",
    "leaves": "#3f6a38",
    "sky": "#78a8d8",
    "sea": "#407890",
    "wood": "#8a6038",
    "brick": "#a05040",
    "denim": "#405878",
    "gray": "#808080",
}
SWEEP = 600  # seconds after which an upload that no page has taken over is removed
TITLE = "Automatic image colorization"
EXPLANATION = (
    "The network sees only the lightness and guesses the colors; the result keeps the size and the lightness "
    "of the photograph. Colors are guesses: never take them as evidence of what something looked like."
)


def build(page: Page) -> gr.Blocks:
    """Lay the page out and bind its handlers."""
    names = list(page.colorizer.checkpoints)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP, SWEEP)) as blocks:
        photos = gr.State({})
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
                with gr.Row():
                    examples = {
                        name: gr.Button(
                            name, size="sm", min_width=150, icon=str(page.work / EXAMPLES_DIR / f"{name}.png")
                        )
                        for name in EXAMPLES
                    }
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
        with gr.Accordion("Color hints", open=False, elem_id="hints"), gr.Row():
            # The picker grows and shrinks: above the canvas it would move it under a click
            with gr.Column(scale=2, min_width=300):
                canvas = gr.Image(
                    label="Choose a color, then click where it belongs",
                    interactive=False,
                    buttons=[],
                    height=480,
                    elem_id="canvas",
                )
                table = gr.Dataframe(headers=["x", "y", "color"], interactive=False, label="Hints", elem_id="table")
            with gr.Column(scale=1, min_width=300):
                palette = gr.Dropdown(list(PALETTE.items()), value=PALETTE["sky"], label="Common colors")
                color = gr.ColorPicker(PALETTE["sky"], label="Color", elem_id="color")
                undo = gr.Button("Undo", size="sm", elem_id="undo")
                clear = gr.Button("Clear", size="sm", elem_id="clear")
                save = gr.DownloadButton("Download hints", interactive=False, size="sm", elem_id="save")
                load = gr.UploadButton("Load hints", file_types=[".json"], size="sm", elem_id="load")
        shown = [sides, download, archive, canvas, table, save]
        settings = [checkpoint, saturation]
        added = [drop, photos, choice, everything, *shown]
        drop.upload(
            page.add,
            [drop, photos, choice, *settings],
            added,
            show_progress_on=sides,
            concurrency_id="page",
            concurrency_limit=1,
        )
        for name, button in examples.items():
            inputs = [gr.State(name), photos, choice, *settings]
            button.click(
                page.add_example, inputs, added, show_progress_on=sides, concurrency_id="page", concurrency_limit=1
            )
        for event in (choice.input, checkpoint.input, saturation.release):
            inputs = [photos, choice, *settings]
            event(
                page.show,
                inputs,
                shown,
                show_progress_on=sides,
                trigger_mode="always_last",
                concurrency_id="page",
                concurrency_limit=1,
            )
        palette.input(None, palette, color, js="color => color")
        for event, handler, more in (
            (canvas.select, page.place, [color]),
            (undo.click, page.undo, []),
            (clear.click, page.clear, []),
            (load.upload, page.load, [load]),
        ):
            # First the small picture, which is quick, then the whole one
            inputs = [photos, choice, *settings]
            placed = event(
                handler,
                [*inputs, *more],
                [canvas, table],
                trigger_mode="multiple",
                concurrency_id="page",
                concurrency_limit=1,
            )
            placed.success(
                page.show, inputs, shown, show_progress="hidden", concurrency_id="page", concurrency_limit=1
            )
        everything.click(page.pack, [photos, *settings], archive, concurrency_id="page", concurrency_limit=1)
        blocks.unload(page.close)
    return blocks.queue(max_size=MAX_WAITING)


def demo(cfg: DemoConfig) -> None:
    """Serve the page until it is interrupted.

    Raises:
        UserError: there is no checkpoint, or the address cannot be used.
    """
    checkpoints = find_checkpoints()
    if not checkpoints:
        raise UserError("no checkpoint: run python train_lab.py first")
    family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    try:
        socket.create_server((cfg.host, cfg.port), family=family).close()
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
        page = build(Page(Colorizer(checkpoints, set_up_device(cfg.device)), work))
        page.launch(
            server_name=cfg.host,
            server_port=cfg.port,
            max_file_size=MAX_FILE_SIZE,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
        say(f"the page is at http://{cfg.host}:{cfg.port}; Ctrl-C ends it")
        stop.wait()
        page.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    return run_script(DemoConfig, demo, argv)


if __name__ == "__main__":
    sys.exit(main())

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

from config import DemoConfig
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
                saturation = gr.Slider(0, 2, 1, step=0.05, label="Saturation", elem_id="saturation")
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
        shown = [sides, download, archive]
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

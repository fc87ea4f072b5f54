"""A web page that colors photographs: drop some, compare before and after, choose a checkpoint, download.

    make web                      # installs requirements-demo.txt and starts the page
    python demo_lab.py            # http://127.0.0.1:7860

Reads weights/G_default.pt and the newest G_*.pt of each stage that has run. What is uploaded and what becomes of it
lies in a temporary folder, a page's part of which is removed when the page is closed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import gradio as gr
import torch
from torch import Tensor

from config import DemoConfig
from models_lab import GeneratorUNet
from utils.checkpoint import find_checkpoints, load_generator, training_size
from utils.colorize import cast_convolutions, grayscale, merge, predict_ab, prepare
from utils.images import IMAGE_EXTENSIONS, ImageError, Picture, encode_image, read_picture, write_image
from utils.run import UserError, amp_dtype, run_script, say, set_up_device
from utils.sample_data import load_photo

EXAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
MAX_FILE_SIZE = "64mb"
MAX_PIXELS = 2**26  # of an upload
MAX_WAITING = 16  # requests in the queue
ARCHIVE = "colored.zip"
UPLOADS, PAGES, EXAMPLES_DIR = "uploads", "pages", "examples"
SWEEP = 600  # seconds after which an upload that no page has taken over is removed
TITLE = "Automatic image colorization"
EXPLANATION = (
    "The network sees the lightness alone and guesses the colors; the result keeps the size and the very lightness "
    "of the photograph. Colors are guesses: never take them as evidence of what something looked like."
)


@dataclass(frozen=True)
class Photo:
    """A photograph of a page.

    Attributes:
        path: where it lies, in the page's folder.
        ab: what each checkpoint predicted for it, by name: (2, h, w), in [-1, 1], at the network's working size.
    """

    path: Path
    ab: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Colorizer:
    """The checkpoints, and what `infer_lab.py` does with one photograph.

    Attributes:
        checkpoints: G_*.pt files by the name of their stage.
        device: where to compute.
    """

    checkpoints: dict[str, Path]
    device: torch.device

    @functools.cached_property
    def dtype(self) -> torch.dtype | None:
        """The mixed precision of the device."""
        return amp_dtype(self.device, True)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - there is one of these for the whole life of the page
    def generator(self, name: str) -> tuple[GeneratorUNet, int]:
        """Load a checkpoint; gives the generator and its working size."""
        generator, info = load_generator(self.checkpoints[name], self.device)
        cast_convolutions(generator, self.dtype)
        return generator, training_size(info)

    def color(self, photo: Photo, name: str, saturation: float) -> tuple[Picture, Picture]:
        """Give a photograph without color, and colored."""
        picture = read_picture(photo.path)
        if name not in photo.ab:
            generator, size = self.generator(name)
            photo.ab[name] = predict_ab(generator, [prepare(picture, size)], self.device, self.dtype)[0]
        return grayscale(picture), merge(picture, saturation * photo.ab[name])


@dataclass(frozen=True)
class Page:
    """What the handlers of the page need.

    Attributes:
        colorizer: shared by all who look at the page.
        work: folder that holds one folder for each of them.
    """

    colorizer: Colorizer
    work: Path

    def folder(self, request: gr.Request) -> Path:
        """Give the folder of one open page; the browser chose the page's name, which may be a path to elsewhere."""
        folder = self.work / PAGES / hashlib.sha256(str(request.session_hash).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self, request: gr.Request) -> None:
        """Remove what a closed page has left."""
        shutil.rmtree(self.folder(request), ignore_errors=True)

    def take(self, path: Path, folder: Path) -> Photo:
        """Put an upload, or an example, into its page's folder.

        Raises:
            ImageError: it is no image, or too large.
        """
        if path.suffix.lower() not in IMAGE_EXTENSIONS:
            raise ImageError(f"give one of {', '.join(sorted(IMAGE_EXTENSIONS))}")
        read_picture(path, max_pixels=MAX_PIXELS)
        target = Path(tempfile.mkdtemp(dir=folder)) / path.name
        shutil.copyfile(path, target)
        if path.is_relative_to(self.work / UPLOADS):
            path.unlink()
        return Photo(target, {})

    def show(self, photos: dict[str, Photo], chosen: str | None, name: str, saturation: float) -> list:
        """Color the chosen photograph: the two sides of the slider, the file to download, and no archive any more."""
        no_archive = gr.update(value=None, visible=False)
        if chosen is None:
            return [None, gr.update(value=None, interactive=False), no_archive]
        photo = photos[chosen]
        try:
            gray, colored = self.colorizer.color(photo, name, saturation)
        except ImageError as error:  # the page was asleep, and its folder removed
            raise gr.Error(f"{chosen}: {error}; give it again") from None
        results = Path(tempfile.mkdtemp(dir=photo.path.parent))  # under a new name: browsers keep what they have seen
        sides = [results / "before.png", results / "after.png"]
        for path, side in zip(sides, (gray, colored), strict=True):
            write_image(path, side)
        download = results / f"{photo.path.stem}_color{photo.path.suffix}"
        write_image(download, colored)
        for old in photo.path.parent.iterdir():
            if old not in (photo.path, results):
                shutil.rmtree(old)
        return [tuple(map(str, sides)), gr.update(value=str(download), interactive=True), no_archive]

    def add(
        self,
        files: list[str] | None,
        photos: dict[str, Photo],
        chosen: str | None,
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> list:
        """Take over what was dropped, and show the first of it."""
        photos = dict(photos)
        taken = []
        for path in progress.tqdm([Path(file) for file in files or []], desc="reading", unit="photographs"):
            try:
                photo = self.take(path, self.folder(request))
            except ImageError as error:
                gr.Warning(f"{path.name}: {error}", title="Left out")
                continue
            labels = chain([path.name], (f"{path.stem} ({number}){path.suffix}" for number in count(2)))
            label = next(label for label in labels if label not in photos)
            photos[label] = photo
            taken.append(label)
        chosen = taken[0] if taken else chosen
        choice = gr.update(choices=list(photos), value=chosen, visible=len(photos) > 1)
        everything = gr.update(visible=len(photos) > 1)
        return [None, photos, choice, everything, *self.show(photos, chosen, name, saturation)]

    def add_example(
        self,
        example: str,
        photos: dict[str, Photo],
        chosen: str | None,
        name: str,
        saturation: float,
        request: gr.Request,
    ) -> list:
        """Treat an example as if it had been dropped."""
        return self.add([str(self.work / EXAMPLES_DIR / f"{example}.png")], photos, chosen, name, saturation, request)

    def pack(
        self,
        photos: dict[str, Photo],
        name: str,
        saturation: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by this default
    ) -> dict:
        """Color all photographs of a page into one archive."""
        folder = self.folder(request)
        for old in folder.glob(f"*/{ARCHIVE}"):
            shutil.rmtree(old.parent)
        archive = Path(tempfile.mkdtemp(dir=folder)) / ARCHIVE
        with zipfile.ZipFile(archive, "w") as file:
            for label, photo in progress.tqdm(list(photos.items()), desc="coloring", unit="photographs"):
                try:
                    _, colored = self.colorizer.color(photo, name, saturation)
                except ImageError as error:
                    raise gr.Error(f"{label}: {error}; give it again") from None
                file.writestr(label, encode_image(photo.path.suffix, colored))
        return gr.update(value=str(archive), visible=True)


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
        one_at_a_time = {"concurrency_id": "page", "concurrency_limit": 1}
        drop.upload(page.add, [drop, photos, choice, *settings], added, show_progress_on=sides, **one_at_a_time)
        for name, button in examples.items():
            inputs = [gr.State(name), photos, choice, *settings]
            button.click(page.add_example, inputs, added, show_progress_on=sides, **one_at_a_time)
        for event in (choice.input, checkpoint.input, saturation.release):
            inputs = [photos, choice, *settings]
            event(page.show, inputs, shown, show_progress_on=sides, trigger_mode="always_last", **one_at_a_time)
        everything.click(page.pack, [photos, *settings], archive, **one_at_a_time)
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

"""Weights of the networks that FID and LPIPS are computed with: downloaded, from a file, or a random stand-in."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Literal

import torch

from utils.collectives import gather
from utils.run import UserError, is_main_of_machine, say


def find_weights(choice: str, url: str, metric: str, flag: str) -> Path | Literal["stand-in"] | None:
    """Resolve the choice of weights; every process must call this.

    Args:
        choice: "download" (into torch's cache, once per machine), a file, "stand-in", "download-or-stand-in", or
            "none".
        url: of the download, named NAME-HASH.EXTENSION.
        metric: that needs the weights, for the message.
        flag: of the command line that gave the choice, for the messages.

    Returns:
        The file or "stand-in"; None for "none", and if the download failed, which one line says.

    Raises:
        UserError: there is no such file.
    """
    if choice in ("none", "stand-in"):
        return "stand-in" if choice == "stand-in" else None
    if choice not in ("download", "download-or-stand-in"):
        if not Path(choice).is_file():
            raise UserError(f"{flag} {choice}: no such file of weights")
        return Path(choice)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    problem = ""
    if is_main_of_machine() and not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2])
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    problems = [problem for problem in gather(problem) if problem]
    if not problems:
        return path
    say(f"no {metric}: its weights cannot be downloaded ({problems[0]}); {flag} FILE names a copy")
    return "stand-in" if choice == "download-or-stand-in" else None

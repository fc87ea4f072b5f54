"""What all scripts need to run: errors, device, precision, processes and threads, locks, the commit."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import io
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import torch
import torch.distributed as dist
import tyro
from filelock import FileLock, Timeout
from torch import nn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)
Item = TypeVar("Item")
Result = TypeVar("Result")
LOCK_SECONDS = 10.0
_held: dict[Path, FileLock] = {}  # a lock that nothing refers to is released


class Interrupted(Exception):
    """A run stopped on request with everything saved; the message says how to continue."""


class UserError(ValueError):
    """What a user gave is wrong; the message is one line that names it and the mend."""


def run_script(config_class: type[Config], function: Callable[[Config], object], argv: Sequence[str] | None) -> int:
    """Parse a command line into `config_class`, run `function` on it, and give the exit code.

    A `UserError`, or an `OSError` such as a full disk, ends in one line on stderr and code 2; an interrupt in one
    line and code 130. Anything else is a bug and keeps its traceback.
    """
    module = sys.modules["__main__"].__spec__  # of python -m; a script has none
    program = f"-m {module.name}" if module else Path(sys.argv[0]).name
    if isinstance(sys.stdout, io.TextIOWrapper):  # the names of files may have letters that a terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    config = tyro.cli(config_class, args=argv, prog=f"python {program}")
    try:
        function(config)
        print(end="", flush=True)  # what fails here has its handler below; at the end of Python it has none
    except (UserError, OSError, EOFError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _drop_closed_output():
            return 1
        message = _in_one_line(error)
        if message is None:
            raise
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise here if a worker was killed
        if os.environ.get("RANK", "0") != "0":
            time.sleep(3)  # the main process most likely prints the same, and torchrun then ends this one
        print(f"error: {message}", file=sys.stderr)
        traceback.clear_frames(error.__traceback__)  # they hold the data loader, which ends its workers when it goes
        return 2
    except Interrupted as interrupted:
        print(interrupted, flush=True)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        for worker in multiprocessing.active_children():  # they ignore signals, see utils.data.loaders
            worker.kill()
        while _held:
            _held.popitem()[1].release()
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _drop_closed_output() -> bool:
    """Tell whether nobody reads the output any more, as after `| head`; if so, nothing more is written to it."""
    try:
        print(flush=True)  # what was to be written before is forgotten
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _in_one_line(error: Exception) -> str | None:
    """Word an error for the user; None for a bug."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory; give a smaller --batch-size, or --device cpu"
    if text.startswith("DataLoader worker") or isinstance(error, ConnectionError | EOFError):
        return "a data loading process was killed, most likely for lack of memory; give --num-workers 0"
    if isinstance(error, RuntimeError):
        return None
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if text.startswith("Caught "):  # in a data loading worker: the last line of its traceback is the message
        text = text.rstrip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
    return " ".join(text.splitlines())


def set_up_device(name: str) -> torch.device:
    """Check that a device exists and prepare the libraries for it.

    Under torchrun, CUDA process i of a machine takes GPU i, and the process group is opened (NCCL on CUDA, Gloo
    on the CPU).

    Raises:
        UserError: the name is unknown or the machine has no such device.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cuda", "mps", "cpu"):
            raise RuntimeError
    except RuntimeError:
        raise UserError(f"--device {name}: give cuda, cuda:N, mps or cpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA GPUs here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no Apple GPU here; use --device cpu")
    cv2.setNumThreads(0)  # the project's own threads and workers already use every core
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if "LOCAL_RANK" in os.environ:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            if device.index >= torch.cuda.device_count():
                raise UserError(f"--nproc_per_node: at most {torch.cuda.device_count()}, as torch finds no more GPUs")
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            # some wait while another caches, downloads, or colors more; a machine that falls silent is noticed
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return device


def place(network: Network, device: torch.device) -> Network:
    """Move a network to a device, in the memory layout that is fastest there.

    Convolutions prefer channels last; instance norm, which is computed plane by plane, would have to copy.
    """
    by_plane = any(isinstance(module, nn.InstanceNorm2d) for module in network.modules())
    layout = torch.contiguous_format if by_plane else torch.channels_last
    return network.to(device).to(memory_format=layout)


def rank() -> int:
    """Number of this process, from 0; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes run; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def is_main_of_machine() -> bool:
    """Whether this process is the one that does what a machine needs once."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def hold(folder: Path) -> None:
    """Keep other processes of this machine and user from writing to a folder until `run_script` or this one ends.

    The lock is in the system's folder for temporary files, the same for all of a user's processes, so that nothing
    has to be cleaned up here. The system frees the lock of a process that is killed once its data loading workers
    have ended as well, which is why another one is given LOCK_SECONDS before it counts as running.

    Raises:
        UserError: it is a file, another process holds it, which the message names, or the lock cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; name another one")
    if not is_main():
        return
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:20]
    temporary = "/tmp" if os.name == "posix" else tempfile.gettempdir()
    lock = Path(temporary, f"lab_pix2pix-{getattr(os, 'getuid', getpass.getuser)()}", f"{name}.lock")
    owner = lock.with_suffix(".owner")
    if lock in _held:
        return
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix" and (status := os.lstat(lock.parent)).st_uid != os.getuid():
        raise UserError(f"{lock.parent}: belongs to user {status.st_uid}; have it removed")
    try:
        file_lock = FileLock(lock, thread_local=False)
        file_lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        other = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise UserError(f"{folder}: {other} is writing there; wait for it, or name another folder") from None
    _held[lock] = file_lock
    with contextlib.suppress(OSError):  # a full disk: the next one reads of "another process"
        owner.write_text(f"{command()} (process {os.getpid()})", encoding="utf-8", errors="backslashreplace")


def say(message: str) -> None:
    """Print a line from the main process, at once."""
    if is_main():
        print(message, flush=True)


def plain_config(cfg: DataclassInstance) -> dict[str, object]:
    """Turn a configuration into a dict of plain types."""

    def plain(value: object) -> object:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in dataclasses.asdict(cfg).items()}


def say_config(config: DataclassInstance, device: torch.device, dtype: torch.dtype | None) -> None:
    """Print the resolved configuration, the device and the precision."""
    for name, value in plain_config(config).items():
        say(f"{name} = {value}")
    precision = "float32" if dtype is None else f"{str(dtype).removeprefix('torch.')} autocast"
    say(f"running on {device} in {precision}, {world_size()} process(es), torch {torch.__version__}")


def command() -> str:
    """Give the command that resumes this run: without --no-resume, which would start over."""
    anew = "--no-resume" in (argument.replace("_", "-") for argument in sys.argv)
    if dist.is_initialized():
        return "the same torchrun command" + (" without --no-resume" if anew else "")
    return shlex.join(["python", *(argument for argument in sys.argv if argument.replace("_", "-") != "--no-resume")])


def amp_dtype(device: torch.device, enabled: bool) -> torch.dtype | None:
    """Choose the mixed-precision type: bfloat16 where the hardware computes in it, float16 on older CUDA, or none."""
    if not enabled:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        if any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")):
            return torch.bfloat16
    return None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Open a mixed-precision region, or none where `dtype` is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def git_commit() -> str:
    """Name the commit of this code, with "+" where the tree differs from it; "unknown" outside a repository."""
    root = Path(__file__).resolve().parent.parent
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield function(item) in order, computed ahead in threads; at most four results a thread wait in memory.

    OpenCV, NumPy and torch release the interpreter lock, so threads use all cores without copying images between
    processes, and work the same on every system. torch opens no further threads in them.
    """
    items = iter(items)
    with ThreadPoolExecutor(max(1, num_workers), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(function, item) for item in islice(items, 4 * max(1, num_workers))]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting.extend(pool.submit(function, item) for item in islice(items, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()

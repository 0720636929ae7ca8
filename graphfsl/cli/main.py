"""The command line: how a command starts and ends.

What there is to call stands in `commands` and `listings`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from graphfsl.cli import commands, listings  # noqa: F401 (they fill the app)
from graphfsl.cli.terminal import app
from graphfsl.io.plain_text import one_line

USAGE_ERROR: Any = typer.BadParameter.__base__  # Typer exports it under no name of its own
# as PyTorch says it on any device
OUT_OF_MEMORY = re.compile("allocate memory|not enough memory|out of memory")

ASKED_FOR = re.compile(r"allocate (\d[\d.]* \w+)")  # as PyTorch and NumPy say how much was wanted


def main() -> None:
    """Run a command; bad input ends with one line and exit code 2, an interruption with 130."""
    from graphfsl.io.errors import InputError

    # Before torch is imported. On a machine that does other work too, threads that wait for each
    # other by spinning cost three times the time and the processor.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    warnings.formatwarning = _one_line  # type: ignore[assignment]
    if os.environ.get("RANK", "0") != "0":  # of the processes of torchrun the first one talks
        _silence()
    if "RANK" in os.environ:  # every process of torchrun would say how it found the others
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # a job that is told to end ends as by Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding
    code, message = 2, ""
    try:
        check_none_empty(sys.argv[1:])
        ended = app(spelled_out(sys.argv[1:]), standalone_mode=False) or 0
        sys.stdout.flush()
        code = ended
    except InputError as error:
        message = str(error)
    except USAGE_ERROR as error:
        message = error.format_message()  # nothing where the help was shown
        message += f" See {error.ctx.command_path} --help" if message and error.ctx else ""
    except KeyboardInterrupt:  # before or after Typer, which makes 130 of it
        code = 130
    except BrokenPipeError:  # who read our output has gone
        _silence()
        code = 1
    except OSError as error:
        if error.filename is None:  # perhaps stdout, which would fail once more at exit
            _silence()
        message = f"{error}; make room, or see that it can be read and written"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        wanted = ASKED_FOR.search(str(error))
        message = "out of memory" + (f", {wanted[1]} were asked for" if wanted else "")
        message += (
            "; lower trainer.batch, episode.query, evaluation.episodes or data.size, or "
            "raise trainer.accumulate"
        )
    if code == 130:
        message = "interrupted; the same command goes on from the last checkpoint"
    if message:
        print(f"graphfsl: {one_line(' '.join(message.splitlines()))}", file=sys.stderr)
    raise SystemExit(code)


_long_form = warnings.formatwarning


def check_none_empty(words: Sequence[str]) -> None:
    """Refuse an empty word, as a shell passes for a variable in quotes that is not set.

    Typer takes it for this folder where a path is asked for, and some options for being left out.

    Raises:
        InputError: says where it stands.
    """
    from graphfsl.io.errors import InputError

    for place, word in enumerate(words):
        if not word or re.fullmatch("--[a-z-]+=", word):
            before = word or " ".join(words[:place][-2:])
            raise InputError(
                f"nothing stands after {before or 'graphfsl'} but an empty word; set the variable "
                "of the shell, or leave the word out"
            )


def spelled_out(words: Sequence[str]) -> list[str]:
    """The words of a command line, where `--ray` without an address says `--ray local`.

    Typer has no options whose value may be left out.
    """
    words = list(words)
    for place, word in enumerate(words):
        following = words[place + 1 : place + 2]
        if word == "--ray" and (not following or following[0].startswith("-")):
            words[place] = "--ray=local"
    return words


def _one_line(message: Any, category: type[Warning], *where: Any) -> str:
    """What is said to a user, without the place in the code that says it."""
    return (
        f"warning: {message}\n"
        if category is UserWarning
        else _long_form(message, category, *where)
    )


def _silence() -> None:
    """What is still to be printed goes nowhere."""
    with suppress(OSError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

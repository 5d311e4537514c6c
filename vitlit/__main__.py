"""Entry point of `vitlit` and `python -m vitlit`: exit statuses, and short errors.

words -> a command, its exit status:
0 success, 1 a defect of the program or a lost process, 2 bad input, 130 SIGINT, 143 SIGTERM
"""

import errno
import io
import logging
import os
import sys
import warnings
from typing import Any

from vitlit.cli.overview import (
    COMMANDS,
    DISTRIBUTED_COMMANDS,
    QUICK_COMMANDS,
    TRAINING_COMMANDS,
    command_help,
    overview,
    wants_series,
)
from vitlit.errors import (
    InputError,
    LostProcessError,
    Stopped,
    TrainingError,
    did_you_mean,
    find_text,
    is_first_process,
    message_and_arguments,
    texts_on,
)
from vitlit.images.machine import keep_freed_memory
from vitlit.messages import fitted, print_error
from vitlit.training.slurm import launcher_of

MAX_LINES, MAX_WIDTH = 5, 400  # of an error message: lines, and characters of a line
# errors of writing to a reader that has left, as `head -1` does, or to a terminal that was closed
GONE = (errno.EPIPE, errno.EIO)

# loggers that say needless things; a filter sees only what its own logger is told
TALKATIVE_LOGGERS = (
    "torch.utils.cpp_extension",
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.accelerators.cuda",
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
    "lightning_fabric.utilities.distributed",
)


class _Lasting(io.FileIO):
    """Standard output or error, which takes all words even when nobody reads them any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # For the system too: processes that we start, and C libraries, write to the same place.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if error.errno not in GONE:  # a full disk, which is told once
                raise
        return memoryview(data).nbytes


def _steady_streams() -> None:
    """Let nothing that is printed end a command: results matter more than words about them.

    A terminal without a character gets its escape, such as \\u2026.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed stream, which now is none
        os.set_inheritable(handle, True)
    os.close(handle)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if os.name == "nt" and stream is not None:  # a console of Windows is no file
            stream.reconfigure(errors="backslashreplace")
        elif stream is getattr(sys, f"__{name}__"):  # not one that a test or a notebook captures
            made = io.TextIOWrapper(
                io.BufferedWriter(_Lasting(number, "w", closefd=False)),
                encoding="utf-8" if stream is None else stream.encoding,
                errors="backslashreplace",
                line_buffering=number == 2 or (stream is not None and stream.line_buffering),
            )
            setattr(sys, name, made)


def _shorten(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n".join(line[:MAX_WIDTH] for line in lines[:MAX_LINES])


def _fail(message: str, options: str = "") -> int:
    print_error(f"vitlit: {_shorten(message)}{options}")
    return 2


def _tell_way_on(error: BaseException) -> None:
    """The command that continues, if there is one. It is copied: no line of it is broken."""
    if way_on := getattr(error, "way_on", ""):
        print(f"vitlit: to continue: {way_on}", file=sys.stderr)


def _options(error: Exception) -> str:
    """In brackets, the command-line options for the arguments that the error names."""
    names = message_and_arguments(error)[1]
    if not names:
        return ""
    from vitlit.cli.options import option_of  # imports torch, as whatever failed has done

    return f" ({', '.join(map(option_of, names))})"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _steady_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args  # show the traceback of bad input too
    args = [arg for arg in args if arg != "--debug"]
    if args[:1] == ["help"]:  # as in git: help, help COMMAND, help COMMAND all
        args = [*args[1:2], "--help", *args[2:]]
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    if args[0] == "--version":
        from vitlit import __version__

        print(__version__)
        return 0
    if args[0] not in COMMANDS:
        hint = did_you_mean(args[0], list(COMMANDS))
        return _fail(f"unknown command {args[0]!r}; known: {', '.join(COMMANDS)}{hint}")
    asks = [place for place, arg in enumerate(args) if arg in ("-h", "--help")]
    if asks and args[asks[0] + 1 :] != ["all"]:
        print(command_help(args[0]))
        return 0
    args = args[: asks[0] + 1] if asks else args  # the parser knows no word after --help
    _quieten(args[0])
    keep_freed_memory()
    is_quick = args[0] == "runs" or wants_series(args)
    if not is_quick and "torch" not in sys.modules and is_first_process():
        # people wait for the imports: for seconds, or much longer on a busy machine
        print(f"vitlit {args[0]}: loading PyTorch …", file=sys.stderr, flush=True)
    try:
        # Takes seconds: everything above answers without torch and Lightning.
        _run(args)
    except Stopped as stop:
        if not stop.quiet:
            print_error(f"vitlit: {stop}")
            _tell_way_on(stop)
        return stop.status
    except TrainingError as fault:
        print_error(f"vitlit: {fault}{_options(fault)}")
        _tell_way_on(fault)
        if isinstance(fault, LostProcessError):
            os._exit(1)  # any cleanup of torch or Lightning would wait for the lost process
        return 1
    except KeyboardInterrupt:
        print("vitlit: stopped by SIGINT; nothing was saved", file=sys.stderr)
        return 130
    except Exception as error:
        from vitlit.cli.advice import advice

        message = advice(error)
        if message is None:
            print("vitlit: this is a bug; please report it with the lines below", file=sys.stderr)
        if debug or message is None:
            raise
        status = _fail(message, _options(error))
        _tell_way_on(error)
        return status
    return 0


def _run(args: list[str]) -> None:
    """Run a command, without Lightning if possible: its import takes three times torch's."""
    _refuse_several_processes(args[0])
    if args[0] == "runs":  # without torch
        from vitlit.commands.runs.list_runs import list_runs

        list_runs(args[1:])
        return
    if wants_series(args):
        from vitlit.commands.repeats.train_series import train_series

        train_series(args[1:])
        return
    if args[0] == "shard":
        from vitlit.commands.shard_command import run_shard
        from vitlit.fault_tolerance.ending import ending_at_signals

        with ending_at_signals():
            run_shard(args[1:])
        return
    if args[0] == "inspect":  # trains nothing and needs no model
        from vitlit.commands.inspect_images import run_inspect

        warnings.formatwarning = _format_warning
        run_inspect(args)
        return
    if args[0] in QUICK_COMMANDS:
        from vitlit.commands.without_lightning import run_quickly

        warnings.formatwarning = _format_warning
        if run_quickly(args):
            return
    from vitlit.commands.with_lightning import run_command

    warnings.formatwarning = _format_warning  # after Lightning, which has set its own
    run_command(args)


def _refuse_several_processes(command: str) -> None:
    """Refuse to be one of several processes that would all compute and write the same."""
    found = launcher_of(os.environ)
    if command not in DISTRIBUTED_COMMANDS and found.processes > 1:
        name = found.name.split()[0]
        raise InputError(
            f"{command} works in one process, and {name} started {found.processes}; start it "
            f"without {name}"
        )


def _format_warning(message: Warning | str, *_: object, **__: object) -> str:
    """The text of a warning, without the line of code that raised it."""
    return fitted(f"vitlit: {message}\n")


def _quieten(command: str) -> None:
    """Silence advice that does not apply: data in memory need no workers, scoring no callbacks."""
    for text in texts_on("needless warning"):
        if command in TRAINING_COMMANDS and text.startswith("callbacks"):
            text += ".*EarlyStopping"  # patience may be taken back
        warnings.filterwarnings("ignore", f".*{text}.*")
    if sys.stderr is None or not sys.stderr.isatty():
        # For bars of other packages, as of downloads; tqdm reads it when it is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd files; what matters is an error
    for name in TALKATIVE_LOGGERS:
        logging.getLogger(name).addFilter(_is_needed)


def _is_needed(record: logging.LogRecord) -> bool:
    return not find_text("needless tip", record.getMessage())


if __name__ == "__main__":
    sys.exit(main())

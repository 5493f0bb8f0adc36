"""Entry point of `metta` and `python -m metta_cli`: prepares the process before other modules are imported."""

from __future__ import annotations

import codecs
import io
import os
import sys

from metta_cli.interrupts import handle_interrupts


def open_standard_streams() -> None:
    """Make stdin, stdout and stderr usable: the null device replaces a closed one, and all text can be written.

    Must run before anything opens a file: the lowest free file descriptor is then that of the closed stream (`>&-`),
    which otherwise a file opened later would get, and with it the output. Characters outside of the encoding of a
    stream are written as escapes that TOML and JSON read, such as `\\u00e4`.
    """
    codecs.register_error("metta_escape", _escape)
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor <= 2:
                os.set_inheritable(descriptor, True)  # like those that the shell opens
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # open until the end
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a program that calls `main` may have replaced it
            stream.reconfigure(errors="metta_escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: characters that cannot be encoded as `\\uXXXX` or `\\UXXXXXXXX`."""
    assert isinstance(error, UnicodeEncodeError)
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}" for code in codes), error.end


open_standard_streams()
if "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP threads of torch wait for each other in a busy loop. On cores shared with other processes, a long loop
    # takes CPU time from the threads it waits for. OpenMP reads this limit on iterations once, when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

handle_interrupts()

from metta_cli.main import main  # noqa: E402  # the lines above must run first

if __name__ == "__main__":
    main()

"""Base class of reports: a web page, a CSV table, and the numbers of both as records."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path

from metta.config.validation.file_paths import user_path
from metta.files import write_atomically, write_together
from metta.report.numbers import Record, csv_text

_DIRECTORIES = re.compile(rb'<meta name="runs" content="([0-9a-f ]+)">')


class Report(ABC):
    """A report of runs or of a sweep, as `read_report` returns it."""

    @abstractmethod
    def html(self) -> str:
        """The page as HTML that loads no other file. Names and values of the runs are escaped."""

    @abstractmethod
    def records(self) -> list[Record]:
        """The numbers of the report: dictionaries that can be written as JSON; `kind` says what each is about."""

    def write_html(self, out: str | Path = "report.html", overwrite: bool = True) -> Path:
        """Write the page to the file `out` and return its path.

        If `overwrite` is false and `out` is a file other than an earlier report about some of these runs, a number is
        appended to its name. Raises OSError if the file cannot be written.
        """
        path = user_path(out)
        contents = {path.suffix: self.html().encode()}
        return write_together(path.parent, path.stem, contents, overwrite, _is_earlier_report)[path.suffix]

    def write_csv(self, out: str | Path) -> Path:
        """Write the numbers as a CSV table to the file `out` and return its path.

        Raises OSError if the file cannot be written.
        """
        path = user_path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, csv_text(self.records()).encode())
        return path


def _is_earlier_report(old: bytes, new: bytes) -> bool:
    """Whether `old` is a report about directories that are all in the report `new`."""
    in_old, in_new = (_DIRECTORIES.search(page) for page in (old, new))
    assert in_new is not None
    return in_old is not None and set(in_old[1].split()) <= set(in_new[1].split())

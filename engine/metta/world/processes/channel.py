"""Channel: messages between two processes over a pair of pipes, each a pickled object after its length."""

from __future__ import annotations

import os
import pickle
import select
import struct
from typing import Any, Final

_LENGTH: Final = struct.Struct("<Q")
_POLL_MILLISECONDS: Final = 1000
_READ_BYTES: Final = 1 << 16  # what a pipe holds on Linux


class Channel:
    """One end of a connection to another process.

    With `timeout_seconds`, `send` and `receive` raise TimeoutError if the other process has neither read nor written
    anything for that time. Seconds in which this process is stopped as well (Ctrl-Z, a suspended laptop) do not count.
    Without it, they wait as long as the other process lives.
    """

    def __init__(self, read_fd: int, write_fd: int, timeout_seconds: int | None = None):
        self._read_fd, self._write_fd = read_fd, write_fd
        self.timeout_seconds = timeout_seconds
        self._received = bytearray()
        self._has_ended = False
        self._readable, self._any_ready = select.poll(), select.poll()
        for poll in (self._readable, self._any_ready):
            poll.register(read_fd, select.POLLIN)
        self._any_ready.register(write_fd, select.POLLOUT)
        for descriptor in (read_fd, write_fd):
            os.set_blocking(descriptor, False)

    def send(self, message: object) -> None:
        """Send a message. Raises BrokenPipeError if the other process has ended."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        left = memoryview(_LENGTH.pack(len(content)) + content)
        while left:
            try:
                left = left[os.write(self._write_fd, left) :]
            except BlockingIOError:  # the pipe is full; perhaps since the other process waits until its own is read
                self._wait(self._any_ready)
                self._read()
                if self._has_ended:
                    raise BrokenPipeError from None

    def receive(self) -> Any:
        """The next message. Raises EOFError if the other process has ended."""
        while (length := self._length()) is None or len(self._received) < length:
            if self._has_ended:
                raise EOFError
            if not self._read():
                self._wait(self._readable)
        message = pickle.loads(memoryview(self._received)[_LENGTH.size : length])
        self._received = self._received[length:]
        return message

    def _read(self) -> bool:
        """Read what the pipe contains. Returns false if it is empty."""
        try:
            part = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self._received += part
        self._has_ended = not part
        return True

    def close(self) -> None:
        """Close this end: the other process reads the end of its pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _length(self) -> int | None:
        """Bytes of the next message with its length; None if not even the length has been received."""
        if len(self._received) < _LENGTH.size:
            return None
        return _LENGTH.size + int(_LENGTH.unpack_from(self._received)[0])

    def _wait(self, poll: select.poll) -> None:
        waited = 0
        while not poll.poll(_POLL_MILLISECONDS):
            waited += _POLL_MILLISECONDS
            if self.timeout_seconds is not None and waited >= 1000 * self.timeout_seconds:
                raise TimeoutError

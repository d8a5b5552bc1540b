"""A lock that one run holds on its place; the kernel lets go of it when the process dies."""

import fcntl
import os

from harness.command_line.errors import UserError


class Lock:
    """An flock on the file at path, which lies there while the lock is held.

    Raises UserError where another process has it. Where the file system knows no locks, nothing is locked: held is False.
    """

    def __init__(self, path, what):
        self.path, self.held, self._file = path, False, None
        while not self.held:
            file = open(path, "a+")  # noqa: SIM115  (open as long as the lock is held)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(20).strip() or "unknown"
                file.close()
                raise UserError(f"{what} is being written by another process ({holder}): wait for it, or end it") from None
            except OSError:
                file.close()
                return
            if is_at(file, path):  # else the run before has removed it meanwhile
                self.held, self._file = True, file
            else:
                file.close()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self):
        """Remove the file, then let go."""
        if self.held:
            if is_at(self._file, self.path):
                self.path.unlink()
            self._file.close()
            self.held = False


def is_at(file, path):
    """Whether the open file is the one that has this path now."""
    try:
        there, here = os.stat(path), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

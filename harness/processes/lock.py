"""One process at a time: a lock file that the system lets go of when the process dies."""

import os
from contextlib import suppress

from filelock import FileLock, Timeout

from harness import UserError


class Lock:
    """A lock on the file at path, which lies there, with the number of the process in it, while the lock is held. Raises
    UserError where another process has it, unless it waits for that. Where the file system knows no locks, nothing is locked. A
    lock got on a file that its holder has just removed is none: the next attempt makes a new file."""

    def __init__(self, path, what, waits=False):
        self.path, self._lock = path, FileLock(path, timeout=-1 if waits else 0, fallback_to_soft=False)
        while not self._lock.is_locked:
            try:
                self._lock.acquire()
            except Timeout:
                holder = self._holder()
                if path.exists():
                    raise UserError(f"{what} is being written by another process ({holder}): wait for it, or end it") from None
            except PermissionError:
                raise
            except OSError:
                self._remove_if(holder="unknown")
                return
        with suppress(OSError):
            path.write_text(f"{os.getpid()}\n")

    def _holder(self):
        with suppress(OSError):  # Windows lets nobody else read it
            return self.path.read_text().strip() or "unknown"
        return "unknown"

    def release(self):
        """Remove the file, then let go."""
        if self._lock.is_locked:
            self._remove_if(holder=str(os.getpid()))  # else the folder is another one by now
            self._lock.release()

    def _remove_if(self, holder):
        with suppress(OSError):
            if self._holder() == holder:
                self.path.unlink()

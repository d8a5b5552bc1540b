"""SIGINT and SIGTERM: a training run finishes its step and saves; anything else ends at once."""

import signal
import threading
from contextlib import contextmanager

BOTH = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The program was asked to end by this signal; the message says what was saved and how to go on."""

    def __init__(self, number, message="interrupted"):
        super().__init__(message)
        self.number = int(number)


class Signals:
    """Within `with Signals() as signals` both signals are only noted: signals.caught is the last one's number, 0 for none.

    patient: whether a second SIGINT is only noted, too; else it ends the program at once. (torchrun passes on what a terminal
    has sent to every process already.)
    """

    def __init__(self, patient=False):
        self.caught, self.patient = 0, patient

    def __enter__(self):
        self._handling = handling(self._note)
        self._handling.__enter__()
        return self

    def __exit__(self, *exception):
        self._handling.__exit__(*exception)

    def _note(self, number, frame):
        if number == self.caught == signal.SIGINT and not self.patient:
            raise Interrupted(number)
        self.caught = int(number)


def obey(number, frame):
    """The handler of a script that has nothing to save."""
    raise Interrupted(number)


@contextmanager
def handling(handler):
    """Both signals go to handler meanwhile; only the main thread may say so, so nothing changes in another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in BOTH}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

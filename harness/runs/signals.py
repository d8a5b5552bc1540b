"""SIGINT and SIGTERM: a training run finishes its step and saves; anything else ends at once."""

import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace


class Interrupted(KeyboardInterrupt):
    """Ended by a signal; the message says what was saved and how to go on."""

    def __init__(self, number, message="interrupted"):
        super().__init__(message)
        self.number = int(number)


def end_at_once(number, frame):
    """The handler of a script that has nothing to save."""
    raise Interrupted(number)


@contextmanager
def handling(handler):
    """Both signals go to handler meanwhile; only the main thread may say so, so nothing changes in another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def noted_signals(patient=False):
    """Both signals are only noted meanwhile: yields an object whose `caught` is the last one's number, 0 for none. Unless
    patient, a second SIGINT ends the program at once. (torchrun passes on what a terminal has sent to every process already.)"""
    signals = SimpleNamespace(caught=0)

    def note(number, frame):
        if number == signals.caught == signal.SIGINT and not patient:
            raise Interrupted(number)
        signals.caught = int(number)

    with handling(note):
        yield signals

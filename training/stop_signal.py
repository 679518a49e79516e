"""SIGTERM, SIGHUP and Ctrl-C as a wish that is granted between two steps."""

import os
import signal

STOPPING = {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP


class StopSignal:
    """While entered, SIGTERM, SIGHUP and SIGINT are noted, not obeyed: `received` is the signal's name or None.

    One that is ignored stays so, as SIGHUP does under nohup. A process that torchrun started also stops when torchrun is gone,
    because nobody else would end it.
    """

    def __enter__(self):
        self.received = None
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.received = signal.Signals(number).name

    def check(self):
        """Returns why this process should stop, or None."""
        if self._parent is not None and os.getppid() != self._parent:
            return "the end of torchrun"
        return self.received

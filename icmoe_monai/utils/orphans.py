"""Run a command that ends when the process that started it is gone, whatever ended that: a program for `Children`.

    python -I -S orphans.py SECONDS COMMAND...

Standard input is a pipe to which nobody writes, and which the system closes with the process at its other end. This
process becomes the command; a second one waits for the end of the pipe, asks the command to save and end, and ends it
and what it started after some seconds. The program imports nothing but what Python brings, so that it is there at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_SECONDS_BETWEEN_LOOKS = 0.5


def main(seconds: float, command: list[str]) -> None:
    """Become a command, and leave a process behind that watches it.

    Args:
        seconds: How long the command may take to save.
        command: Its words.
    """
    process = os.getpid()
    nothing = os.open(os.devnull, os.O_RDWR)
    if os.fork() == 0:
        os.setsid()  # not of the command's group, which may have to be ended
        for stream in (1, 2):  # whoever reads the command's output waits for the command alone
            os.dup2(nothing, stream)
        _watch(process, seconds)
        return
    os.dup2(nothing, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by what a script starts in the background
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def _watch(process: int, seconds: float) -> None:
    """End a process, this one's parent, once standard input has ended."""
    while not select.select([0], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
        if os.getppid() != process:
            return
    end = time.monotonic() + seconds
    if os.getppid() == process:
        os.kill(process, signal.SIGINT)
    while os.getppid() == process:
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])

"""Run as a script: becomes another program that gets a signal when its parent process dies.

`python -I -S parent_death.py <pid of the parent> <signal> <program> <arguments>…`

It is a script because a `preexec_fn` would run in a fork of a process that has gRPC's threads.
The kernel sends the signal when the *thread* that started us ends, so that must be the parent's
main thread. Standard library only.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arms the signal and executes the program. Exit code 127 if it cannot be executed."""
    parent, signal_number = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        # The parent died before the signal was armed.
        sys.exit(127)
    try:
        os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606  # the point of this program
    except OSError as error:
        sys.stderr.write(f"cannot execute {sys.argv[3]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()

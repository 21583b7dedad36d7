"""Workers on one machine: processes that help the first one with its study, and end with it.

Each runs ``python -m kdnas.pipeline.workers RUN``. The pipe to its standard input is its life line: when it closes,
because the first process has what it wants, was stopped, or was killed, the helper ends at once.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdnas.errors import InputError
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory


class Helpers:
    """Helper processes of one study.

    Args:
        directory: The run directory, whose warmed-up supernet is there.
        count: How many.
        storage: ``tune.storage`` with its password; None for the run's own ``study.db``.
        threads: CPU threads of each.
    """

    def __init__(self, directory: Path, count: int, storage: str | None, threads: int | None) -> None:
        command = [sys.executable, "-m", "kdnas.pipeline.workers", str(directory)]
        # A session of their own: Ctrl-C reaches the first process alone, and the life line ends them.
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) for _ in range(count)
        ]
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"storage": storage, "threads": threads}) + "\n")
            process.stdin.flush()

    def lost(self) -> list[tuple[int, int]]:
        """(process id, exit code) of the helpers that failed or were killed since the last call."""
        over = [p for p in self.processes if p.poll() is not None]
        self.processes = [p for p in self.processes if p not in over]
        return [(p.pid, p.returncode) for p in over if p.returncode]

    def end(self) -> None:
        """End all of them, whatever they are doing."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def helpers(context: Context, threads: int | None) -> Iterator[Helpers]:
    """The helpers that ``tune.workers`` asks for beside this process, during the block."""
    tune = context.settings.tune
    started = Helpers(context.path, tune.workers - 1, tune.storage, threads)
    try:
        yield started
    finally:
        started.end()


def fair_threads(context: Context) -> int | None:
    """CPU threads of each of ``tune.workers`` workers: an equal share of the cores unless ``threads`` is set."""
    s = context.settings
    if s.threads is not None or s.tune.workers == 1:
        return s.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // s.tune.workers)


def _end_with_the_first() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Help with the study of a run directory until it has all its trials."""
    line = sys.stdin.readline()
    if not line:  # the first process is gone already
        sys.exit(1)
    told = json.loads(line)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    from kdnas.config import make_settings
    from kdnas.run.process import configure_process

    directory = RunDirectory.open(Path(sys.argv[1]))
    settings = make_settings(directory.settings, {"threads": told["threads"], "tune.storage": told["storage"]})
    configure_process(settings.threads)
    from kdnas.pipeline.stages import study_of

    try:
        study_of(Context(settings, directory, progress=False), helper=True).run()
    except InputError as error:
        print(f"kdnas: a worker stopped: {error}", file=sys.stderr)
        sys.exit(2)
    os._exit(0)  # the thread that holds standard input must not be waited for


if __name__ == "__main__":
    main()

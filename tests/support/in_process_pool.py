"""A pool of jobs without child processes, for tests of what is built on `JobPool`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tiny_runs import Recorder

from metta.experiments.job_pool import Job, JobEnded, JobEvent
from metta.run.events import Event, RunEnded
from metta.run.train import train_run


class InProcessPool:
    """A JobPool that trains each run in this process, then sends its events."""

    error: Callable[[Job], JobEnded | None] = staticmethod(lambda job: None)
    """the end of a job that does not train"""
    after: Callable[[str, Event], None] = staticmethod(lambda name, event: None)
    """called when an event has been received"""

    def __init__(self, max_jobs: int, on_stop: Callable[[str], None]):
        self.max_jobs, self.threads, self.is_stopping = max_jobs, 0, False
        self.waiting: list[Job] = []
        self.running: str | None = None
        self.stopped: set[str] = set()

    def __enter__(self) -> InProcessPool:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    @property
    def num_left(self) -> int:
        return len(self.waiting) + (self.running is not None)

    def submit(self, job: Job) -> None:
        self.waiting.append(job)

    def stop(self, name: str) -> None:
        self.waiting = [job for job in self.waiting if job.name != name]
        self.stopped.add(name)

    def events(self) -> Iterator[JobEvent | JobEnded]:
        while self.waiting:
            job = self.waiting.pop(0)
            self.running = job.name
            ended = self.error(job)
            recorder = Recorder()
            if ended is None:
                run = train_run(job.config, recorder, or_resume=True)
                ended = JobEnded(job.name, run)
            for event in recorder.events:
                if job.name in self.stopped and ended.run:
                    ended = JobEnded(job.name, RunEnded("interrupted", *list(vars(ended.run).values())[1:]))
                    break
                yield JobEvent(job.name, event)
                self.after(job.name, event)
            self.running = None
            yield ended

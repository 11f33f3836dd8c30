"""Pictures through three threads: the next is decoded and the last encoded while this one is computed.

What waits between the threads is bounded by its pixels: small pictures queue, and of large ones there is one at a time
in each stage, so that memory does not grow with the number of pictures or pages.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from fastdeconv.imaging.commands.channel import Channel, Item, Stoppable, Stopped, Work
from fastdeconv.imaging.commands.inputs import Job, Output
from fastdeconv.imaging.commands.report import Report
from fastdeconv.imaging.errors import FileError, TargetExists, printable, reason, writing
from fastdeconv.imaging.files import check_target, new_file
from fastdeconv.imaging.picture import FORMATS, Encoding, Format, Page, Reader, write
from fastdeconv.imaging.picture.formats import alternatives, fitted


@dataclass(frozen=True)
class Settings:
    """What is done to every picture.

    Parameters
    ----------
    enhance : callable
        Takes the pixels of a `Page`, and a function to call with a line to tell; returns the pixels of the result.
    scale : int
        How many times wider and higher the result is.
    max_pixels : int
        The most that a page, and its result, may have.
    encoding : Encoding
    """

    enhance: Callable[[Any, Callable[[str], None]], Any]
    scale: int
    max_pixels: int
    encoding: Encoding


def run(jobs: Sequence[Job], output: Output, settings: Settings, report: Report) -> None:
    """Work through the jobs and report each; one that fails stops no other."""
    _Run(output, settings, report).run(jobs)


class _Run:
    def __init__(self, output: Output, settings: Settings, report: Report) -> None:
        self._output = output
        self._settings = settings
        self._report = report
        self._decoded, self._computed = Channel(), Channel()
        self._claimed: dict[Path, str] = {}
        self._crash: BaseException | None = None

    def run(self, jobs: Sequence[Job]) -> None:
        running: list[threading.Event] = []
        try:
            for function, arguments in ((self._read_all, (jobs,)), (self._write_all, ())):
                ended = threading.Event()
                threading.Thread(target=self._guarded, args=(ended, function, *arguments), name="fastdeconv").start()
                running.append(ended)
            self._compute_all()
            _wait(running)
        except Stopped:
            pass
        finally:
            self._stop()
            _wait(running)
        if self._crash is not None:
            raise self._crash

    def _stop(self) -> None:
        self._decoded.stop()
        self._computed.stop()

    def _guarded(self, ended: threading.Event, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Stopped:
            pass
        except BaseException as error:  # told where the run was started
            self._crash = error
            self._stop()
        finally:
            ended.set()

    # Decoding.

    def _read_all(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            work = Work(job)
            with _failures(work):
                self._read(work)
            self._decoded.put(Item(work, None, 0))
        self._decoded.end()

    def _read(self, work: Work) -> None:
        source = work.job.source or io.BytesIO(sys.stdin.buffer.read())
        with Reader(source, work.job.name, self._settings.max_pixels) as reader:
            self._aim(work, reader)
            for i in range(reader.pages):
                if work.over:
                    return
                self._put_page(work, reader, i)
            for note in reader.notes:
                work.note(note)

    def _aim(self, work: Work, reader: Reader) -> None:
        """Choose the file to write."""
        work.target, work.key, note = self._output.target(work.job, reader.format)
        work.pages = reader.pages
        if work.target is not None:
            owner = self._claimed.setdefault(work.target.absolute(), reader.name)
            if owner != reader.name:
                raise FileError(f"{reader.name}: {printable(work.target)} is already the result of {owner}")
            try:
                check_target(work.target, self._output.overwrite)
            except TargetExists as error:
                work.skipped = str(error)
                return
        work.note(note)

    def _put_page(self, work: Work, reader: Reader, index: int) -> None:
        settings, format_ = self._settings, FORMATS[work.key]
        width, height = reader.size(index)
        size = width * settings.scale, height * settings.scale
        if size[0] * size[1] > settings.max_pixels:
            raise FileError(
                f"{reader.name}: its result has {size[0]}×{size[1]} pixels, more than the {settings.max_pixels:,} "
                "accepted; --max-pixels raises that"
            )
        _refuse(reader.name, format_.declines_size(size), lambda f: not f.declines_size(size))
        reserved = self._decoded.reserve(width * height)
        try:
            page = fitted(reader.page(index), format_)
            declined = format_.declines(page.pixels, reader.pages)
            _refuse(reader.name, declined, lambda f: not f.declines(page.pixels, reader.pages))
        except BaseException:
            self._decoded.release(reserved)
            raise
        self._decoded.put(Item(work, page, reserved))

    # Computing.

    def _compute_all(self) -> None:
        while (item := self._decoded.get()) is not None:
            if item.page is None:
                self._computed.put(item)
                continue
            if not item.work.over:
                self._compute(item.work, item.page)
            self._decoded.release(item.pixels)
            del item  # what waits for the next page must not keep this one
        self._computed.end()

    def _compute(self, work: Work, page: Page) -> None:
        width, height = page.size
        reserved = self._computed.reserve(width * height * self._settings.scale**2)
        result = None
        with _failures(work):
            result = replace(page, pixels=self._settings.enhance(page.pixels, work.note))
        if result is None:
            self._computed.release(reserved)
        else:
            self._computed.put(Item(work, result, reserved))

    # Encoding.

    def _write_all(self) -> None:
        while (item := self._computed.get()) is not None:
            work = item.work
            if item.page is not None:
                with _failures(work):
                    self._write(work, item)
            for note in () if work.over else work.notes:
                self._report.line(f"{work.job.name}: {note}")
            self._report.finish(done=not work.over, skipped=work.skipped, failed=work.error)

    def _write(self, work: Work, first: Item) -> None:
        held = first.pixels
        ended = False

        def pages() -> Iterator[Page]:
            nonlocal held, ended
            item: Item | None = first
            while item is not None and item.page is not None:
                yield item.page
                if work.pages > 1:
                    # The page is written when the next one is asked for, which may wait for its room.
                    self._computed.release(held)
                    held = 0
                item = self._computed.get()
                held += 0 if item is None else item.pixels
            ended = True
            if work.error:
                raise FileError(work.error)

        try:
            with self._file(work) as file:
                write(
                    Stoppable(file, self._computed),  # type: ignore[arg-type]
                    work.key,
                    pages(),
                    self._settings.encoding,
                    count=work.pages,
                    note=work.note,
                )
        except BrokenPipeError:  # whoever read standard output has left: nobody wants the rest
            raise
        except Exception as error:
            work.fail(str(error) if isinstance(error, FileError) else f"{self._named(work)}: {reason(error)}")
        finally:
            self._computed.release(held)
        while not ended:
            item = self._computed.get()
            ended = item is None or item.page is None
            if item is not None:
                self._computed.release(item.pixels)

    @contextmanager
    def _file(self, work: Work) -> Iterator[BinaryIO]:
        if work.target is not None:
            with writing(work.target):
                work.target.parent.mkdir(parents=True, exist_ok=True)
            with new_file(work.target, self._output.overwrite) as file:
                yield file
        else:
            content = io.BytesIO()
            yield content
            sys.stdout.buffer.write(content.getbuffer())
            sys.stdout.buffer.flush()

    def _named(self, work: Work) -> str:
        return "standard output" if work.target is None else printable(work.target)


def _wait(running: Sequence[threading.Event]) -> None:
    # Not Thread.join: Ctrl-C in the middle of it makes Python 3.11 believe that the thread has ended. With a limit,
    # since some systems deliver Ctrl-C only between waits.
    for ended in running:
        while not ended.wait(0.5):
            pass


def _refuse(name: str, declined: str, accepts: Callable[[Format], bool]) -> None:
    if declined:
        raise FileError(f"{name}: {declined}{alternatives(accepts)}")


@contextmanager
def _failures(work: Work) -> Iterator[None]:
    """Keep what goes wrong with one job from the others."""
    try:
        yield
    except FileError as error:
        work.fail(str(error))
    except (MemoryError, ValueError) as error:
        work.fail(f"{work.job.name}: {reason(error)}")

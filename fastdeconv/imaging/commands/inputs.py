"""Which pictures the arguments of a command name, and where their results go."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastdeconv.imaging.commands.errors import UsageError
from fastdeconv.imaging.errors import printable, reason
from fastdeconv.imaging.files import check_output
from fastdeconv.imaging.picture.formats import FORMATS, READ_SUFFIXES, SUFFIXES, of_name

STANDARD = "-"  # input or output


@dataclass(frozen=True)
class Job:
    """A picture to work on: its file, or None for standard input, and its place below an output folder."""

    source: Path | None
    place: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.source is None else printable(self.source)


@dataclass
class Inputs:
    """What the arguments came to: jobs, a line for each that names nothing, and what is skipped, with its count."""

    jobs: list[Job] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: list[tuple[str, int]] = field(default_factory=list)
    folders: bool = False  # whether one of the arguments is a folder


def find(arguments: Sequence[str], recursive: bool, output: Path | None) -> Inputs:
    """Find the pictures.

    Parameters
    ----------
    arguments : sequence of str
        Files, folders, patterns that the shell left as they are, or ``-``.
    recursive : bool
        Whether to enter folders inside folders.
    output : Path or None
        Not entered, where it lies inside one of the folders: what is in there was made from what is read.
    """
    found = Inputs()
    for argument in arguments:
        path = Path(argument)
        if argument == STANDARD:
            found.jobs.append(Job(None, Path("standard-input")))
        elif path.is_dir():
            found.folders = True
            _add_folder(found, path, recursive, output)
        elif os.path.lexists(path) or not glob.has_magic(argument):
            if os.path.lexists(path):
                found.jobs.append(Job(path, Path(path.name)))
            else:
                found.failures.append(f"{printable(path)}: no such file")
        else:
            matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))
            files = [match for match in matches if not match.is_dir()]
            found.jobs += [Job(match, Path(match.name)) for match in files]
            if not files:
                found.failures.append(f"{printable(argument)}: no file matches")
    # A file named twice is one job.
    found.jobs = list({(job.source and job.source.absolute(), job.place): job for job in found.jobs}.values())
    return found


def _add_folder(found: Inputs, folder: Path, recursive: bool, output: Path | None) -> None:
    others, before = 0, len(found.jobs)
    failures = len(found.failures)
    for path in _files(found, folder, recursive, output):
        if path.suffix.lower() in READ_SUFFIXES:
            found.jobs.append(Job(path, path.relative_to(folder)))
        else:
            others += 1
    if others:
        line = f"{printable(folder)}: {others} {'file' if others == 1 else 'files'} of other kinds"
        found.skipped.append((line, others))
    if len(found.jobs) == before and len(found.failures) == failures:
        hint = "" if recursive else "; -r looks into folders inside it"
        found.failures.append(f"{printable(folder)}: holds no pictures{hint}")


def _files(found: Inputs, folder: Path, recursive: bool, output: Path | None) -> Iterator[Path]:
    """Give the files in a folder, in order, but hidden ones."""

    def tell(error: OSError) -> None:
        found.failures.append(f"{printable(error.filename)}: cannot be read ({reason(error)})")

    kept = None if output is None or not output.is_dir() or output.samefile(folder) else output
    for root, folders, files in os.walk(folder, onerror=tell):
        inside = [Path(root, name) for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [p.name for p in inside if kept is None or not p.samefile(kept)] if recursive else []
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


@dataclass(frozen=True)
class Output:
    """Where results go.

    Parameters
    ----------
    path : Path or None
        A file or a folder; None is standard output.
    folder : bool
    format : str or None
        The key of the format that is written; None is each picture's own.
    overwrite : bool
    """

    path: Path | None
    folder: bool
    format: str | None
    overwrite: bool

    def target(self, job: Job, read_as: str) -> tuple[Path | None, str, str]:
        """Return the file to write for a job, the key of its format, and a note where that is not what one expects.

        Parameters
        ----------
        job : Job
        read_as : str
            What the picture turned out to be.
        """
        key = self.format or (read_as if read_as in FORMATS else "png")
        named = SUFFIXES.get(job.place.suffix.lower())
        note = ""
        if self.format is None and read_as not in FORMATS:
            note = f"{read_as.upper()} is not written; its result is {FORMATS[key].name}"
        elif job.source is not None and named not in (read_as, None):
            note = f"it is {FORMATS[read_as].name if read_as in FORMATS else read_as.upper()}, not what its name says"
        if not self.folder or self.path is None:
            return self.path, key, note
        return self.path / _renamed(job.place, key), key, note


def _renamed(place: Path, key: str) -> Path:
    """Return a name with the ending of a format, which takes the place of another format's, but of nothing else."""
    suffix = place.suffix.lower()
    if SUFFIXES.get(suffix) == key:
        return place
    ending = FORMATS[key].suffixes[0]
    return place.with_suffix(ending) if suffix in READ_SUFFIXES else place.with_name(place.name + ending)


def decide(output: str, found: Inputs, format_: str | None, overwrite: bool) -> Output:
    """Decide whether OUT is a file, a folder or standard output, and see that it can be written.

    Raises
    ------
    UsageError
        It cannot be what the inputs need.
    fastdeconv.imaging.files.FileError
        The folder cannot be written to, or the file exists.
    """
    count = len(found.jobs) + len(found.failures)
    several = count > 1 or found.folders
    if output == STANDARD:
        if several:
            raise UsageError(f"-o - takes the result of one picture; IN names {'a folder' if found.folders else count}")
        return Output(None, False, format_, overwrite)
    path = Path(output)
    ending = output[-1:]
    if ending in (os.sep, os.altsep) or path.is_dir() or (several and not path.suffix) or not path.suffix:
        return _folder(path, found, format_, overwrite)
    if several:
        if of_name(path) is not None or path.exists():
            raise UsageError(f"-o {printable(output)} names one file; several pictures need a folder")
        return _folder(path, found, format_, overwrite)
    named = of_name(path)
    if named is None and format_ is None:
        endings = ", ".join(f.suffixes[0] for f in FORMATS.values())
        raise UsageError(
            f"-o {printable(output)}: {printable(path.suffix)} is not the ending of a format that is written "
            f"({endings}); give --format, or end a folder with {os.sep}"
        )
    if named is not None and format_ not in (None, named):
        raise UsageError(f"-o {printable(output)} and --format {format_} name two formats")
    check_output(path.parent, (path.name,), overwrite)
    return Output(path, False, named or format_, overwrite)


def _folder(path: Path, found: Inputs, format_: str | None, overwrite: bool) -> Output:
    if any(job.source is None for job in found.jobs):
        raise UsageError(f"-o {printable(path)} is a folder; the result of standard input needs a file's name, or -")
    check_output(path, (), overwrite)
    return Output(path, True, format_, overwrite)

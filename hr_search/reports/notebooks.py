"""Executed notebooks: each run in a kernel of this very Python, with parameters it declares."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import nbformat
import papermill
import zmq
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from hr_search.base import files
from hr_search.base.errors import InputError, one_line, plain, suggestion
from hr_search.base.progress import HEADLESS_VARIABLE
from hr_search.base.signals import CLEANUP
from hr_search.reports import pages
from hr_search.reports.parameters import papermill_path, parameters_of, quiet_papermill

log = logging.getLogger(__name__)

_PROGRESS_BAR = re.compile(r"\d+%\||\d+it \[")


class _WholeFiles(LocalHandler):
    """Writes executed notebooks whole; papermill alone would leave half a file if it is killed."""

    def write(self, buf: str, path: str) -> None:
        files.write_text(path, buf)


papermill_io.register("/", _WholeFiles())


class NotebookFailed(InputError):
    """A cell of a notebook raised an error; the executed notebook and its page show how far it got.

    Attributes:
        path: the executed notebook, with the outputs up to the error.
        cell: number of the cell that failed, as in `In [5]`.
        line: the error in one line.
    """

    def __init__(self, path: Path, cell: int, line: str) -> None:
        super().__init__(f"{path.stem} stopped in cell {cell}: {line.rstrip('.')}; see {path.with_suffix('.html')}.")
        self.path, self.cell, self.line = path, cell, line


class ThisPython(AsyncKernelManager):
    """Starts kernels with the interpreter that runs this program, whichever kernels are installed elsewhere.

    Attributes:
        stderr: where a kernel complains, at length if it is stopped in the middle of its work.
    """

    stderr: IO[str] | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Half of it is for the step and the checkpoint of a training that is interrupted.
        self.shutdown_wait_time = CLEANUP - 2
        # Without folders to search, jupyter_client falls back to ipykernel's own specification: sys.executable.
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        package = str(Path(__file__).resolve().parents[2])
        self.kernel_spec.env["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self.kernel_spec.env[HEADLESS_VARIABLE] = "1"
        if self.has_trait("transport_encryption") and zmq.has("curve"):
            self.transport_encryption = "auto"  # other users of the machine cannot listen in

    async def start_kernel(self, **options: Any) -> None:
        """As jupyter_client, except for what the kernel writes to its standard error."""
        await super().start_kernel(stderr=self.stderr, **options)


class _LineLog:
    """A text stream that logs each complete line a notebook prints, without progress bars."""

    def __init__(self) -> None:
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            line = line.rstrip().rsplit("\r", 1)[-1]
            if line and not _PROGRESS_BAR.search(line):
                log.info("   %s", plain(line))

    def flush(self) -> None:
        """Does nothing: an incomplete line waits for its end."""


def run_notebook(path: Path | str, folder: Path | str, parameters: Mapping[str, Any]) -> Path:
    """An executed copy of a notebook, run in a kernel of its own with these parameters.

    What the notebook prints is logged line by line while it runs. The original is never changed.

    Args:
        path: the notebook; its folder is the kernel's working directory.
        folder: where the executed copy goes, under the same name.
        parameters: values of parameters that the notebook declares.

    Returns:
        The path of the executed notebook.

    Raises:
        InputError: a name the notebook does not declare, or a place that cannot be written; nothing was started.
        NotebookFailed: a cell raised an error or the kernel died.
    """
    path, folder = Path(path).resolve(), Path(folder).resolve()
    declared = parameters_of(path)
    for name in parameters:
        if name not in declared:
            raise InputError(f'{path.name} has no parameter "{name}"; {suggestion(name, declared)}')
    output = folder / path.name
    if output == path:
        raise InputError(f"{path} would overwrite itself; give another folder for the executed copy.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({one_line(error)}); choose a place with permission.") from error
    failure = _execute(path, output, parameters)
    if failure is not None:
        pages.export_html(output, output.with_suffix(".html"))
        raise failure
    return output


def finished(path: Path) -> bool:
    """Whether an executed notebook is there that ran to its end, and its page."""
    try:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    except (OSError, ValueError, AttributeError, nbformat.ValidationError):
        return False
    records = [cell.metadata.get("papermill", {}) for cell in cells]
    whole = all(record.get("status") == "completed" and not record.get("exception") for record in records)
    return whole and path.with_suffix(".html").is_file()  # written last: the cell that was stopped counts as completed


def _execute(path: Path, output: Path, parameters: Mapping[str, Any]) -> NotebookFailed | None:
    """Executes a notebook and writes it to `output`; returns what stopped it."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaints, quiet_papermill():
        try:
            papermill.execute_notebook(
                papermill_path(path),
                papermill_path(output),
                dict(parameters),
                kernel_name="python3",
                kernel_manager_class=type("ThisPython", (ThisPython,), {"stderr": complaints}),
                language="python",
                cwd=str(path.parent),
                progress_bar=False,
                stdout_file=_LineLog(),
                stderr_file=_LineLog(),
            )
        except KeyboardInterrupt:
            for name in ("asyncio", "traitlets"):  # they report tasks that are no longer waited for
                logging.getLogger(name).setLevel(logging.CRITICAL)
            raise
        except PapermillExecutionError as error:
            name = "" if error.ename == "InputError" else error.ename
            line = ": ".join(filter(None, [name, one_line(error.evalue) if error.evalue.strip() else ""]))
            return NotebookFailed(output, error.exec_count, line)
        except DeadKernelError:
            cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
            started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
            return NotebookFailed(output, len(started), "the kernel died, usually out of memory")
        except RuntimeError as error:  # the kernel died before its first cell, or did not answer
            complaints.seek(0)
            said = [line for line in complaints.read().splitlines() if line.strip()][-1:]
            raise InputError(
                f"the kernel of {path.name} does not start ({one_line(said[0] if said else error)}); repair the "
                "environment, or free memory and try again."
            ) from error
        except OSError as error:
            raise InputError(f"{output} cannot be written ({one_line(error)}); choose a place with room.") from error
    return None

"""Files sent to a repository of the Hugging Face Hub in one commit: all of them arrive, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hr_search import __version__
from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.hub import TIMEOUT, within
from hr_search.base.progress import watched

CREATION = 60.0  # seconds in which the Hub must have made a repository
_NAME = re.compile(r"(?a:[\w.-]{1,96}/[\w.-]{1,96})")
_OWN = (".gitattributes", ".gitignore")  # files that the Hub itself puts into a repository, and that stay there


def checked_name(name: str) -> str:
    """`name`, refused unless it can name a repository of a person or an organisation.

    Raises:
        InputError: it is not OWNER/NAME, or breaks the Hub's rules for names.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not _NAME.fullmatch(name):
        raise InputError(f'--repo "{shown(name)}" is not the name of a repository; write OWNER/NAME.')
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--repo {name} is refused by the Hub ({one_line(error, 160)}); write OWNER/NAME.") from error
    return name


def upload(content: Mapping[str, Path | bytes], name: str, message: str, private: bool, overwrite: bool) -> str:
    """Sends files to a model repository, which is made if it is missing, and returns the address of the commit.

    The large files go first, to a store where nobody sees them; the commit that names all files is the last request.
    An upload that fails leaves a repository as it was, and a new one empty.

    Args:
        content: the files by their paths in the repository: a place on disk, or the bytes themselves.
        name: OWNER/NAME.
        message: of the commit.
        private: make a new repository private.
        overwrite: replace the files of a repository that holds some; those that `content` lacks are deleted.

    Raises:
        InputError: no token, no permission, a repository with other files, a public one although `private` is
            wanted, or a network that fails.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not watched():
        disable_progress_bars()
    if not get_token():
        raise InputError("the Hub needs a token to write: run `hf auth login`, or set HF_TOKEN.")
    api, made = HfApi(library_name="hr_search", library_version=__version__), False
    try:
        try:
            known = within(TIMEOUT, lambda: api.model_info(name, timeout=TIMEOUT))
        except RepositoryNotFoundError:
            known = None
        there = sorted({file.rfilename for file in known.siblings or []} - {*_OWN}) if known else []
        if there and not overwrite:
            raise InputError(
                f"{name} holds {len(there)} files already ({shown(there[0])} is the first); give another --repo, or "
                "--overwrite to replace all of them."
            )
        if known and private and not known.private:
            raise InputError(f"{name} is public already; make it private on the Hub first, or give another --repo.")
        if not known:
            within(CREATION, lambda: api.create_repo(name, private=private or None))
            made = True
        parent = known.sha if known else None
        changes = [CommitOperationAdd(path, place) for path, place in content.items()]
        changes += [CommitOperationDelete(path) for path in there if path not in content]
        return str(api.create_commit(name, changes, commit_message=message, parent_commit=parent).commit_url)
    except InputError:
        raise
    except Exception as error:  # errors of the client, of its transport or of the system
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # it names the file, its cause the reason
        why = one_line(cause or error, 200) if str(error) else "it did not answer"
        state = "is new and empty" if made else "is as it was"
        raise InputError(
            f"{name} was not published ({why.rstrip('.')}); the repository {state}, and the same command tries again."
        ) from error

"""A folder for Hugging Face; it leaves this machine only where somebody asks for that and is logged in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def check(repo: str | None) -> str:
    """The repository to upload to, before anything is written.

    Raises:
        ValueError: it is not named, huggingface_hub is not installed, or nobody is logged in.
    """
    if not repo or repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"--upload needs the repository, --repo OWNER/NAME, not {repo!r}")
    if find_spec("huggingface_hub") is None:
        raise ValueError("--upload needs huggingface_hub: pip install 'kdbench[export]'")
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError(
            "--upload needs a login at Hugging Face: hf auth login; without it the folder is prepared only"
        )
    return repo


def upload(folder: Path, repo: str) -> str:
    """The address of the repository that the folder now lies in.

    Raises:
        ValueError: the hub did not take it.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repo))
    except Exception as error:  # the hub's and the network's errors are of all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{repo} did not take the folder {folder}, which is prepared: {said}") from error

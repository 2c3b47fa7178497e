"""Files of the Hugging Face Hub, through its library and its cache."""

from __future__ import annotations

import re

import huggingface_hub
from huggingface_hub import errors

PREFIX = "hf:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def download(address: str) -> tuple[str, str | None]:
    """Fetches the weights of a model, or finds them in the cache.

    Args:
      address: "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION".

    Returns:
      The paths of the weights and of `config.json`, None if the repository has none.

    Raises:
      ValueError: no such repository, revision or file, or neither network nor cache.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@(.+))?", address)
    if not match:
        raise ValueError(f"weights {address} are not of the form hf:OWNER/NAME[@REVISION].")
    for name in WEIGHTS:
        weights = _fetch(address, name, *match.groups())
        if weights:
            return weights, _fetch(address, "config.json", *match.groups())
    raise ValueError(f"weights {address} have no file {' or '.join(WEIGHTS)}.")


def _fetch(address: str, name: str, repository: str, revision: str | None) -> str | None:
    """Path of a file in the cache; None if the repository has no such file."""
    try:
        return huggingface_hub.hf_hub_download(repository, name, revision=revision)
    except errors.LocalEntryNotFoundError as error:
        # The cache also knows what a repository does not have: the answer is not None then.
        if huggingface_hub.try_to_load_from_cache(repository, name, revision=revision) is not None:
            return None
        raise ValueError(
            f"weights {address} cannot be fetched: {name} is not in the cache, and the Hub is out "
            "of reach or HF_HUB_OFFLINE is set."
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"weights {address} have no revision {revision!r}.") from error
    except errors.GatedRepoError as error:
        raise ValueError(f"weights {address} are for accounts that were granted access.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"weights {address} do not exist, or are private.") from error
    # The library lets errors of its HTTP client through, whose type changes with its version.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"weights {address} cannot be fetched: {reason}") from error

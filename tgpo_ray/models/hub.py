"""Models that are named by a Hugging Face id: in the cache of this machine, on the hub, or neither."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from tgpo_ray.models.folder import TOKENIZER_FILES
from tgpo_ray.models.weight_files import WeightFilesError, weight_files

ANSWER_SECONDS = 5.0


def cached_snapshot(name: str, *, weights: bool) -> Path | None:
    """Returns the folder of an id in the cache, or None where something of it has still to be downloaded.

    Args:
        weights: whether a model is wanted, and not only a tokenizer.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        files = [try_to_load_from_cache(name, file) for file in (("config.json",) if weights else TOKENIZER_FILES)]
    except HFValidationError:
        return None
    folder = next((Path(file).parent for file in files if isinstance(file, str)), None)
    if folder is None or not weights:
        return folder
    try:
        weight_files(folder)
    except WeightFilesError:  # only its tokenizer has been used here, or a download was broken off and will go on
        return None
    return folder


def hub_problem(name: str) -> str | None:
    """Returns why a run could not load an id that is not in the cache, or None where the hub has it.

    The hub is asked once, for 5 seconds. `HF_HUB_OFFLINE` and `HF_ENDPOINT` are kept.
    """
    from huggingface_hub import constants

    near = f"; did you mean {close}?" if (close := _near(name)) else ""
    begin = f"{name} is no folder and not (whole) in the Hugging Face cache {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        fix = f"run `hf download {name}` where there is a network, or name a folder"
        return f"{begin}, and HF_HUB_OFFLINE forbids to download it: {fix}{near}"
    said = _asked(name, constants.ENDPOINT)
    return f"{begin}, and {said}: correct it, or name a folder{near}" if said else None


@lru_cache(maxsize=32)
def _asked(name: str, endpoint: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi(endpoint=endpoint).model_info(name, timeout=ANSWER_SECONDS)
    except GatedRepoError:
        return f"{endpoint} gives it only to accounts that it knows (run `hf auth login`)"
    except (RepositoryNotFoundError, HFValidationError):
        return f"{endpoint} has no such model (or a private one: run `hf auth login`)"
    except Exception as error:  # no network, a proxy, a timeout
        return f"{endpoint} does not answer within {ANSWER_SECONDS:g} s ({type(error).__name__})"
    return None


def _near(name: str) -> str:
    """Returns folders and cached ids that are spelled almost like `name`."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    cached = [path.name[8:].replace("--", "/") for path in cache.glob("models--*")] if cache.is_dir() else []
    folders = [path.name for path in Path().iterdir() if path.is_dir()] if "/" not in name else []
    return " or ".join(difflib.get_close_matches(name, [*cached, *folders], n=2))

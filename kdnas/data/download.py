"""Fetching a published file into the cache, checked against its published checksum."""

from pathlib import Path

from kdnas.errors import InputError
from kdnas.run.paths import cache_dir


def fetch(url: str, md5: str, folder: str = "") -> Path:
    """The file at ``url``, downloaded unless the cache holds it already.

    Args:
        url: Of the published file; its last part names the file in the cache.
        md5: Its published checksum, 32 hex digits. A cached file that differs is downloaded again.
        folder: Below the cache's ``data`` folder.

    Raises:
        InputError: No network, no permission to write, or a file whose checksum differs.
    """
    import pooch

    directory = cache_dir() / "data" / folder
    name = url.rsplit("/", 1)[-1]
    try:
        return Path(pooch.retrieve(url, known_hash=f"md5:{md5}", fname=name, path=directory))
    except (OSError, ValueError) as error:  # network errors are OSErrors, a wrong checksum is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot download {url} to {directory} ({type(error).__name__}: {reason}): check the network, or "
            f"get the file {name} elsewhere and give its folder as the data set's root"
        ) from None

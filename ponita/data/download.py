"""Fetch one published file: several addresses, a known checksum, and never half a file at the destination."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from ponita.data.atomic import replacing

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60.0
USER_AGENT = "ponita (https://arxiv.org/abs/2310.02970)"


class _TransferError(Exception):
    """The server could not be reached, refused, or sent another number of bytes than it should."""


class _ChecksumError(Exception):
    """All bytes arrived and they are another file's."""


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    sha256: str,
    size: int | None = None,
    progress: bool = True,
) -> Path:
    """Download a file from the first address that delivers it.

    The bytes go to a temporary file beside the destination, which replaces the destination only when its
    checksum is right. A destination that already has this checksum is returned as it is, without any network.

    Args:
        urls: addresses of the same file, tried in turn.
        destination: where the file goes; its folder is created.
        sha256: expected SHA-256, hexadecimal.
        size: expected length in bytes, where it is known; spares hashing a file that cannot be right.
        progress: show a progress bar on standard error.

    Returns:
        `destination`.

    Raises:
        ConnectionError: no address delivered the file; the message has the reason of each and the way by hand.
        ValueError: no address delivered the right file, and at least one of them a file with another checksum.
    """
    destination, sha256 = Path(destination), sha256.lower()
    if _is_right(destination, sha256, size):
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    reasons = [f"  {destination}: is there, but is another file"] if destination.exists() else []
    wrong_file = False
    for url in urls:
        try:
            _fetch(url, destination, sha256, size, progress)
        except (_TransferError, _ChecksumError) as error:
            reasons.append(f"  {url}: {error}")
            wrong_file = wrong_file or isinstance(error, _ChecksumError)
        else:
            return destination
    message = _failure_message(destination, sha256, reasons)
    raise ValueError(message) if wrong_file else ConnectionError(message)


def _is_right(path: Path, sha256: str, size: int | None) -> bool:
    if not path.is_file() or (size is not None and path.stat().st_size != size):
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == sha256


def _fetch(url: str, destination: Path, sha256: str, size: int | None, progress: bool) -> None:
    digest = hashlib.sha256()
    with replacing(destination) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(url, size, destination.name if progress else None):
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise _ChecksumError(f"the file there has SHA-256 {digest.hexdigest()}, expected {sha256}")


def _chunks(url: str, size: int | None, bar_label: str | None) -> Iterator[bytes]:
    """Yield the body of `url`; the network's errors become `_TransferError`, those of writing the bytes do not."""
    received = 0
    try:
        with urlopen(Request(url, headers={"User-Agent": USER_AGENT}), timeout=TIMEOUT_SECONDS) as response:
            if response.status not in (None, 200):
                raise _TransferError(f"HTTP status {response.status}, expected 200")
            announced = response.headers.get("Content-Length")
            expected = size if size is not None else int(announced) if announced else None
            with tqdm(total=expected, desc=bar_label, unit="B", unit_scale=True, disable=bar_label is None) as bar:
                while (chunk := response.read(CHUNK_BYTES)) and (expected is None or received <= expected):
                    received += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
    except HTTPError as error:
        error.close()
        raise _TransferError(f"HTTP status {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _TransferError(f"{type(error).__name__}: {error}") from error
    if expected is not None and received != expected:
        more = "at least " if received > expected else ""
        raise _TransferError(f"sent {more}{received} bytes, expected {expected}")


def _failure_message(destination: Path, sha256: str, reasons: Sequence[str]) -> str:
    return "\n".join(
        [
            f"could not download {destination.name}:",
            *reasons,
            "To get it by hand, fetch it from one of these addresses on a machine that reaches them, compare its",
            f"SHA-256 with {sha256},",
            f"and put it at {destination} ; it is used from there without any network.",
        ]
    )

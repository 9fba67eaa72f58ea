"""Downloads from a local server: the right bytes arrive whole or not at all."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from support.local_server import serve

from ponita.data.download import download

BODY = bytes(range(256)) * 9000  # more than two reads of a mebibyte
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_right_file_arrives_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    with serve({"a": BODY}) as (url, _):
        assert download([url + "a"], target, sha256=SHA256.upper(), size=len(BODY), progress=False) == target
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["file.bin"]
    probe = tmp_path / "probe"
    probe.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(probe.stat().st_mode)


def test_progress_is_shown_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve({"a": BODY}) as (url, _):
        download([url + "a"], tmp_path / "quiet.bin", sha256=SHA256, progress=False)
        assert capsys.readouterr().err == ""
        download([url + "a"], tmp_path / "shown.bin", sha256=SHA256)
    shown = capsys.readouterr().err
    assert "shown.bin" in shown and "100%" in shown


def test_second_address_serves_when_the_first_does_not(tmp_path: Path) -> None:
    with serve({"good": BODY, "other": BODY[:-1] + b"x", "never": BODY}) as (url, asked):
        urls = [url + name for name in ("missing", "other", "good", "never")]
        download(urls, tmp_path / "f", sha256=SHA256, progress=False)
    assert asked == ["missing", "other", "good"]
    assert (tmp_path / "f").read_bytes() == BODY
    assert names(tmp_path) == ["f"]


def test_failure_of_all_names_addresses_reasons_and_remedy(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    with serve({}) as (closed_url, _):
        pass
    with serve({}) as (url, _), pytest.raises(ConnectionError) as caught:
        download([url + "gone", closed_url + "x"], target, sha256=SHA256, progress=False)
    message = str(caught.value)
    assert f"{url}gone: HTTP status 404" in message
    assert f"{closed_url}x: " in message and "refused" in message
    assert "by hand" in message and str(target) in message and SHA256 in message
    assert names(tmp_path) == []


def test_wrong_checksum_shows_both_sums_and_leaves_nothing(tmp_path: Path) -> None:
    other = b"y" * len(BODY)
    with serve({"a": other}) as (url, _), pytest.raises(ValueError, match="SHA-256") as caught:
        download([url + "a", url + "missing"], tmp_path / "f", sha256=SHA256, size=len(BODY), progress=False)
    assert SHA256 in str(caught.value) and hashlib.sha256(other).hexdigest() in str(caught.value)
    assert "HTTP status 404" in str(caught.value)
    assert names(tmp_path) == []


def test_an_answer_that_is_not_the_file_is_refused_by_its_status(tmp_path: Path) -> None:
    """Sites that check for browsers answer 202 and a page of their own."""
    with serve({"a": b""}, statuses={"a": 202}) as (url, _), pytest.raises(ConnectionError, match="HTTP status 202"):
        download([url + "a"], tmp_path / "f", sha256=SHA256, progress=False)


@pytest.mark.parametrize("size", [None, len(BODY)], ids=["announced", "known"])
def test_a_cut_connection_is_not_a_wrong_file(tmp_path: Path, size: int | None) -> None:
    said = pytest.raises(ConnectionError, match=f"sent 1000 bytes, expected {len(BODY)}")
    with serve({"a": BODY[:1000]}, announced={"a": len(BODY)}) as (url, _), said:
        download([url + "a"], tmp_path / "f", sha256=SHA256, size=size, progress=False)
    assert names(tmp_path) == []


def test_a_longer_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (
        serve({"a": BODY}) as (url, _),
        pytest.raises(ConnectionError, match="sent at least 1048576 bytes, expected 10"),
    ):
        download([url + "a"], tmp_path / "f", sha256=SHA256, size=10, progress=False)
    assert names(tmp_path) == []


def test_right_file_at_the_destination_needs_no_network(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(BODY)
    with serve({}) as (url, asked):
        assert download([url + "a"], target, sha256=SHA256, size=len(BODY)) == target
    assert asked == []


@pytest.mark.parametrize("present", [BODY[:100], b"z" * len(BODY)], ids=["short", "other"])
def test_wrong_file_at_the_destination_is_replaced_by_success_only(tmp_path: Path, present: bytes) -> None:
    target = tmp_path / "f"
    target.write_bytes(present)
    with serve({"a": BODY}) as (url, _):
        with pytest.raises(ConnectionError, match="is there, but is another file"):
            download([url + "missing"], target, sha256=SHA256, size=len(BODY), progress=False)
        assert target.read_bytes() == present
        download([url + "a"], target, sha256=SHA256, size=len(BODY), progress=False)
    assert target.read_bytes() == BODY


def test_an_error_of_the_disk_is_not_blamed_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ponita.data.atomic.os.replace", full)
    with serve({"a": BODY}) as (url, _), pytest.raises(OSError, match="No space left") as caught:
        download([url + "a"], tmp_path / "f", sha256=SHA256, progress=False)
    assert not isinstance(caught.value, ConnectionError)
    assert names(tmp_path) == []

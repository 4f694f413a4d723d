"""Credentials from a file or the environment, which are never told."""

from __future__ import annotations

import base64
import json
import os
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icmoe_monai.errors import InputError
from icmoe_monai.pacs.credentials import PASSWORD, TOKEN, USER, Credentials, read_credentials


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN, USER, PASSWORD):
        monkeypatch.delenv(name, raising=False)


def header_of(credentials: Credentials) -> str | None:
    request = SimpleNamespace(headers={})
    credentials(request)
    return request.headers.get("Authorization")


def put(path: Path, content: Any, mode: int = 0o600) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


BASIC = "Basic " + base64.b64encode("Jörg:pass:wort".encode()).decode()


@pytest.mark.parametrize(
    ("content", "header"),
    [({"token": "abc.def\n"}, "Bearer abc.def"), ({"user": "Jörg", "password": "pass:wort"}, BASIC)],
    ids=["token", "basic"],
)
def test_a_file_goes_before_the_environment(
    content: Any, header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "another")
    assert header_of(read_credentials(put(tmp_path / "credentials.json", content))) == header
    assert header_of(read_credentials()) == "Bearer another"


def test_a_name_and_password_of_the_environment_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert header_of(read_credentials()) is None
    monkeypatch.setenv(USER, "Jörg")
    monkeypatch.setenv(PASSWORD, "pass:wort")
    assert header_of(read_credentials()) == BASIC


@pytest.mark.skipif(os.name != "posix", reason="there are no such modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777], ids=oct)
def test_a_file_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chmod 600"):
        read_credentials(put(tmp_path / "credentials.json", {"token": "planted"}, mode))


@pytest.mark.parametrize(
    "content",
    ["", "planted", '{"token": "planted', '["planted"]', {"token": ""}, {"token": 5}, {"token": "pla\nnted"},
     {"token": "plantéd"}, {"user": "planted"}, {"password": "planted"}, {"user": "", "password": "planted"},
     {"user": "pla:nted", "password": "planted"}, {"token": "planted", "user": "planted"}, {"tokens": "planted"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_credentials_is_refused_without_telling_it(content: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_credentials(put(tmp_path / "credentials.json", content))
    assert "plant" not in "".join(traceback.format_exception(raised.value)).replace(str(tmp_path), "")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_credentials(tmp_path / "credentials.json")


@pytest.mark.parametrize("given", [{TOKEN: ""}, {USER: "a"}, {PASSWORD: "b"}, {TOKEN: "a", PASSWORD: "b"}], ids=str)
def test_half_of_them_in_the_environment_is_refused(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="ICMOE_DICOMWEB"):
        read_credentials()


def test_what_is_signed_with_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("Bearer secret"))

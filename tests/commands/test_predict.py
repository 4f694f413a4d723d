"""Anonymity as the command line is asked for it: never lost, never a salt by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import scripts

from icmoe_monai.__main__ import main
from icmoe_monai.commands import predict
from icmoe_monai.errors import InputError, find_input_error

INFERENCE = str(Path(__file__).parents[2] / "configs" / "inference.json")
# MONAI warns of configs being code at every workflow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class AskedError(Exception):
    """End a command where its workflow would be built."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Hold the settings that a command would override."""
    found: dict[str, Any] = {}

    def ask(_root: Path, _packs: object, _configs: object, overrides: dict[str, Any], _bases: object) -> None:
        found.update(overrides)
        raise AskedError

    monkeypatch.setattr(predict, "_workflow", ask)
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--anonymous"], True),
        (["--anonymous=true"], True),
        (["--anonymous=False"], False),
        (["--anonymous=a long secret of ours"], "a long secret of ours"),
        (["--anonymous", "--anonymous=a long secret of ours"], "a long secret of ours"),
    ],
    ids=["none", "flag", "true", "false", "secret", "both"],
)
def test_the_command_hands_on_what_was_asked_for(
    words: list[str], expected: object, asked: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(AskedError):
        main(["predict", str(tmp_path), str(tmp_path / "out"), *words])
    assert asked.get("anonymous") == expected
    assert "overwrite" not in asked  # else the False of an option that was not given would hide that of a --config


@pytest.mark.parametrize(
    "value", ["", "0", "1", "yes", "no", "on", "off", "None", "null", "short", "12345678901234567890"]
)
@pytest.mark.parametrize("experts", ["skin", "skin,breast"])
def test_an_unclear_word_or_weak_salt_ends_the_command(
    value: str, experts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(tmp_path), str(tmp_path / "out"), "--experts", experts, f"--anonymous={value}"]
    assert main(command) == 1
    assert "write True or False, or a secret of at least 16 characters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_packs_do_not_begin_anonymously_over_named_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "Miller.png").touch()
    (tmp_path / "in").mkdir()
    assert (
        main(["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--experts", "skin,breast", "--anonymous"]) == 1
    )
    assert "holds 1 results that tell names" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", "yes", 0, 1, None], ids=repr)
def test_the_bundles_own_command_never_runs_named_by_mistake(value: object, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises((InputError, RuntimeError)) as raised:
        scripts.run(
            config_file=INFERENCE,
            logging_file=None,
            dataset_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / "out"),
            anonymous=value,
        )
    sentence = "MONAI passes over --anonymous None" if value is None else "anonymous must be True"
    assert sentence in str(find_input_error(raised.value))
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]

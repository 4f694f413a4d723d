"""Anonymous runs: what the setting may be, names as salted hashes, and named results of earlier runs in the folder.

Names of files are short and easily guessed, so a hash hides them only as long as its salt is a secret. A setting that
is no clear yes, no or secret is therefore refused: else an unset variable of a script would make a run named, or the
word `yes` its salt.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.folders import FOLDERS, WITH_PATIENT_DATA
from icmoe_monai.utils.files import inside, write_atomically

MIN_SALT = 16  # characters
_MIN_DIFFERENT = 6  # of them
_SALT_FILE = ".salt"
_HOW = (
    f"write True or False, or a secret of at least {MIN_SALT} characters, {_MIN_DIFFERENT} of them different, that is "
    "no number and does not begin with $, @ or %"
)
_WORDS = ("", "0", "1", "yes", "no", "on", "off", "y", "n", "t", "f", "none", "null", "nan")
_IS_ANONYMOUS = re.compile(r"case_[0-9a-f]{16}(_(frame|class)?[0-9]+)*(\.[a-z]+)+")
_CLASS = re.compile(r"_class[0-9]+$")  # of a probability map
_LEFT_OVER = re.compile(r"\.[0-9a-f]{12}(\.[a-z]+)+")  # as `write_atomically` names what is not whole yet
_REPORTS = ("report.json", "report.csv", "report.html")


def read_anonymous(value: Any) -> bool | str:
    """Return the setting `anonymous` as False, True, or the salt that was given.

    Args:
        value: True, False, one of these words in any case, or the salt.

    Raises:
        InputError: If it is anything else, or a salt that a trial would find.

    Example:
        >>> read_anonymous("true"), read_anonymous(False)
        (True, False)
    """
    if isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else ""
    word = text.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    if not isinstance(value, str) or word in _WORDS:
        raise InputError(f"anonymous must be True, False or a secret of your own, got {_shown(value)}: {_HOW}.")
    if len(text.strip()) < MIN_SALT or len(set(text)) < _MIN_DIFFERENT or _is_number(text) or text[0] in "$@%":
        # the text itself may be a secret, and is not repeated
        raise InputError(f"anonymous got a text of {len(text)} characters that is no safe secret: {_HOW}.")
    return text


class Renamer:
    """Replace names by salted hashes (HMAC-SHA256) that keep the suffix of the file's kind.

    Args:
        salt: The salt; True takes it from `<output_dir>/.salt`, which is made, readable by its owner only.
        output_dir: Folder of the results.

    Raises:
        InputError: If the file of the salt cannot be written, or holds no salt.
    """

    def __init__(self, salt: bool | str, output_dir: Path) -> None:
        self._salt = salt if isinstance(salt, str) else _own_salt(output_dir)

    def __call__(self, name: str) -> str:
        """Return the name to use in the place of another."""
        code = hmac.new(self._salt.encode(), name.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"case_{code.hexdigest()[:16]}{split_suffix(name)[1].lower()}"


class NamedResults:
    """Hold the files of earlier runs that tell names, in a folder that is to hold anonymous results only.

    Args:
        output_dir: Folder of the results.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.files = sorted(_find_named(self.output_dir))
        # of writers that were killed; what they hold may tell names
        below = (path for name in FOLDERS for path in (self.output_dir / name).rglob(".*"))
        hidden = [*self.output_dir.glob(".*"), *below]
        self._left_over = [path for path in hidden if _LEFT_OVER.fullmatch(path.name) and self._holds(path)]

    def check(self, *, names: Collection[str] = (), volumes: Collection[str] = (), overwrite: bool = False) -> None:
        """Refuse a folder with named results, unless they may be removed and are all of the earlier run.

        Args:
            names: Names of the earlier run's cases.
            volumes: Paths of its volumes, relative to the folder.
            overwrite: Whether its results may be removed.

        Raises:
            InputError: If there are some that may not.
        """
        if self.files and not overwrite:
            raise InputError(
                f"{self.output_dir} holds {len(self.files)} results that tell names, and this run is anonymous: choose "
                "another output_dir, or remove them with --overwrite True."
            )
        stems = {split_suffix(name)[0] for name in names}
        known = {path for path in self._relative() if path.as_posix() in volumes or _is_of(path, stems)}
        strange = [path for path in self._relative() if path not in known or not self._holds(self.output_dir / path)]
        if strange:
            raise InputError(
                f"{self.output_dir} holds {len(strange)} files that tell names, in {strange[0].parts[0]}/ for example, "
                "and that are of no run that its journal knows: take them out, or choose another output_dir."
            )

    def remove(self) -> None:
        """Remove the files, the folders that become empty, the reports, and unfinished files of killed runs."""
        for path in (*self.files, *self._left_over, *(self.output_dir / name for name in _REPORTS)):
            path.unlink(missing_ok=True)
        places = (self.output_dir / name for name in FOLDERS)
        folders = [path for place in places for path in (place, *place.rglob("*")) if path.is_dir()]
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if not folder.is_symlink() and self._holds(folder) and not any(folder.iterdir()):
                folder.rmdir()

    def _holds(self, path: Path) -> bool:
        return inside(self.output_dir, str(path.relative_to(self.output_dir))) is not None

    def _relative(self) -> list[Path]:
        return [path.relative_to(self.output_dir) for path in self.files]


def _find_named(output_dir: Path) -> Iterator[Path]:
    for name in FOLDERS:
        for path in (output_dir / name).rglob("*"):
            may_be_ours = path.parent == output_dir / name and name not in WITH_PATIENT_DATA
            is_ours = may_be_ours and _IS_ANONYMOUS.fullmatch(path.name)
            if not path.is_dir() and not path.name.startswith(".") and not is_ours:
                yield path


def _is_of(path: Path, stems: Collection[str]) -> bool:
    """Tell whether a file, relative to the folder of the results, is one that is written for a case."""
    stem = PurePosixPath(*path.parts[1:]).with_suffix("").as_posix()
    return stem in stems or _CLASS.sub("", stem) in stems


def _own_salt(output_dir: Path) -> str:
    path = output_dir / _SALT_FILE
    if not path.is_file():

        def write(temporary: Path) -> None:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32), encoding="ascii")

        write_atomically(path, write)
    salt = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        if isinstance(read_anonymous(salt), str):
            return salt
    except InputError:
        pass
    raise InputError(f"{path} holds no safe salt: {_HOW} into it, or remove it for a new one.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    """Return a value that is no secret as it was written."""
    return repr(value) if value is None or str(value).strip().lower() in _WORDS else f"a {type(value).__name__}"

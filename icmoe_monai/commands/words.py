"""Words of the command line: the commands and their options, and overrides of the config's settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from fire.parser import DefaultParseValue

from icmoe_monai.errors import InputError
from icmoe_monai.names import literal
from icmoe_monai.schemas import SCHEMAS
from icmoe_monai.version import __version__

DESCRIPTION = "Segment medical images by experts that vote, and train, judge and understand such experts."
LOGS = ("text", "json")
_FURTHER = " Further options, --NAME VALUE, override the settings of docs/settings.md, such as {}."
# as the text of a shell script might write them; all else is read as `python -m monai.bundle run` reads it
_SWITCHES = {"True": True, "False": False, "true": True, "false": False}
_WORDS = {**_SWITCHES, "null": None}


def take_log(words: Sequence[str]) -> tuple[list[str], str]:
    """Take the option of all commands, `--log FORMAT`, out of a command line.

    Args:
        words: Words of the command line.

    Returns:
        The other words, and the format, one of `LOGS`.

    Raises:
        InputError: If there is no such format.

    Example:
        >>> take_log(["predict", "IN", "OUT", "--log", "json"])
        (['predict', 'IN', 'OUT'], 'json')
    """
    others: list[str] = []
    log = LOGS[0]
    rest = iter(words)
    for word in rest:
        if word == "--":
            others += [word, *rest]
        elif word.partition("=")[0] == "--log":
            log = word.partition("=")[2] or next(rest, "")
        else:
            others.append(word)
    if log not in LOGS:
        raise InputError(f"--log is one of {', '.join(LOGS)}, got {log!r}.")
    return others, log


def read_words(words: Sequence[str], packs: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read a command line.

    Args:
        words: Words of the command line, without the program.
        packs: Names of the packs of experts.

    Returns:
        The command, as `command`, with its own options, and as `further_words` the words of the others; and by name
        the settings to override.

    Raises:
        InputError: If there is no such command, or an option or value is missing.
        SystemExit: If help or the version was asked for.
    """
    from_archive = any(word.partition("=")[0] == "--dicomweb" for word in words)
    parser, commands = _parsers(packs, from_archive)
    if not words or words[0] not in commands or words[0] == "info":
        return parser.parse_args(words), {}
    own, texts = _take_further(words, commands[words[0]])
    given = parser.parse_args(own)
    given.further_words = [f"--{name}={text}" for name, text in texts.items()]
    return given, {name: _read(name, text) for name, text in texts.items()}


class _Parser(argparse.ArgumentParser):
    """Parse a command line, and raise a mistake in it as an `InputError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint."""
        raise InputError(f"{message}: see {self.prog} --help.")

    @property
    def names(self) -> Collection[str]:
        """Names of the options."""
        return self._option_string_actions.keys()

    @property
    def flags(self) -> Collection[str]:
        """Names of the options that are given without a value."""
        return [name for name, action in self._option_string_actions.items() if action.const is True]


def _parsers(packs: Sequence[str], from_archive: bool) -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of the command line, and each command's own."""
    parser = _Parser(prog="icmoe", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"icmoe_monai {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND", title="commands")
    _add_predict(commands, packs, from_archive)
    _add_listen(commands)
    _add_plan(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_quantize(commands)
    _add_suggest(commands)
    _add_analyze(commands)
    commands.add_parser("prepare", help="make a dataset folder of an official archive", add_help=False)
    info = commands.add_parser(
        "info",
        help="say what a file is",
        description="Say what a checkpoint, a calibration, a config or another file of this package is.",
    )
    info.add_argument("file", metavar="FILE")
    for command in commands.choices.values():  # told here, and taken by `take_log`
        command.add_argument("--log", choices=LOGS, help="text, or lines of JSON on standard error (default: text)")
    return parser, dict(commands.choices)


def _add_predict(commands: Any, packs: Sequence[str], from_archive: bool) -> None:
    predict = commands.add_parser(
        "predict",
        help="segment images",
        description="Segment an image, a folder of images (DICOM, PNG, JPEG, TIFF, BMP, WebP, NIfTI), a DICOMDIR, or, "
        "with --dicomweb in the place of IN, images of an archive. "
        "The same command again, without --overwrite, goes on where it was stopped."
        + _FURTHER.format("--probability_maps True"),
    )
    if not from_archive:
        predict.add_argument("input", metavar="IN", type=_path, help="the image, folder or DICOMDIR")
    predict.add_argument("output", metavar="OUT", type=_path, help="folder of the results")
    predict.add_argument(
        "--experts",
        metavar="NAME",
        help=f"what the experts were trained for: {', '.join(packs)} (default: skin). A list, such as "
        f"{','.join(packs)}, runs all of them over one pass of the encoder, each into its own folder of OUT; auto runs "
        "for each image the one that was trained on its like, and OUT/experts.csv says which, or none",
    )
    predict.add_argument("--checkpoint", metavar="FILE", help="weights of your own training")
    _add_calibration(predict)
    predict.add_argument("--overwrite", action="store_true", help="do finished cases again")
    predict.add_argument(
        "--anonymous",
        action="store_true",
        help="salted hashes in the place of file names; --anonymous=SALT for a salt of your own, 16 characters or more",
    )
    _add_archive(predict)
    _add_common(predict)


def _add_archive(parser: argparse.ArgumentParser) -> None:
    archive = parser.add_argument_group("images of an archive (docs/pacs.md)")
    archive.add_argument("--dicomweb", metavar="URL", help="root of its DICOMweb services; no IN is then given")
    archive.add_argument("--study", metavar="UID", help="the study that is retrieved, or")
    archive.add_argument("--series", metavar="UID", help="this series of it, or")
    archive.add_argument("--modality", metavar="NAME", help="series of this modality, such as US, and")
    archive.add_argument("--date", metavar="DAYS", help="of studies of these days, such as 20260131 or 20260101-")
    archive.add_argument("--store", action="store_true", help="store the DICOM Segmentations beside their images")
    archive.add_argument(
        "--credentials",
        metavar="FILE",
        help="a file with a token, or a name and a password (default: ICMOE_DICOMWEB_TOKEN, or ICMOE_DICOMWEB_USER and "
        "ICMOE_DICOMWEB_PASSWORD, of the environment)",
    )
    archive.add_argument("--ca", metavar="FILE", help="certificates of authorities (default: those the system trusts)")


def _add_listen(commands: Any) -> None:
    listen = commands.add_parser(
        "listen",
        help="segment the studies that a hospital's network sends",
        description="Run a DICOM node: studies that are sent to it are segmented, and the results sent back. Its "
        "config (docs/pacs.md shows one) says who may send and where results go. The same command again goes on where "
        "it was stopped." + _FURTHER.format("--empty_segmentations True"),
    )
    listen.add_argument("output", metavar="OUT", type=_path, help="folder of the node: its queue, images and results")
    listen.add_argument("--ae", metavar="TITLE", help="the node's own AE title")
    listen.add_argument("--port", type=int, help="port of DICOM (default: 11112)")
    listen.add_argument("--to", metavar="PEER", help="where results go, names of the config's peers")
    listen.add_argument("--experts", metavar="NAME", help="what the experts were trained for (default: skin)")
    listen.add_argument("--checkpoint", metavar="FILE", help="weights of your own training")
    listen.add_argument("--retry", action="store_true", help="open failed studies again, and end")
    listen.add_argument("--device", help="such as cpu or cuda:0 (default: CUDA where there is one)")
    listen.add_argument("--config", metavar="FILE", action="append", default=[], help="the node's config")


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan",
        help="look at a training set and choose how to train",
        description="Look at a dataset folder before a training: its facts, what is wrong with it, and settings with "
        "their reasons, in OUT/plan.yaml, plan.json and plan.html. A few real steps tell how long a training takes. "
        "Further options, --NAME VALUE, are settings of the training that stay, such as --longest_side 512.",
    )
    _add_folders(plan)
    plan.add_argument(
        "--memory", metavar="SIZE", help="what a training may take, such as 4GB (default: 4/5 of what is free)"
    )
    plan.add_argument("--hours", metavar="H", help="how long a training should take at most")
    plan.add_argument("--no_timing", action="store_true", help="run no steps, and tell no times")
    _add_common(plan)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train experts on your images",
        description="Train experts on a folder with images/ and masks/, or on an official archive as it unpacks. "
        "OUT/best.pt are the weights of the best validation." + _FURTHER.format("--max_epochs 30"),
    )
    _add_folders(train)
    train.add_argument(
        "--folds",
        type=int,
        metavar="NUMBER",
        help="train as many networks, each on the images without one part, and make an ensemble of them, "
        "OUT/ensemble.pt, scored and calibrated on images that its networks have not seen. The same command again goes "
        "on where it was stopped. With --fold K, train one of them",
    )
    train.add_argument(
        "--jobs", type=int, default=1, metavar="NUMBER", help="folds that are trained at the same time (default: 1)"
    )
    train.add_argument(
        "--checkpoint", metavar="FILE", help="last.pt of a training to go on with, or best.pt to start from its weights"
    )
    _add_common(train)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="compare masks with your labels",
        description="Segment the test images of a dataset folder and compare the masks with its labels."
        + _FURTHER.format("--split val"),
    )
    _add_folders(evaluate)
    _add_checkpoint(evaluate)
    _add_calibration(evaluate)
    _add_common(evaluate)


def _add_calibrate(commands: Any) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit how far masks can be trusted",
        description="Fit a calibration on the validation images, and write it beside the checkpoint, where prediction "
        "and evaluation find it." + _FURTHER.format("--alpha 0.05"),
    )
    _add_data_and_weights(calibrate)
    _add_common(calibrate)


def _add_quantize(commands: Any) -> None:
    quantize = commands.add_parser(
        "quantize",
        help="make a model faster on CPUs, in numbers of 8 bits",
        description="Write a graph of 8 bits beside a checkpoint, for predict --runtime int8, and tell how good its "
        "masks of the validation images are. It is kept only where they are as good."
        + _FURTHER.format("--split_seed 1"),
    )
    _add_data_and_weights(quantize)
    quantize.add_argument("--device", help="cpu, the default, on which graphs of 8 bits run")
    _add_config(quantize)


def _add_suggest(commands: Any) -> None:
    suggest = commands.add_parser(
        "suggest",
        help="choose images to label next, with drafts of their masks",
        description="Segment a pool of unlabelled images, an image, folder or DICOMDIR as of predict, and choose some "
        "to label next, at random or by a score: OUT/suggestions.html shows them, and OUT/drafts is a dataset folder "
        "of them with the model's masks, to be corrected." + _FURTHER.format("--seed 1"),
    )
    suggest.add_argument("pool", metavar="POOL", type=_path, help="the unlabelled images")
    suggest.add_argument("--output", metavar="OUT", type=_path, required=True, help="folder of the results")
    suggest.add_argument("--number", type=int, metavar="N", help="how many images to choose (default: 20)")
    suggest.add_argument(
        "--labelled", metavar="DATASET", type=_path, help="the dataset folder that the model was trained on"
    )
    suggest.add_argument(
        "--by",
        metavar="NAME",
        help="random, suggest, or one figure alone: disagreement, predicted_dice (default: random)",
    )
    suggest.add_argument("--overwrite", action="store_true", help="segment again what is done; drafts always stay")
    _add_checkpoint(suggest)
    _add_calibration(suggest)
    _add_common(suggest)


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="look into the experts",
        description="Show what each expert sees, who is listened to, and what the training changed, on the test images."
        + _FURTHER.format("--training_dir runs/mine"),
    )
    _add_folders(analyze)
    _add_checkpoint(analyze)
    _add_common(analyze)


def _path(text: str) -> str:
    """Refuse an empty path, which would stand for the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, as an unset variable of a script leaves it")
    return text


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=_path, help="the dataset folder")
    parser.add_argument("output", metavar="OUT", type=_path, help="folder of the results")


def _add_data_and_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=_path, help="the dataset folder")
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="weights of your training")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of your training (default: those for skin)")


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="calibration of the weights, or none (default: STEM.calibration.json beside them, where it is there)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: CUDA where there is one)")
    _add_config(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=[],
        help="a config to lay over the command's own, your file or a shipped one such as backbones/vit_b.yaml; may be "
        "given several times",
    )


def _take_further(words: Sequence[str], parser: _Parser) -> tuple[list[str], dict[str, str]]:
    """Separate the command's own words from overrides of the config, --NAME VALUE or --NAME=VALUE.

    A flag may have a value, too, True or False, as the setting has that it stands for.

    Args:
        words: Words of the command line.
        parser: Parser of the command, whose options are its own; every other option overrides the config.

    Returns:
        The command's own words, and the overrides' values by name, as they are written.

    Raises:
        InputError: If a value is missing.
    """
    own: list[str] = []
    texts: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            own += [word, *rest]
            break
        if name in parser.flags and (value if equals else "".join(rest[:1])) in _SWITCHES:
            is_on = _SWITCHES[value if equals else rest.pop(0)]
            own += [name] if is_on else []
            texts |= {} if is_on or name[2:] not in SCHEMAS else {name[2:]: "False"}
        elif word.startswith("--anonymous="):
            texts["anonymous"] = value
        elif not name.startswith("--") or name in parser.names:
            own.append(word)
        else:
            value = value if equals else rest.pop(0) if rest else ""
            if not value:
                raise InputError(f"{name} needs a value: {name} VALUE.")
            texts[name[2:]] = value
    return own, texts


def _read(name: str, text: str) -> Any:
    """Return the value of an override, as `python -m monai.bundle run` reads it; a secret whatever it holds."""
    if name == "anonymous":
        return literal(text)
    return _WORDS[text] if text in _WORDS else DefaultParseValue(text)

"""HTML page of the expert analysis: a single file with all figures, which loads nothing from the internet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from icmoe_monai.visualize.page import as_utf8, data_uri, page_template

ONE_EXPERT = "Left out: this network has one expert, and there is nothing to compare."


class Section(NamedTuple):
    """Hold one section of the page.

    Attributes:
        id: Anchor of the section, for links.
        title: Heading.
        reading: Text that explains how to read the figures and the table.
        pictures: Title and PNG, as a data URI, of each figure.
        heads: Column heads of the table.
        rows: Rows of the table.
        missing: Why figures or parts of the section are left out; empty if nothing is.
    """

    id: str
    title: str
    reading: str
    pictures: list[tuple[str, str]]
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    missing: str = ""


def render_analysis(content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Render the page of the expert analysis.

    Args:
        content: The content of `analysis.json`.
        pictures: The figures as PNG, by name.

    Returns:
        The HTML text, to be written as UTF-8.
    """
    dead = content["dead_experts"]
    limit = f"{100 * content['dead_below']:g} %"
    if len(content["experts"]) == 1:
        state = "One expert: nothing votes, and no expert can be left unheard."
    elif dead:
        loads = ", ".join(f"{name} ({100 * content['votes'][f'load_{name}']:.1f} %)" for name in dead)
        state = f"Dead expert: {loads}. The load is below {limit}: this expert has hardly a say in any mask."
    else:
        state = f"No dead expert: every expert has the largest vote at no less than {limit} of the pixels."
    summary = {
        "Cases": content["num_cases"],
        "Experts": ", ".join(content["experts"]),
        "Compared with": content["before"],
        **{key.replace("_", " ").capitalize(): value for key, value in content["settings"].items() if _is_plain(value)},
        "Versions": ", ".join(f"{name} {number}" for name, number in content["settings"]["versions"].items()),
    }
    uris = {name: data_uri(png, "png") for name, png in pictures.items()}
    page = page_template("analysis.html").render(
        alarm=bool(dead),
        state=state,
        summary=[(key, as_utf8(value)) for key, value in summary.items()],
        sections=[build(content, uris) for build in (_load, _regions, _pairs, _wins, _features, _ambiguity, _training)],
    )
    return as_utf8(page)


def _load(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "Share of all pixels at which an expert has the largest vote (a tie is shared), mean over the cases. An "
        "expert below the dashed line counts as dead: it costs time and decides nothing."
    )
    rows = [
        (name, *(f"{100 * content['votes'][f'{key}_{name}']:.1f} %" for key in ("load", "mean_vote")))
        for name in content["experts"]
    ]
    extra = [(key.replace("_", " "), f"{content['votes'][key]:.3f}", "") for key in ("vote_entropy", "disagreement")]
    several = len(content["experts"]) > 1
    heads = ("expert", "load", "mean vote")
    return _section("load", "Load", reading, uris, ["load"], several, heads, [*rows, *extra])


def _regions(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "Votes at pixels inside the label, near its border, outside, and where the experts decide differently "
        "(ambiguous, wherever that is). Box: quartiles; whiskers: 5 to 95 %. If all boxes lie at equal votes, the "
        "vote is a plain mean; if it pays, the expert with the larger vote is the one that is more often right, "
        "which the table says of each region."
    )
    heads = ("region", "share of the picture", *(f"{name}: mean vote, right" for name in content["experts"]))
    rows = [
        (
            f"{region} ({entry['cases']} cases)",
            f"{100 * entry['share']:.1f} %",
            *(
                f"{entry['mean_vote'][name]:.2f}, {100 * entry['right'][name]:.0f} %" if entry["cases"] else "-"
                for name in content["experts"]
            ),
        )
        for region, entry in content["regions"].items()
    ]
    several = len(content["experts"]) > 1
    section = _section("regions", "Votes by region", reading, uris, ["regions"], several, heads, rows)
    return section._replace(heads=heads, rows=rows)  # the table is of use for a single expert too


def _pairs(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "Of the pixels that an expert or the label calls foreground: how often two experts decide differently, and"
        " how often both are wrong. Experts that never differ are one expert; where both are wrong no vote between"
        " the two helps."
    )
    rows = [
        (pair, f"{100 * values['differ']:.1f} %", f"{100 * values['both_wrong']:.1f} %")
        for pair, values in content.get("pairs", {}).items()
    ]
    heads = ("pair", "decide differently", "both wrong")
    return _section("pairs", "Pairwise disagreement", reading, uris, ["pairs"], bool(rows), heads, rows)


def _wins(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "Cases, the label dashed, and beside each who is right: in an expert's colour only that expert is. Below, "
        "where in the picture that happens, over all cases. An expert that is never right alone adds nothing that "
        "a vote could use; one that is often wrong alone costs."
    )
    rows = [
        (name, f"{100 * values['alone_right']:.2f} %", f"{100 * values['alone_wrong']:.2f} %")
        for name, values in content.get("wins", {}).items()
    ]
    heads = ("expert", "alone right (of the compared pixels)", "alone wrong")
    return _section(
        "wins", "Who is right where others are wrong", reading, uris, ["wins", "positions"], bool(rows), heads, rows
    )


def _features(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "t-SNE of each expert's features (what it hands to its decoder, stride 16), of its decoder's and of the "
        "embeddings of the contrastive loss; a point is a cell that is purely one class. Distances between groups "
        "and their sizes mean nothing in t-SNE; whether classes mix does. Below, cosines of pairs of the same "
        f"points, before ({content['before']}) and after: the farther right the first two lie of the third, the "
        "better a linear look at the features tells foreground from background. AUC: the chance that a pair of one"
        " class is more alike than a pair of two, 0.5 if the features know nothing of the classes."
    )
    rows = [
        (name, *(_compared(each["before"], each["after"], key) for key in ("separation", "auc")))
        for name, each in content["features"].items()
    ]
    heads = ("features", "separation: before, after", "AUC: before, after")
    section = _section("features", "Features", reading, uris, ["tsne", "similarity"], bool(rows), heads, rows)
    missing = "Left out: this network is no mixture of experts over a trunk, whose features could be taken."
    return section if rows else section._replace(missing=missing)


def _ambiguity(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        f"Computer-made phantoms ({content['ambiguity']['look']}) that differ in one number only. Left: the "
        "lesion's rim shows between nothing and all of the lesion, so that half way two borders are plausible; "
        "right: the border is drawn wider and wider. Means over the zone in which the truth is open; bands are "
        "quartiles over the phantoms. Experts that know when a case is ambiguous disagree most in the middle on "
        "the left, and more and more on the right. rho: Spearman's correlation with the known ambiguity within a "
        "phantom, mean over phantoms. Phantoms are no patients: this is about behaviour, not about performance. "
        "In the maps below, of one lesion at every level, bright is 1 and dark is 0."
    )
    rows = [
        (
            f"{family}: {name.replace('_', ' ')}",
            *("-" if rho[key] is None else f"{rho[key]:+.2f}" for key in ("within_phantoms", "pooled")),
        )
        for family in ("rim", "softness")
        for name, rho in content["ambiguity"][family]["spearman"].items()
    ]
    heads = ("Spearman of known ambiguity with", "within phantoms", "over all pictures")
    section = _section("ambiguity", "Known ambiguity", reading, uris, ["ambiguity"], True, heads, rows)
    missing = (
        ""
        if len(content["experts"]) > 1
        else "Disagreement and vote entropy are left out: this network has one expert."
    )
    return section._replace(missing=missing)


def _training(content: Mapping[str, Any], uris: Mapping[str, str]) -> Section:
    reading = (
        "Over the validated epochs: the load of each expert, how evenly votes are spread (entropy 1: all alike) "
        "and how much the experts disagree, and the Dice of vote, plain mean and oracle (at each pixel the best "
        "expert)."
    )
    training = content["training"]
    rows = []
    if training:
        rows = [(name, ", ".join(map(str, epochs)) or "never") for name, epochs in training["dead_in_epochs"].items()]
    heads = ("expert", f"epochs with a load below {100 * content['dead_below']:g} %")
    section = _section(
        "training", "Load and votes over training", reading, uris, ["training"], bool(training), heads, rows
    )
    missing = (
        ONE_EXPERT
        if len(content["experts"]) == 1
        else (
            "Left out: no training was given, or it has other experts; --training_dir names the output folder of one."
        )
    )
    return section if training else section._replace(missing=missing)


def _section(
    anchor: str, title: str, reading: str, uris: Mapping[str, str], names: Sequence[str], there: bool,
    heads: Sequence[str], rows: Sequence[Sequence[str]],
) -> Section:  # fmt: skip
    if not there:
        return Section(anchor, title, reading, [], missing=ONE_EXPERT)
    pictures = [(f"{title}: {name}", uris[name]) for name in names if name in uris]
    return Section(anchor, title, reading, pictures, heads, rows)


def _compared(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, key: str) -> str:
    return ", ".join("-" if each is None else f"{each[key]:.2f}" for each in (before, after))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))

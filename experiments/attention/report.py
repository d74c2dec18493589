"""What `glimpse attention` found, as a page for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.runtime.markdown import table

Row = Mapping[str, Any]

_NOTES = """\
- Boxes come with the images and are for this page only: no agent sees them, in training or here.
- Intervals, in brackets, are 95% over images, for one trained agent: another seed may differ by
  more. Shares have Wilson's interval, mA a bootstrap within the classes, differences are paired.
- *Random* is a fixation drawn evenly over the image, in expectation (what boxes cover is computed
  exactly, lengths and what lies between two dogs on a fine grid). *Random on the lattice* is that
  draw moved to the nearest point of a run's bank, as the run's own fixations are.
- A bank looks only at its lattice. *Looked* is the lattice point, *chosen* the location the agent
  named before that.
- Distances are in short sides of the image; 0 is inside a box. *Follows* is the correlation,
  along x and y, of the fixation with the middle of the dog, over images with one box: 0 is a
  fixation that ignores the dog, however often it hits it.
- mA after n glimpses is read from a classifier that was trained to answer after the last one. A
  model trained to answer after n may do better (`glimpse table1` trains one of each), so the gains
  of later glimpses may look greater here than they are.
- Pixels: S x T patches of 96 x 96 and the context, against 224 x 224 (paper, section 3). Centre and
  random fixations need no context: they see one patch fewer. The paper's 55% for high + medium with
  three glimpses is what one glimpse takes (27,648 pixels); three take 64,512, 129%."""


def percent(row: Row, *, sign: bool = False) -> str:
    """A share as `12.3 (11.0 to 13.7)`."""
    form = "{:+.1f}" if sign else "{:.1f}"
    value, low, high = (form.format(100 * row[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def number(row: Row) -> str:
    """A length as `0.12 (0.11 to 0.13)`."""
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def in_words(row: Row) -> str:
    """A share for a sentence: `12.3% (11.0 to 13.7)`."""
    return percent(row).replace(" ", "% ", 1)


def compared(difference: Row, what: str) -> str:
    """State a paired difference of shares in words, such as `more often than the middle`."""
    if difference["low"] > 0:
        return f"more often than {what}"
    return f"{'less often than' if difference['high'] < 0 else 'not to be told from'} {what}"


def format_attention(record: Row) -> str:
    """The whole page, as Markdown."""
    runs = record["runs"]
    lines = ["# What looking was worth", "", *_overview(runs), ""]
    for run in runs:
        lines += [f"## {run['title']}", "", _what(run), ""]
        lines += [*_sentences(run), ""]
        if run["boxes"] is None:
            lines += [
                "These images come without boxes, so whether fixations fall on a dog cannot be "
                "told; what follows needs none.",
                "",
            ]
        lines += ["### Where it looks", "", *_places(run), ""]
        if run.get("face") is not None:
            lines += ["### On the face", "", *_face(run["face"]), ""]
        lines += ["### What a glimpse adds", "", *_answers(run), ""]
        if run["boxes"] is not None:
            lines += ["### Two dogs", "", *_two_dogs(run, record["near_line"]), ""]
    lines += ["## How to read this", "", _NOTES]
    return "\n".join(lines)


def _what(run: Row) -> str:
    people = run.get("people")
    if people is not None:
        boxes = run["boxes"]["images"] if run["boxes"] else 0
        against = f" against `{people['against']}`" if people["against"] else ""
        return (
            f"`{run['run']}`, {people['who']}: {people['sessions']:,} sessions of `glimpse play`"
            f"{against}; {run['images']:,} episodes on `{run['split']}`, {boxes:,} with boxes."
        )
    where = "live encoder" if run["lattice"] is None else f"bank of {run['lattice']} fixations"
    boxes = run["boxes"]["images"] if run["boxes"] else 0
    dogs = ", two dogs in each" if run["two_dogs"] else ""
    return (
        f"`{run['run']}`, epoch {run['epoch']}, checkpoint `{run['checkpoint']}`; "
        f"{run['images']:,} images of `{run['split']}`{dogs}, {boxes:,} with boxes; "
        f"encoder `{run['encoder']}`, {where}."
    )


def _overview(runs: list[Row]) -> list[str]:
    rows = []
    for run in runs:
        last, boxes = run["answers"][-1], run["boxes"]
        if boxes is None:
            places = ["no boxes", "-", "-"]
        else:
            places = [percent(boxes["glimpses"][0]["inside"])]
            places += [
                f"{100 * boxes['others'][k]['inside']['value']:.1f}" for k in ("centre", "random")
            ]
        scores = [
            percent(last[name]) if name in last else "-" for name in ("learned", "center", "random")
        ]
        rows.append((run["title"], *places, *scores))
    header = "model | first fixation in a dog's box, % | centre | random | mA, % | at the centre"
    return table(f"{header} | at random", rows)


def _sentences(run: Row) -> list[str]:
    """State what the tables show; every word is chosen by an interval."""
    lines = []
    boxes = run["boxes"]
    if boxes is not None:
        first, others = boxes["glimpses"][0], boxes["others"]
        lines.append(
            f"- **On the dog?** The first fixation falls in a dog's box in "
            f"{in_words(first['inside'])} of the images: "
            f"{compared(first['inside_minus_centre'], 'the middle of the image')} "
            f"({100 * others['centre']['inside']['value']:.1f}%), "
            f"{compared(first['inside_minus_random'], 'a random place')} "
            f"({100 * others['random']['inside']['value']:.1f}%)."
        )
        off = boxes["off_centre"]
        if off is not None:
            lines.append(
                f"- **And where the middle misses?** In the {off['images']:,} images whose "
                f"middle lies in no box, {in_words(off['learned'][0])} of the first fixations fall "
                f"in one, and {100 * off['others']['random']['value']:.1f}% of random places."
            )
        chose = first.get("chosen", first)["follows"]
        known = {axis: r for axis, r in zip("xy", chose, strict=True) if r is not None}
        single = boxes["answers"].get("one_dog", {"images": 0})["images"]
        if not known and single >= 3:
            lines.append(
                "- **Does it follow the dog?** No: it is at the same place in every image."
            )
        elif known:
            both = " and ".join(f"{r:.2f} along {axis}" for axis, r in known.items())
            shares = " and ".join(f"{100 * r * r:.0f}%" for r in known.values())
            lines.append(
                f"- **Does it follow the dog?** The first location chosen correlates with the "
                f"middle of the dog, by {both}: {shares} of how it varies from image to image "
                "goes with where the dog is."
            )
        where = boxes["answers"]
        if "first_inside" in where and "first_outside" in where:
            lines.append(
                f"- **Right where it hits?** {in_words(where['first_inside'])} of the answers are "
                f"right where the first fixation is in a box, {in_words(where['first_outside'])} "
                "where it is not (an association: hard images may be hard for both)."
            )
    if boxes is not None and boxes["frame"][0]["upper_half"] is not None:
        lines.append(
            f"- **Is it the head?** Of the first fixations in a box, "
            f"{in_words(boxes['frame'][0]['upper_half'])} lie in its upper half."
        )
    lines += _moves(run)
    last = run["answers"][-1]
    own = last.get("learned_minus_own_center")
    if own is not None:
        lines.append(
            "- **Against its own centre?** Where it looks the run's network answers "
            f"{percent(own, sign=True)} points of mA better than made to look at the centre "
            "(which it was not trained on)."
        )
    for name, what in (("center", "at the centre"), ("random", "at random places")):
        change = last.get(f"learned_minus_{name}")
        if change is not None:
            told = {1: "gains", -1: "loses"}.get(
                int(change["low"] > 0) - int(change["high"] < 0),
                "neither gains nor loses as far as can be told:",
            )
            lines.append(
                f"- **Worth it?** Against the same network with fixations {what}, choosing where "
                f"to look {told} {percent(change, sign=True)} points of mA."
            )
    change = last.get("person_minus_agent")
    if change is not None:
        lines.append(
            "- **Person and agent**: on the same images people were right "
            f"{percent(change, sign=True)} points of mA more often than the agent."
        )
    if len(run["answers"]) > 1:
        gains = ", ".join(
            f"glimpse {row['glimpses']} {percent(row['learned_gain'], sign=True)}"
            for row in run["answers"][1:]
        )
        lines.append(f"- **And a further glimpse?** Points of mA each added: {gains}.")
    return lines


def _moves(run: Row) -> list[str]:
    """State how often fixations move, and whether they follow a mirror."""
    first, *later = run["moved"]
    text = f"The first fixation is off the centre in {in_words(first['from_centre'])} of the images"
    for number, row in enumerate(later, 2):
        text += f"; glimpse {number} is elsewhere than the one before in "
        text += in_words(row["from_previous"])
    lines = [f"- **Does it move?** {text}."]
    mirrored = run["mirrored"]
    if mirrored is not None:
        row = mirrored["glimpses"][0]
        text = (
            f"Of {mirrored['images']:,} images shown mirrored, {in_words(row['agrees'])} get the "
            "mirrored first fixation"
        )
        if row["off_the_line"] is not None:
            text += (
                f"; of the {row['count_off_the_line']:,} looked at beside the middle line, "
                f"{in_words(row['off_the_line'])}"
            )
        lines.append(f"- **And in a mirror?** {text}.")
    return lines


def _places(run: Row) -> list[str]:
    boxes, fixations = run["boxes"], run["fixations"]
    if boxes is None:
        pairs = enumerate(zip(fixations["mean"], fixations["spread"], strict=True), 1)
        rows = [(f"glimpse {t}", _pair(mean), _pair(spread)) for t, (mean, spread) in pairs]
        return table("fixation | mean x, y | spread x, y", rows)
    rows = []
    for t, row in enumerate(boxes["glimpses"]):
        minus = [percent(row[f"inside_minus_{name}"], sign=True) for name in ("centre", "random")]
        looked = (_pair(row["follows"]), _pair(fixations["spread"][t]))
        rows.append((f"glimpse {t + 1}, looked", *_reach(row, *minus), *looked))
        if "chosen" in row:
            chose = (_pair(row["chosen"]["follows"]), _pair(fixations["chosen_spread"][t]))
            rows.append((f"glimpse {t + 1}, chosen", *_reach(row["chosen"]), *chose))
    rows += [(name, *_reach(row)) for name, row in boxes["others"].items()]
    header = "fixation | in a box, % | minus centre | minus random | distance to a box"
    return table(f"{header} | to its middle | follows x, y | spread x, y", rows)


def _reach(row: Row, *minus: str) -> tuple[str, ...]:
    """How often a box is hit, compared with others where given, and how far it is."""
    lengths = (number(row["distance"]), number(row["middle_distance"]))
    return (percent(row["inside"]), *(minus or ("", "")), *lengths)


def _face(face: Row) -> list[str]:
    """State whether fixations fall on the face, by keypoints that were not made for this."""
    lines = [
        f"Over the {face['images']:,} images where keypoints tell of a face: the box around ear "
        "bases, nose, chin and eyes, grown by a quarter of its longer side.",
        "",
    ]
    rows = [(f"glimpse {t}", row) for t, row in enumerate(face["glimpses"], 1)]
    rows += [("centre", face["centre"]), ("random", face["random"])]
    return lines + table("fixation | on the face, %", [(who, percent(row)) for who, row in rows])


def _answers(run: Row) -> list[str]:
    rows = run["answers"]
    references = [name for name in ("center", "own_center", "random") if name in rows[0]]
    titles = ["glimpses", "pixels (of 224 x 224)", "mA, %", "gain"]
    for name in references:
        what = {"center": "centre", "own_center": "centre, same network"}.get(name, name)
        titles += [f"mA at {what}", f"learned minus {what}"]
    lines = []
    for row in rows:
        gain = percent(row["learned_gain"], sign=True) if "learned_gain" in row else ""
        cells = [
            str(row["glimpses"]),
            f"{row['pixels']:,} ({100 * row['of_224']:.0f}%)",
            percent(row["learned"]),
            gain,
        ]
        for name in references:
            cells += [percent(row[name]), percent(row[f"learned_minus_{name}"], sign=True)]
        lines.append(cells)
    return table(" | ".join(titles), lines)


def _two_dogs(run: Row, near_line: float) -> list[str]:
    """The paper's pathology: with two dogs, does it look between them (section 3)?"""
    parts = run["boxes"]["several_dogs"]
    if not parts:
        return ["No image here has more than one box."]
    lines = []
    if "apart" in parts:
        part = parts["apart"]
        first, others = part["learned"][0], part["others"]
        lines += [
            f"In {part['images']:,} images there are several dogs whose boxes do not overlap. "
            f"The first fixation falls between two of them in {in_words(first['hull'])}: "
            f"{compared(first['hull_minus_centre'], 'the middle of the image')} "
            f"({100 * others['centre']['hull']['value']:.1f}%), "
            f"{compared(first['hull_minus_random'], 'a random place')} "
            f"({100 * others['random']['hull']['value']:.1f}%). It falls in one of them in "
            f"{in_words(first['one'])}, the middle in "
            f"{100 * others['centre']['one']['value']:.1f}%, a random place in "
            f"{100 * others['random']['one']['value']:.1f}%.",
            "",
        ]
    answers = run["boxes"]["answers"]
    if "one_dog" in answers and "several_dogs" in answers:
        lines += [
            f"Answers are right in {in_words(answers['several_dogs'])} of the images with "
            f"several boxes, and in {in_words(answers['one_dog'])} of those with one.",
            "",
        ]
    lines += [
        "Share of fixations, %. *Between* is in no box, but within the convex hull of the two "
        "largest; *near the line* is in no box, but at most "
        f"{near_line:g} short sides from the line between their middles.",
        "",
    ]
    laid = []
    for name, title in (("all", "several boxes"), ("apart", "several boxes, none overlapping")):
        if name not in parts:
            continue
        part = parts[name]
        rows = [(f"glimpse {t}, looked", row) for t, row in enumerate(part["learned"], 1)]
        rows += [(f"glimpse {t}, chosen", row) for t, row in enumerate(part.get("chosen", []), 1)]
        rows += list(part["others"].items())
        for who, row in rows:
            cells = [percent(row[key]) for key in ("none", "one", "overlap", "hull", "line")]
            laid.append((f"{title} ({part['images']:,})", who, *cells))
    header = "images | fixation | in none | in one | in the overlap | between | near the line"
    return lines + table(header, laid)


def _pair(values: list[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.2f}" for value in values)

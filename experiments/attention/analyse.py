"""`glimpse attention`: what the attention is worth, judged by boxes that no agent ever sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from encoders.bank.feature_bank import FeatureBank
from experiments.attention.as_job import SETTINGS, analysed as analysed, run_as_job
from experiments.attention.config import AttentionConfig
from experiments.attention.keypoints import read_faces
from experiments.attention.measures import (
    LENGTHS,
    NEAR_LINE,
    SHARES,
    Measures,
    Scenery,
    as_record,
    follows,
    in_dogs_frame,
    lattice_shares,
    measure_all,
    measure_lattice,
    measure_uniform,
    summarise,
    survey,
)
from experiments.attention.moves import frame_histogram, moved, under_a_mirror
from experiments.attention.people import PEOPLE, Played, is_record, read_people, tabulate_people
from experiments.attention.plot import PlotData, draw_attention
from experiments.attention.report import format_attention
from experiments.attention.scanpaths import tabulate, write_scanpaths
from experiments.cluster.config import LOCAL
from experiments.metrics import (
    Estimate,
    bootstrap_interval,
    class_mean_difference,
    mean_class_accuracy,
    mean_estimate,
    share_estimate,
)
from experiments.runtime.runs import to_record, write_json
from experiments.train.evaluate import at_centre
from experiments.train.factory import describe_dataset
from experiments.train.playback import OpenRun, Playback, open_run, play_back, run_titles
from experiments.train.table1_cells import model_title
from glimpse_env.pyramids.pyramid import PATCH_SIDE

OWN_CENTRE = "own_center"
"""The run's own network, made to look at the centre."""

_WHOLE = 224
_PLACES = ("inside", *LENGTHS)
_TWO = tuple(name for name in SHARES if name != "inside")


def pixel_budget(num_glimpses: int, num_resolutions: int, *, context: bool = True) -> int:
    """Pixels an answer rests on: S x T patches, and the context if it was looked at (section 3)."""
    return (num_glimpses * num_resolutions + int(context)) * PATCH_SIDE**2


def score_answers(
    watched: dict[str, Playback], num_classes: int, num_resolutions: int
) -> list[dict[str, Any]]:
    """Say what answers are worth after each glimpse: mA, what it added, what choosing added.

    Args:
        watched: `learned` and perhaps references, on the same images.
        num_classes: K.
        num_resolutions: S.
    """
    learned, rows = watched["learned"], []
    for n in range(1, len(learned.fixations) + 1):
        pixels = pixel_budget(n, num_resolutions)
        row: dict[str, Any] = {
            "glimpses": n,
            "pixels": pixels,
            "of_224": round(pixels / _WHOLE**2, 4),
        }
        for name, each in watched.items():
            answer = each.labels, each.predictions[n - 1], num_classes
            estimate = Estimate(mean_class_accuracy(*answer), *bootstrap_interval(*answer))
            row[name] = as_record(estimate)
            if n > 1:
                change = class_mean_difference(each.labels, each.right[n - 2], each.right[n - 1])
                row[f"{name}_gain"] = as_record(change)
            if name != "learned":
                change = class_mean_difference(
                    learned.labels, each.right[n - 1], learned.right[n - 1]
                )
                row[f"learned_minus_{name}"] = as_record(change)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Ground:
    """Measures that fixations are compared with, on the images of one data set."""

    scenery: Scenery
    """Boxes of all images."""
    centre: Measures
    """Measures of the middle of each image."""
    random: Measures
    """Measures of an even draw, in expectation."""

    @classmethod
    def of(cls, scenery: Scenery) -> Ground:
        """Measure what no agent is needed for."""
        middle = measure_all(scenery, np.zeros((1, len(scenery.sizes), 2)))
        return cls(scenery, {k: v[0] for k, v in middle.items()}, measure_uniform(scenery))


def judge_places(
    watched: Playback, ground: Ground, lattice: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Any]:
    """Compare where an agent looks with the boxes: the part of the record that needs some.

    Args:
        watched: What the agent did.
        ground: What to compare with.
        lattice: Points of the bank and how often an even draw ends on each; None of a live run.
    """
    scenery = ground.scenery
    known, several = scenery.counts > 0, scenery.counts > 1
    looked = measure_all(scenery, watched.fixations)
    chose = measure_all(scenery, watched.intended) if lattice is not None else None
    others = {"centre": ground.centre, "random": ground.random}
    if lattice is not None:
        others["random on the lattice"] = measure_lattice(scenery, *lattice)

    def rows_of(
        measures: Measures, names: tuple[str, ...], chosen: np.ndarray, *, expected: bool = False
    ) -> dict[str, Any]:
        found = summarise(measures, chosen, names, expected=expected)
        return {k: as_record(v) for k, v in found.items()}

    def rows_of_others(names: tuple[str, ...], chosen: np.ndarray) -> dict[str, Any]:
        return {
            name: rows_of(other, names, chosen, expected=name != "centre")
            for name, other in others.items()
        }

    glimpses = []
    for t in range(len(watched.fixations)):
        here = {name: values[t] for name, values in looked.items()}
        row: dict[str, Any] = {"glimpse": t + 1, **rows_of(here, _PLACES, known)}
        for name, other in others.items():
            change = here["inside"][known] - other["inside"][known]
            row[f"inside_minus_{name.replace(' ', '_')}"] = as_record(mean_estimate(change))
        row["follows"] = [_rounded(r) for r in follows(scenery, watched.fixations[t])]
        if chose is not None:
            there = {name: values[t] for name, values in chose.items()}
            row["chosen"] = rows_of(there, _PLACES, known)
            row["chosen"]["follows"] = [_rounded(r) for r in follows(scenery, watched.intended[t])]
        glimpses.append(row)
    record: dict[str, Any] = {
        "images": int(known.sum()),
        "glimpses": glimpses,
        "others": rows_of_others(_PLACES, known),
        "off_centre": None,
        "answers": _right_where(watched, looked["inside"][0], known, scenery.counts),
        "several_dogs": {},
    }
    off = known & (ground.centre["inside"] < 0.5)
    if off.any():
        record["off_centre"] = {
            "images": int(off.sum()),
            "learned": [
                as_record(share_estimate(looked["inside"][t][off] > 0.5))
                for t in range(len(watched.fixations))
            ],
            "others": {
                name: row["inside"] for name, row in rows_of_others(("inside",), off).items()
            },
        }
    for name, chosen in {"all": several, "apart": scenery.apart}.items():
        if chosen.any():
            part: dict[str, Any] = {"images": int(chosen.sum()), "learned": []}
            for t in range(len(watched.fixations)):
                here = {key: values[t] for key, values in looked.items()}
                row = rows_of(here, _TWO, chosen)
                for other_name, other in others.items():
                    for key in ("hull", "line"):
                        change = mean_estimate(here[key][chosen] - other[key][chosen])
                        row[f"{key}_minus_{other_name.replace(' ', '_')}"] = as_record(change)
                part["learned"].append(row)
            if chose is not None:
                part["chosen"] = [
                    rows_of({key: values[t] for key, values in chose.items()}, _TWO, chosen)
                    for t in range(len(watched.fixations))
                ]
            part["others"] = rows_of_others(_TWO, chosen)
            record["several_dogs"][name] = part
    return record


def _right_where(
    watched: Playback, inside: np.ndarray, known: np.ndarray, counts: np.ndarray
) -> dict[str, Any]:
    """Share of right answers by where the first fixation fell, and by the number of dogs."""
    right = watched.right[-1]
    groups = {
        "first_inside": known & (inside > 0.5),
        "first_outside": known & (inside < 0.5),
        "one_dog": counts == 1,
        "several_dogs": counts > 1,
    }
    return {
        name: {"images": int(chosen.sum())} | as_record(share_estimate(right[chosen]))
        for name, chosen in groups.items()
        if chosen.any()
    }


def analyse(
    run: OpenRun,
    title: str,
    watched: dict[str, Playback],
    ground: Ground,
    config: AttentionConfig,
    faces: Ground | None = None,
) -> tuple[dict[str, Any], PlotData]:
    """Judge one run by what its agents did: its record, and what its image is drawn from."""
    scenery = ground.scenery
    centred = at_centre(run.agents["learned"])
    watched = watched | {
        OWN_CENTRE: play_back(centred, run.env, images=scenery.images, seed=config.seed)
    }
    lattice = None
    if isinstance(run.source, FeatureBank):
        points = np.asarray(run.source.fixations, np.float64)
        lattice = points, lattice_shares(run.source.snap, len(points))
    answers = score_answers(watched, len(run.dataset.class_names), len(run.resolutions))
    facts = run.describe() | {
        "two_dogs": config.two_dogs,
        "mirrored": under_a_mirror(run, watched["learned"].fixations, scenery.images, config.seed),
    }
    record, plot = _judge(title, watched["learned"], facts, answers, ground, lattice)
    if faces is not None:
        record["face"] = judge_faces(watched["learned"], faces)
    return record, plot


def judge_faces(watched: Playback, faces: Ground) -> dict[str, Any]:
    """Measure whether an agent looks at the face, where keypoints tell of one.

    Args:
        watched: What the agent did.
        faces: What to compare with, its boxes those of the faces.
    """
    known = faces.scenery.counts > 0
    looked = measure_all(faces.scenery, watched.fixations)["inside"]
    return {
        "images": int(known.sum()),
        "glimpses": [as_record(share_estimate(each[known] > 0.5)) for each in looked],
        "centre": as_record(share_estimate(faces.centre["inside"][known] > 0.5)),
        "random": as_record(mean_estimate(faces.random["inside"][known])),
    }


def analyse_people(played: Played) -> list[tuple[dict[str, Any], PlotData]]:
    """Judge what people did, and their agent on the same images, as agents are judged."""
    ground = Ground.of(survey(played.dataset, played.images))
    looks = len(played.fixations[PEOPLE])
    title = model_title(played.resolutions, looks)
    found = []
    for who, watched in played.watched().items():
        facts = {
            "run": str(played.source),
            "people": {"who": who, "sessions": played.sessions, "against": played.run},
            "split": played.dataset.split,
            "resolutions": list(played.resolutions),
            "num_glimpses": looks,
            "lattice": None,
            "dataset": describe_dataset(played.dataset),
            "two_dogs": False,
            "mirrored": None,
        }
        # What a person believes between the looks is not asked.
        last = replace(
            watched,
            fixations=watched.fixations[-1:],
            intended=watched.intended[-1:],
            log_probs=watched.log_probs[-1:],
        )
        classes = len(played.dataset.class_names)
        (row,) = score_answers({"learned": last}, classes, len(played.resolutions))
        pixels = pixel_budget(looks, len(played.resolutions))
        row |= {"glimpses": looks, "pixels": pixels, "of_224": round(pixels / _WHOLE**2, 4)}
        change = played.person_minus_agent()
        if who == PEOPLE and change is not None:
            row["person_minus_agent"] = as_record(change)
        found.append(_judge(f"{who}, {title}", watched, facts, [row], ground, None))
    return found


def _judge(
    title: str,
    learned: Playback,
    facts: dict[str, Any],
    answers: list[dict[str, Any]],
    ground: Ground,
    lattice: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[dict[str, Any], PlotData]:
    """The record of one player, and what its image is drawn from."""
    scenery = ground.scenery
    record: dict[str, Any] = facts | {
        "title": title,
        "images": len(scenery.images),
        "fixations": {
            "mean": learned.fixations.mean(axis=1).round(4).tolist(),
            "spread": learned.fixations.std(axis=1).round(4).tolist(),
            "chosen_mean": learned.intended.mean(axis=1).round(4).tolist(),
            "chosen_spread": learned.intended.std(axis=1).round(4).tolist(),
        },
        "moved": moved(learned.fixations),
        "answers": answers,
        "boxes": None,
    }
    in_box = [in_dogs_frame(scenery, each) for each in learned.fixations]
    if (scenery.counts > 0).any():
        record["boxes"] = judge_places(learned, ground, lattice)
        record["boxes"]["frame"] = [frame_histogram(places) for places in in_box]
    plot = PlotData(
        title=title,
        record=record,
        fixations=learned.fixations,
        intended=learned.intended,
        in_box=in_box,
        lattice=None if lattice is None else lattice[0],
    )
    return record, plot


def attention(config: AttentionConfig) -> dict[str, Any]:
    """Analyse the runs; writes attention.json, attention.md and attention.png.

    Raises:
        RunError: a folder without a run or a checkpoint, or a damaged record of `glimpse play`; no
            cluster answers, or the job failed.
    """
    if config.on.cluster != "local":
        return run_as_job(config)
    grounds: dict[str, Ground] = {}
    faces: dict[str, Ground] = {}
    records, plots, tables = [], [], []
    runs = [path for path in config.runs if not is_record(path)]
    titles = dict(zip(runs, run_titles(runs), strict=True))
    for path in config.runs:
        if path not in titles:
            played = read_people(path, data_dir=config.data_dir, dataset=config.dataset)
            for record, plot in analyse_people(played):
                records.append(record)
                plots.append(plot)
            if config.scanpaths is not None:
                sizes = survey(played.dataset, played.images).sizes
                tables += tabulate_people(played, sizes, faces=config.keypoints is not None)
            continue
        run = open_run(
            path,
            config.split,
            bank=config.bank,
            live=config.live,
            data_dir=config.data_dir,
            num_images=config.count,
            two_dogs=config.two_dogs,
        )
        key = run.dataset.fingerprint
        if key not in grounds:
            images = np.random.default_rng(config.seed).permutation(len(run.dataset))
            grounds[key] = Ground.of(survey(run.dataset, np.sort(images[: config.count])))
            if config.keypoints is not None:
                scenery = grounds[key].scenery
                found = read_faces(config.keypoints, run.dataset, scenery.images)
                faces[key] = Ground.of(replace(scenery, boxes=found))
        scenery = grounds[key].scenery
        watched = {
            name: play_back(agent, run.env, images=scenery.images, seed=config.seed)
            for name, agent in run.agents.items()
        }
        known = faces.get(key)
        record, plot = analyse(run, titles[path], watched, grounds[key], config, known)
        if config.scanpaths is not None:
            tables += [
                tabulate(
                    run.dataset,
                    scenery.sizes,
                    each,
                    run=titles[path],
                    agent=name,
                    resolutions=run.resolutions,
                    faces=known and known.scenery.boxes,
                )
                for name, each in watched.items()
            ]
        records.append(record)
        plots.append(plot)
    result = {
        "split": config.split,
        "seed": config.seed,
        "near_line": NEAR_LINE,
        "runs": records,
    }
    text = format_attention(result)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / SETTINGS).unlink(missing_ok=True)
    write_json(config.out / "attention.json", result)
    (config.out / "attention.md").write_text(text + "\n", encoding="utf-8")
    draw_attention(plots, config.out / "attention.png")
    print(text)
    print(f"\nwritten: {config.out}/attention.json, attention.md, attention.png")
    if config.scanpaths is not None and tables:
        print(f"{config.scanpaths}: {write_scanpaths(config.scanpaths, tables):,} glimpses")
    elif config.scanpaths is not None:
        print("--scanpaths: no agent was watched; people's looks stand in their own records")
    write_json(config.out / SETTINGS, to_record(replace(config, on=LOCAL)))
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)

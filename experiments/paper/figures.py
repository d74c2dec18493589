"""`glimpse figures`: the paper's Figures 3, 5 and 6 from finished runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from matplotlib.figure import Figure

from experiments.paper.config import FiguresConfig
from experiments.paper.figure_parts import Shown, figure_3, figure_5, figure_6, save
from experiments.runtime.markdown import table
from experiments.runtime.runs import RunError, write_json
from experiments.train.playback import Playback, open_run, play_back, run_titles
from glimpse_env.datasets.base import ImageDataset

_POOL = 48
_COUNTS = {5: 6, 6: 10}


@dataclass(frozen=True)
class Model:
    """One run, watched on the images that the figures may show."""

    title: str
    """Title for people to read."""
    record: dict[str, Any]
    """Which run and checkpoint it is."""
    resolutions: tuple[str, ...]
    """What each glimpse shows."""
    watched: Playback
    """What it did."""

    def show(self, dataset: ImageDataset, index: int) -> Shown:
        """Show what it did on one of the images played."""
        (place,) = np.flatnonzero(self.watched.images == index)
        named = int(self.watched.predictions[-1, place])
        return Shown(
            image=dataset.image(index),
            fixations=self.watched.fixations[:, place],
            resolutions=self.resolutions,
            truth=dataset.class_names[int(self.watched.labels[place])],
            answer=dataset.class_names[named],
        )


def travel(fixations: Float[np.ndarray, "T N 2"]) -> Float[np.ndarray, " N"]:
    """Mean distance between any two fixations of a scanpath, in [-1, 1] units; 0 of one glimpse."""
    looks = len(fixations)
    if looks < 2:
        return np.zeros(fixations.shape[1])
    apart = np.linalg.norm(fixations[:, None] - fixations[None], axis=-1)
    return apart.sum(axis=(0, 1)) / (looks * (looks - 1))


def best_example(
    right: Bool[np.ndarray, "models N"], traveled: Float[np.ndarray, "models N"]
) -> int:
    """Find where most models are right, and among those where fixations lie furthest apart.

    Returns:
        Its place along N; the first among equals.
    """
    votes = right.sum(axis=0)
    return int(np.where(votes == votes.max(), traveled.mean(axis=0), -1.0).argmax())


def choose_images(config: FiguresConfig, num_images: int) -> dict[int, Int64[np.ndarray, " n"]]:
    """Indices each figure may show; Figure 3 shows one of its own.

    Raises:
        ValueError: `--image` is not in the split.
    """
    if config.image is not None and not 0 <= config.image < num_images:
        raise ValueError(
            f"--image {config.image} is not in split {config.split!r}, which has {num_images} "
            f"images: give one of 0 to {num_images - 1}"
        )
    order = np.random.default_rng(config.seed).permutation(num_images)
    chosen = {n: order[: config.count or _COUNTS[n]] for n in (5, 6) if n in config.which}
    if 3 in config.which:
        chosen[3] = order[:_POOL] if config.image is None else np.array([config.image])
    return chosen


def load_models(
    config: FiguresConfig,
) -> tuple[list[Model], ImageDataset, dict[int, Int64[np.ndarray, " n"]]]:
    """Open every run and watch it on the same images.

    Raises:
        RunError: a folder without a run or a checkpoint, or runs of different images.
    """
    models: list[Model] = []
    dataset: ImageDataset | None = None
    chosen: dict[int, Int64[np.ndarray, " n"]] = {}
    most = max(_POOL, config.count or max(_COUNTS.values()))
    for folder, title in zip(config.run, run_titles(config.run), strict=True):
        run = open_run(
            folder,
            config.split,
            bank=config.bank,
            live=config.live,
            data_dir=config.data_dir,
            num_images=most,
        )
        if run.config.choose_scale:
            raise RunError(
                f"the agent of {folder} chooses the scale of its glimpses, and the figures draw "
                "ordinary ones: give runs without --choose-scale (`glimpse evaluate` draws its own "
                "images of this one)"
            )
        if dataset is None:
            dataset = run.dataset
            chosen = choose_images(config, len(dataset))
        elif run.dataset.fingerprint != dataset.fingerprint:
            raise RunError(
                f"{folder} is of other images than {config.run[0]}: draw runs of one data set "
                "together, the others into another --out"
            )
        images = np.unique(np.concatenate(list(chosen.values())))
        watched = play_back(run.agents["learned"], run.env, images=images, seed=config.seed)
        models.append(Model(title, run.describe(), run.resolutions, watched))
    assert dataset is not None
    return models, dataset, chosen


def figures(config: FiguresConfig) -> dict[str, Any]:
    """Draw the figures; writes the figures, figures.json and figures.md.

    Raises:
        RunError: see `load_models`.
        ValueError: see `choose_images`.
    """
    models, dataset, chosen = load_models(config)
    config.out.mkdir(parents=True, exist_ok=True)
    drawn: list[dict[str, Any]] = []
    if 3 in config.which:
        drawn.append(_draw_3(config, models, dataset, chosen[3]))
    if 5 in config.which:
        for number, model in enumerate(models, 1):
            alone = len(models) == 1
            name = "figure-5" if alone else f"figure-5-{number}-{_slug(model.title)}"
            drawn.append(_draw_5(config, model, dataset, chosen[5], name))
    if 6 in config.which:
        drawn.append(_draw_6(config, models, dataset, chosen[6]))
    record = {
        "split": config.split,
        "seed": config.seed,
        "models": [model.record | {"title": model.title} for model in models],
        "figures": drawn,
    }
    write_json(config.out / "figures.json", record)
    (config.out / "figures.md").write_text(captions(record) + "\n", encoding="utf-8")
    for each in drawn:
        print(f"{config.out / each['file']}: {each['caption']}")
    return record


def captions(record: dict[str, Any]) -> str:
    """The figures with their captions, and how to repeat them, as Markdown."""
    lines = []
    for each in record["figures"]:
        path = Path(each["file"])
        # A page of Markdown shows no PDF; a link leads to it.
        shown = "" if path.suffix == ".pdf" else "!"
        lines += [
            f"{shown}[{path.stem}]({path.name})",
            "",
            f"**Figure {each['figure']}.** {each['caption']}",
            "",
        ]
    lines += [
        f"Split `{record['split']}`, seed {record['seed']}; images and answers one by one in "
        "`figures.json`.",
        "",
        *table("model | run | checkpoint | epoch | fixations", map(_row, record["models"])),
    ]
    return "\n".join(lines)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    where = "anywhere" if model["lattice"] is None else f"on {model['lattice']} points"
    run, checkpoint = f"`{model['run']}`", f"`{model['checkpoint']}`"
    return model["title"], run, checkpoint, str(model["epoch"]), where


def _draw_3(
    config: FiguresConfig, models: Sequence[Model], dataset: ImageDataset, pool: np.ndarray
) -> dict[str, Any]:
    rule = "chosen by hand"
    index = int(pool[0])
    if config.image is None:
        places = [np.searchsorted(model.watched.images, pool) for model in models]
        right = np.stack([m.watched.right[-1, p] for m, p in zip(models, places, strict=True)])
        far = np.stack(
            [travel(m.watched.fixations[:, p]) for m, p in zip(models, places, strict=True)]
        )
        index = int(pool[best_example(right, far)])
        rule = (
            f"of {len(pool)} random images, among those that most of the models answer right, "
            "the one whose fixations lie furthest apart"
        )
    shown = [(model.title, model.show(dataset, index)) for model in models]
    file = _save(config, "figure-3", figure_3(shown))
    letters = "; ".join(
        f"({letter}) {title}" for letter, (title, _) in zip("abcd", shown, strict=False)
    )
    return {
        "figure": 3,
        "file": file,
        "caption": f"Glimpses with learned fixations: {letters}. The box diagram is of the second "
        "glimpse (of the first, if there is one); the composite shows at each pixel the sharpest "
        "pixel of any glimpse, and noise where none looked. The context is not shown. Image: "
        f"{rule}.",
        "rule": rule,
        "images": [_describe(dataset, index, models)],
    }


def _draw_5(
    config: FiguresConfig, model: Model, dataset: ImageDataset, images: np.ndarray, name: str
) -> dict[str, Any]:
    examples = [model.show(dataset, index) for index in images.tolist()]
    file = _save(config, name, figure_5(model.title, examples))
    return {
        "figure": 5,
        "file": file,
        "caption": f"Random images of `{config.split}` by the model {model.title}: (a) the "
        "image, with the outline of what each glimpse covers; (b) the context, from which the "
        "first fixation is chosen; (c) the glimpses. Green frames are right answers, red ones "
        "wrong.",
        "images": [_describe(dataset, index, [model]) for index in images.tolist()],
    }


def _draw_6(
    config: FiguresConfig, models: Sequence[Model], dataset: ImageDataset, images: np.ndarray
) -> dict[str, Any]:
    rows = [[model.show(dataset, index) for model in models] for index in images.tolist()]
    titles = [model.title for model in models]
    file = _save(config, "figure-6", figure_6(titles, rows))
    return {
        "figure": 6,
        "file": file,
        "caption": f"{len(rows)} random images of `{config.split}`, the same for each model: on "
        "the left the image with its fixations in order, on the right the composite of the "
        "glimpses. Green frames are right answers, red ones wrong.",
        "images": [_describe(dataset, index, models) for index in images.tolist()],
    }


def _describe(dataset: ImageDataset, index: int, models: Sequence[Model]) -> dict[str, Any]:
    answers = []
    for model in models:
        (place,) = np.flatnonzero(model.watched.images == index)
        answers.append(
            {
                "model": model.title,
                "answer": dataset.class_names[int(model.watched.predictions[-1, place])],
                "right": bool(model.watched.right[-1, place]),
                "fixations": model.watched.fixations[:, place].round(4).tolist(),
            }
        )
    return {
        "image": index,
        "name": dataset.name(index),
        "label": dataset.class_names[int(dataset.labels[index])],
        "answers": answers,
    }


def _save(config: FiguresConfig, name: str, figure: Figure) -> str:
    """Write one figure; returns its file's name."""
    path = config.out / f"{name}.{config.format}"
    save(figure, path)
    return path.name


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")

"""Records of `glimpse play`, read for `glimpse attention`: people's looks, and their agent's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from experiments.attention.scanpaths import Columns, tabulate
from experiments.data import DataConfig, build_dataset
from experiments.metrics import Estimate, class_mean_difference
from experiments.play.session import Episode, EventError, Rules, Session
from experiments.play.store import RecordError, read_record
from experiments.runtime.runs import RunError, from_record
from experiments.train.playback import Playback
from glimpse_env.datasets.base import ImageDataset

PEOPLE = "people"
AGENT = "the agent on the same images"

_GAME = ("data", "split", "fingerprint", "images", "resolutions", "num_glimpses", "num_classes")


@dataclass(frozen=True)
class Played:
    """Answers of people and of the agent they played against, on the images people answered."""

    source: Path
    """The record, or the folder of them."""
    sessions: int
    """Number of records read."""
    run: str | None
    """The agent's run."""
    resolutions: tuple[str, ...]
    """What each look showed."""
    dataset: ImageDataset
    """Images of the split."""
    images: Int64[np.ndarray, " N"]
    """Their indices; one that two people played is there twice."""
    labels: Int64[np.ndarray, " N"]
    """True class of each image."""
    fixations: dict[str, Float[np.ndarray, "T N 2"]]
    """Where who looked: `PEOPLE`, and `AGENT` where one played every one of these images."""
    answers: dict[str, Int64[np.ndarray, " N"]]
    """What who answered."""

    def watched(self) -> dict[str, Playback]:
        """The same as an agent's run gives it; of beliefs nothing is known but the answer."""
        found = {}
        for who, fixations in self.fixations.items():
            sure = np.full((len(self.images), len(self.dataset.class_names)), -np.inf)
            sure[np.arange(len(self.images)), self.answers[who]] = 0.0
            log_probs = np.broadcast_to(sure, (len(fixations), *sure.shape))
            found[who] = Playback(self.images, self.labels, log_probs, fixations, fixations)
        return found

    def person_minus_agent(self) -> Estimate | None:
        """The difference of their mA on the same images; None without an agent."""
        if AGENT not in self.answers:
            return None
        right = {who: answers == self.labels for who, answers in self.answers.items()}
        return class_mean_difference(self.labels, right[AGENT], right[PEOPLE])


def tabulate_people(
    played: Played, sizes: Sequence[tuple[int, int]], *, faces: bool = False
) -> list[Columns]:
    """The scanpaths of people, and of their agent on the same images, as `tabulate` has agents'.

    What nobody asked is empty: an answer before the last look, and every probability.

    Args:
        played: What was played.
        sizes: Width and height of each image played, in pixels.
        faces: Whether the other tables say what lies on a face; here it stays empty.
    """
    tables = []
    for who, watched in played.watched().items():
        table = tabulate(
            played.dataset,
            sizes,
            watched,
            run=str(played.source),
            agent=who,
            resolutions=played.resolutions,
        )
        early = table["glimpse"] < len(watched.fixations)
        rows = len(early)
        for name in table:
            if name in ("answer", "right"):
                known = table[name].astype(object)
                known[early] = None
                table[name] = known
            elif name == "confidence" or name.startswith("probability:"):
                table[name] = np.full(rows, None, object)
        if faces:  # after the confidence, as there
            at = list(table).index("confidence") + 1
            items = list(table.items())
            table = dict([*items[:at], ("on_face", np.full(rows, None, object)), *items[at:]])
        tables.append(table)
    return tables


def is_record(path: Path) -> bool:
    """Return whether a path is a record of `glimpse play`, or a folder of such."""
    if path.is_dir():
        return not (path / "config.json").exists() and any(path.glob("session-*.jsonl"))
    return path.suffix == ".jsonl"


def read_people(path: Path, *, data_dir: Path | None = None, dataset: str | None = None) -> Played:
    """Read a record, or all of a folder's together.

    Episodes without an answer are left out.

    Args:
        path: `session-*.jsonl`, or the folder of them.
        data_dir: Folder of the images, if it has moved.
        dataset: The data set that the record may name, where that is code to import.

    Raises:
        RunError: A file is no record or a damaged one, they are of several games, nobody has
            answered yet, the images are other ones now, or they come from code that nobody but
            the record has named.
    """
    files = sorted(path.glob("session-*.jsonl")) if path.is_dir() else [path]
    headers, episodes = [], []
    for file in files:
        header, finished = _read(file)
        if headers and any(header.get(key) != headers[0].get(key) for key in _GAME):
            raise RunError(
                f"{file} and {files[0]} are records of different games: give them one by one"
            )
        headers.append(header)
        episodes += finished
    if not episodes:
        raise RunError(f"nobody has named a breed yet in {path}: play an episode to its answer")
    header = headers[0]
    if not header.get("truth_known", True):
        raise RunError(
            f"{path} is of somebody's own images, of which neither breed nor box is known: there "
            "is nothing to judge by"
        )
    _check_no_code(path, header, dataset)
    return _put_together(path, header, len(files), episodes, data_dir)


def _check_no_code(path: Path, header: dict[str, Any], dataset: str | None) -> None:
    """Refuse a record that would import code which the person here has not named too."""
    data = header.get("data")
    name = data.get("dataset") if isinstance(data, dict) else None
    if isinstance(name, str) and ":" in name and name != dataset:
        raise RunError(
            f"{path} was played on the data set {name!r}, which is code that a record alone does "
            f"not import: if you trust it, give --dataset {name}"
        )


def _read(file: Path) -> tuple[dict[str, Any], list[Episode]]:
    try:
        header, events, _ = read_record(file)
        rules = Rules(*(header[key] for key in ("images", "num_glimpses", "num_classes")))
        session = Session(rules)
        for event in events:
            session.apply(event)
    except (RecordError, EventError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is damaged, or no record of `glimpse play` ({error}): leave it out"
        ) from error
    return header, session.finished


def _put_together(
    path: Path,
    header: dict[str, Any],
    sessions: int,
    episodes: Sequence[Episode],
    data_dir: Path | None,
) -> Played:
    try:
        record = dict(header["data"]) | ({} if data_dir is None else {"data_dir": str(data_dir)})
        dataset = build_dataset(from_record(DataConfig, record), header["split"])
        resolutions = tuple(str(name) for name in header["resolutions"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} does not say what was played ({error}): leave it out") from error
    except ValueError as error:  # another version's data set, or one that is not installed here
        raise RunError(f"{path} is damaged, or of a data set that is not here ({error})") from error
    if dataset.fingerprint != header["fingerprint"]:
        raise RunError(
            f"{path} was played on other images than are here now: name their folder by --data-dir"
        )
    images = np.array([each.image for each in episodes], np.int64)
    fixations = {PEOPLE: np.array([each.looks for each in episodes], np.float64)}
    answers = {PEOPLE: np.array([each.label for each in episodes], np.int64)}
    agents = [each.agent for each in episodes if each.agent is not None]
    if len(agents) == len(episodes):
        fixations[AGENT] = np.array([each["fixations"] for each in agents], np.float64)
        answers[AGENT] = np.array([each["label"] for each in agents], np.int64)
    return Played(
        source=path,
        sessions=sessions,
        run=header.get("run"),
        resolutions=resolutions,
        dataset=dataset,
        images=images,
        labels=np.asarray(dataset.labels)[images],
        fixations={who: each.transpose(1, 0, 2) for who, each in fixations.items()},
        answers=answers,
    )

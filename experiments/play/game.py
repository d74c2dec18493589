"""What is played: images, what a look shows of them, and the agent that plays them too."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from experiments.play.session import Episode, Rules, Session
from glimpse_env.datasets.base import ImageDataset, read_image
from glimpse_env.pyramids.pyramid import PATCH_SIDE, RESOLUTIONS, build_pyramid, check_patch_side
from glimpse_env.retina import cut_patches, patch_boxes

_SIDE = 640
_UNSEEN = (128, 128, 128)
_REMEMBERED = 64


class OwnImages:
    """Images from files, of no known class: an `ImageDataset` to be played with an agent's breeds.

    Args:
        paths: The files.
        class_names: Breeds to choose from.

    Raises:
        FileNotFoundError, UnreadableImageError: A file is absent, or no image.
    """

    split = "own"
    training = False
    num_missing = 0

    def __init__(self, paths: Sequence[Path], class_names: tuple[str, ...]) -> None:
        """Read the images."""
        for path in paths:
            if not Path(path).is_file():
                raise FileNotFoundError(f"--image {path}: there is no such file")
        self.class_names = class_names
        self._names = [str(path) for path in paths]
        self._images = [read_image(path) for path in paths]
        self.labels = np.zeros(len(paths), np.int64)
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(str(image.shape).encode() + image.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._images)

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image, RGB."""
        return self._images[index]

    def boxes(self, index: int) -> Float[np.ndarray, "M 4"]:
        """Return no boxes: none are known."""
        return np.zeros((0, 4), np.float32)

    def name(self, index: int) -> str:
        """Return the name of a file."""
        return self._names[index]


class Player:
    """The agent of a run: what it looks at and names, image by image, each computed once."""

    def __init__(self, run: Any, *, seed: int = 0) -> None:
        """Take a run that `open_run` has opened."""
        self.run, self.seed = run, seed
        self._lock = threading.Lock()
        self._played: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def play(self, image: int) -> dict[str, Any]:
        """Return `fixations`, `label`, its `probability`, and the five `likeliest` breeds."""
        from experiments.train.playback import play_back

        with self._lock:
            if image not in self._played:
                seen = play_back(
                    self.run.agents["learned"],
                    self.run.env,
                    images=np.array([image]),
                    seed=self.seed,
                )
                probabilities = np.exp(seen.log_probs[-1, 0].astype(np.float64))
                order = np.argsort(-probabilities, kind="stable")[:5]
                fixations = np.clip(seen.fixations[:, 0].astype(np.float64), -1, 1)
                self._played[image] = {
                    "fixations": fixations.round(5).tolist(),
                    "label": int(order[0]),
                    "probability": _probability(probabilities[order[0]]),
                    "likeliest": [[int(k), _probability(probabilities[k])] for k in order],
                }
                while len(self._played) > _REMEMBERED:
                    self._played.popitem(last=False)
            return self._played[image]


class Game:
    """Images and rules, and what is to be shown of a session."""

    def __init__(
        self,
        dataset: ImageDataset,
        resolutions: Sequence[str],
        num_glimpses: int,
        *,
        patch_side: int = PATCH_SIDE,
        player: Player | None = None,
        truth_known: bool = True,
    ) -> None:
        """Take what is played.

        Args:
            dataset: The images.
            resolutions: What each look shows.
            num_glimpses: T.
            patch_side: P, of the patches that are shown.
            player: The agent, if one plays.
            truth_known: Whether the dataset's labels are the truth.
        """
        self.dataset, self.resolutions = dataset, tuple(resolutions)
        self.patch_side = check_patch_side(patch_side)
        self.player, self.truth_known = player, truth_known
        self.rules = Rules(len(dataset), num_glimpses, len(dataset.class_names))

    def next_image(self, session: Session, key: str) -> int | None:
        """Choose an image that the session has not played, in an order of its own; None if over."""
        order = np.random.default_rng(int(key, 16)).permutation(self.rules.num_images)
        played = {episode.image for episode in session.episodes}
        return next((int(image) for image in order if int(image) not in played), None)

    def outcome(self, image: int) -> dict[str, Any]:
        """Return what is told of an image after the answer: `truth` and `agent`."""
        truth = int(self.dataset.labels[image]) if self.truth_known else None
        agent = None
        if self.player is not None:
            told = self.player.play(image)
            agent = {name: told[name] for name in ("fixations", "label", "probability")}
        return {"truth": truth, "agent": agent}

    def show(self, session: Session) -> dict[str, Any]:
        """Return what a person may see of the current episode, as JSON takes it.

        The whole image and what is known of it come with the answer, not before.
        """
        episode = session.current
        image = self.dataset.image(episode.image)
        looks = np.array(episode.looks, np.float64).reshape(-1, 2)
        patches = look_at(image, looks, self.resolutions, self.patch_side)
        shown: dict[str, Any] = {
            "phase": session.phase,
            "episode": len(session.episodes) - 1,
            "left": self.rules.num_images - len(session.episodes),
            "size": fit(image),
            "seen": encode(draw_seen(image, looks, self.resolutions, self.patch_side)),
            "looks": self._places(image, looks),
            "glimpses": [[encode(patch) for patch in glimpse] for glimpse in patches],
            "score": session.score(),
            "result": None,
        }
        if session.phase == "result":
            shown["result"] = self._result(image, episode)
        return shown

    def _result(self, image: UInt8[np.ndarray, "H W 3"], episode: Episode) -> dict[str, Any]:
        width, height = fit(image)
        whole = Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        result: dict[str, Any] = {
            "image": encode(np.asarray(whole)),
            "truth": episode.truth,
            "label": episode.label,
            "right": episode.right,
            "agent": None,
        }
        if episode.agent is not None:
            points = np.array(episode.agent["fixations"], np.float64).reshape(-1, 2)
            likeliest = [[episode.agent["label"], episode.agent["probability"]]]
            if self.player is not None:
                told = self.player.play(episode.image)
                if told["label"] == episode.agent["label"]:
                    likeliest = told["likeliest"]
            result["agent"] = {
                "label": episode.agent["label"],
                "right": episode.agent_right,
                "looks": self._places(image, points),
                "likeliest": likeliest,
            }
        return result

    def _places(
        self, image: UInt8[np.ndarray, "H W 3"], looks: Float[np.ndarray, "T 2"]
    ) -> list[dict[str, Any]]:
        """Each look's place, and what it covers as shares of width and height, widest first."""
        height, width = image.shape[:2]
        boxes = patch_boxes((height, width), looks, self.resolutions, patch_side=self.patch_side)
        shares = np.asarray(boxes, np.float64) / np.tile([width, height], 2)
        return [
            {
                "x": float(x),
                "y": float(y),
                "boxes": sorted(covered.round(5).tolist(), key=lambda box: box[0] - box[2]),
            }
            for (x, y), covered in zip(looks.tolist(), shares, strict=True)
        ]


def fit(image: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int]:
    """Width and height at which an image is shown."""
    height, width = image.shape[:2]
    ratio = _SIDE / max(height, width)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def look_at(
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    resolutions: Sequence[str],
    patch_side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "T S P P 3"]:
    """The patches of each look, as an agent gets them."""
    count = len(fixations)
    pyramids = [build_pyramid(image, resolutions, patch_side)] * count
    keys = np.arange(count, dtype=np.uint64)
    return cut_patches(pyramids, fixations, np.zeros(count, bool), keys, tuple(resolutions))


def draw_seen(
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    resolutions: Sequence[str],
    patch_side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """All that was seen: the blurred context, and the looks on it, the sharpest on top."""
    width, height = fit(image)
    ratio = width / image.shape[1]
    canvas = Image.new("RGB", (width, height), _UNSEEN)
    middle = np.zeros((1, 2))
    _paste(canvas, ratio, image, middle, "low", patch_side)
    for name in sorted(resolutions, key=RESOLUTIONS.index):
        if len(fixations):
            _paste(canvas, ratio, image, fixations, name, patch_side)
    return np.asarray(canvas)


def _paste(
    canvas: Image.Image,
    ratio: float,
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    resolution: str,
    patch_side: int,
) -> None:
    height, width = image.shape[:2]
    boxes = patch_boxes((height, width), fixations, (resolution,), patch_side=patch_side)[:, 0]
    patches = look_at(image, fixations, (resolution,), patch_side)[:, 0]
    for box, patch in zip(boxes.tolist(), patches, strict=True):
        left, top, right, bottom = (round(edge * ratio) for edge in box)
        size = (max(1, right - left), max(1, bottom - top))
        drawn = Image.fromarray(np.ascontiguousarray(patch)).resize(size, Image.Resampling.BICUBIC)
        canvas.paste(drawn, (left, top))


def encode(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An image as a data URL, so that no address of a file is ever asked for."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _probability(value: float) -> float:
    return float(min(1.0, max(0.0, round(float(value), 4))))

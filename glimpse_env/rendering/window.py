"""What `render()` shows: frames of one size, and a window to show them in."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from jaxtyping import UInt8
from PIL import Image

from glimpse_env.dynamics import NEVER_RESET, GlimpseDynamics
from glimpse_env.rendering.scanpath import draw_scanpath
from glimpse_env.retina.rules import patch_boxes

FRAME_SIDE = 480
"""Side of a frame in pixels. All are of one size, since recorders of videos insist on it."""

_logger = logging.getLogger(__name__)


def warn_no_render_mode(env: Any) -> None:
    """Say that `render` was called on an environment made without a render mode."""
    gym.logger.warn(
        "render() draws nothing, since the environment was made without a render mode: pass "
        f'render_mode="rgb_array" (to {env.spec.id if env.spec else type(env).__name__})'
    )


def draw_frame(dynamics: GlimpseDynamics, row: int) -> UInt8[np.ndarray, "480 480 3"]:
    """Draw the image of an episode as the agent sees it (mirrored, perhaps) with its scanpath.

    Raises:
        ResetNeeded: Before the first reset.
    """
    looks = int(dynamics.looks[row])
    if looks == NEVER_RESET:
        raise ResetNeeded("render called before the first reset: call reset() first")
    image = dynamics.dataset.image(int(dynamics.image[row]))
    if dynamics.mirror[row]:
        image = image[:, ::-1]
    share = FRAME_SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    fitted = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height)))

    taken = min(looks, dynamics.num_glimpses)
    fixations = dynamics.scanpath[row, :taken]
    boxes = patch_boxes(
        (height, width),
        fixations,
        dynamics.observer.resolutions,
        dynamics.zooms[row, :taken],
        dynamics.options.patch_side,
    )
    correct = bool(dynamics.correct[row]) if looks > dynamics.num_glimpses else None
    drawn = draw_scanpath(fitted, fixations, boxes, correct=correct)

    frame = np.zeros((FRAME_SIDE, FRAME_SIDE, 3), np.uint8)
    top, left = (FRAME_SIDE - height) // 2, (FRAME_SIDE - width) // 2
    frame[top : top + height, left : left + width] = drawn[:height, :width]
    return frame


def tile_frames(frames: tuple[np.ndarray, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """Lay frames out as a grid, scaled down to at most 960 pixels across."""
    columns = int(np.ceil(np.sqrt(len(frames))))
    side = min(FRAME_SIDE, 960 // columns) or 1
    rows = -(-len(frames) // columns)
    grid = np.zeros((rows * side, columns * side, 3), np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // columns * side, index % columns * side
        small = Image.fromarray(frame).resize((side, side))
        grid[top : top + side, left : left + side] = np.asarray(small)
    return grid


class Window:
    """A window on the screen, by tkinter, which comes with Python.

    Where there is no screen nothing can be shown: that is logged, once a window, and no error, so
    that a program may run unattended.
    """

    def __init__(self, title: str) -> None:
        """Open the window.

        Raises:
            DependencyNotInstalled: If there is a screen, but Python came without tkinter.
        """
        self._root: Any = None
        self._label: Any = None
        if sys.platform == "linux" and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            self._report_no_screen("DISPLAY is not set")
            return
        try:
            import tkinter
        except ImportError as error:
            raise DependencyNotInstalled(
                f"render_mode='human' needs tkinter ({error}): install it (on Debian: `apt install "
                "python3-tk`), or use render_mode='rgb_array'"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            self._report_no_screen(str(error))
            return
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._label = tkinter.Label(self._root)
        self._label.pack()

    def _report_no_screen(self, reason: str) -> None:
        _logger.warning(
            "no screen to render on (%s): nothing is shown; use render_mode='rgb_array'", reason
        )

    def show(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Show a frame; nothing if there is no screen, or the window has been closed."""
        if self._root is None:
            return
        from PIL import ImageTk

        # tkinter keeps no reference to the image: without one it vanishes.
        self._label.image = ImageTk.PhotoImage(Image.fromarray(frame), master=self._root)
        self._label.configure(image=self._label.image)
        self._root.update()

    def close(self) -> None:
        """Close the window; again, too."""
        if self._root is not None:
            self._root.destroy()
            self._root = None

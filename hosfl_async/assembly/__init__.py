"""Where the rooms meet: scenario -> agents, learners and a host; a finished run -> its folder, and back.

``simulated`` and ``lived`` run the very same agents; ``building`` makes them; ``folder`` knows what a run leaves on disk, and ``stories``
reads it again.
"""

from hosfl_async.assembly.folder import free_folder
from hosfl_async.assembly.lived import run_live
from hosfl_async.assembly.progress import Progress
from hosfl_async.assembly.simulated import build_simulation, simulate
from hosfl_async.assembly.stories import ReplayResult, draw, replay, story_lines

__all__ = ["Progress", "ReplayResult", "build_simulation", "draw", "free_folder", "replay", "run_live", "simulate", "story_lines"]

"""From the journal of a run to a scenario that predicts it: what the devices, links and absences were, and how well that is told.

``observing`` reads the journal once, ``fitting`` makes figures and a scenario of it, ``predicting`` simulates that scenario and holds it
against the run.
"""

from hosfl_async.calibration.fitting import Calibration, Figure, Group, Unknown, calibrate
from hosfl_async.calibration.predicting import Compared, Course, compared, course_of

__all__ = ["Calibration", "Compared", "Course", "Figure", "Group", "Unknown", "calibrate", "compared", "course_of"]

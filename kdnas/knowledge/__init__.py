"""Teachers, and what they know: found, adapted to a data set, run once, and read from disk ever after."""

from kdnas.knowledge.adapt import adapt
from kdnas.knowledge.calibration import expected_calibration_error, fit_temperature
from kdnas.knowledge.ensemble import Ensemble
from kdnas.knowledge.lessons import Lesson, Lessons
from kdnas.knowledge.live import LiveTeacher
from kdnas.knowledge.store import Identity, Store, Target, identity_of
from kdnas.knowledge.teacher import (
    AdaptedTeacher,
    Backbone,
    InputSpec,
    Teacher,
    list_families,
    list_teachers,
    load_backbone,
    load_teacher,
    save_teacher,
)

__all__ = [
    "AdaptedTeacher",
    "Backbone",
    "Ensemble",
    "Identity",
    "InputSpec",
    "Lesson",
    "Lessons",
    "LiveTeacher",
    "Store",
    "Target",
    "Teacher",
    "adapt",
    "expected_calibration_error",
    "fit_temperature",
    "identity_of",
    "list_families",
    "list_teachers",
    "load_backbone",
    "load_teacher",
    "save_teacher",
]

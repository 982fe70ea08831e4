"""Say in plain words what is safe here, what is not, and why: the registry's filesystem, and this host."""

from clipperfs.doctor.examine import Diagnosis, examine
from clipperfs.doctor.finding import Finding, Level

__all__ = ["Diagnosis", "Finding", "Level", "examine"]

"""Seeded synthetic cases with known voxels: the data of the demo and of most tests, free of any licence.

Everything is drawn from a seed; files are written by tests.
"""

from medsam3_core.phantoms.cases import phantom_case
from medsam3_core.phantoms.kinds import PhantomKind, absent_structure, phantom_recipe, phantom_structures

__all__ = ["PhantomKind", "absent_structure", "phantom_case", "phantom_recipe", "phantom_structures"]

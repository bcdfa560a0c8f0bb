"""Cases: volumes and their geometry, structures, recipes, intensities, and findings about them.

No prompt, mask of a segmenter or file format enters.
"""

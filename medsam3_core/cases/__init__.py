"""Cases: volumes and their geometry, structures, recipes, intensities and findings about them."""

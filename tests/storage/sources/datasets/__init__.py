"""Small copies of public datasets, written in their published layouts."""

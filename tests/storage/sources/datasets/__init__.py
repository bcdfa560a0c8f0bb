"""The datasets of the field, drawn small and written in their published layouts."""

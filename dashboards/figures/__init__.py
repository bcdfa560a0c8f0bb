"""Figures and pictures: frames and volumes to Plotly figures and PNG, in one style."""

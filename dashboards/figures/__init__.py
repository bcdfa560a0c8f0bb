"""Figures, pictures and the values they show: frames and volumes to Plotly and PNG, in one style.

Neither Streamlit nor HTML enters: pages and report share this room.
"""

"""Entry of the Streamlit app: the frame round the pages. Streamlit runs this file anew on every interaction."""

import streamlit as st
from PIL import Image

from dashboards.figures.style import ACCENT
from dashboards.views.navigation import navigate

# A picture of our own: Streamlit fetches named icons for the browser tab from a server on the internet.
st.set_page_config(page_title="medsam3", page_icon=Image.new("RGB", (32, 32), ACCENT), layout="wide")
navigate()

"""Pages of the Streamlit app and their parts."""

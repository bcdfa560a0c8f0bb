"""Pages of the Streamlit app and their parts; Streamlit enters here and in `app`."""

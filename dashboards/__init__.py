"""Pages over the store: a Streamlit app for people at the machine and one HTML file to mail. Read only."""

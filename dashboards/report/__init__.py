"""The report: one self-contained HTML file to mail. No Streamlit enters."""

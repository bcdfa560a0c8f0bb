"""Small stores for tests: rows planted in tables, and stores that the product wrote in this process."""

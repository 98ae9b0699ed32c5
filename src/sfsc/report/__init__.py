"""Reports of a run: figures, ranked lists, tables in the terminal, and HTML pages."""

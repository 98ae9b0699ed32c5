"""Run folders: their files, the data sets that they name, and where results belong."""

"""Run folders: their files, the data sets that they name, and the folders of their results."""

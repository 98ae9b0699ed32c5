"""Exporting sub-models as files, measuring them on a machine, and choosing one for a platform."""

"""Sub-models as files for platforms, and the runtime that runs them without torch."""

"""The solutions of the exercises, one file per chapter."""

"""Diagnosis: measurements into findings into advice."""

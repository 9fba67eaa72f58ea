"""Relaxation of structures with a trained potential."""

"""Molecular dynamics with a trained potential."""

"""Predictors of the step period, one file each, behind one protocol (protocol.py)."""

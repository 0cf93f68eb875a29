"""Sources of steps: each turns experiment folders, or a simulation, into a step table and a table of
rejects.
"""

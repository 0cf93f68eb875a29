"""Where trees are trained: in memory, from disk, or by several processes, one file each (engine.py chooses)."""

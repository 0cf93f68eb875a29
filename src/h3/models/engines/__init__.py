"""Where trees are trained: in memory, from batches on disk, or by several processes (engine.py chooses)."""

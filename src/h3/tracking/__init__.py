"""MLflow, and nobody else: the store of runs, the readers of what they left, the model registry."""

"""What a step is: its table, the model and card that make it, its physics, its features, and how an error is
counted.
"""

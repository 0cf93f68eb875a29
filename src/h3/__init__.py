"""h3 learns how long one step of an LLM inference server takes, and proves that it generalises."""

__version__ = "0.1.0"

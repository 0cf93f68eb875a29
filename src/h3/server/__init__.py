"""A serving engine in a box: requests in, steps and request times out."""

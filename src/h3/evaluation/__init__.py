"""One fold: cut, tune, fit, predict, measure, explain. The held-out side never touches what comes before
predict.
"""

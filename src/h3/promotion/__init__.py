"""From a sweep to the champion: candidates, recipe, gate, card."""

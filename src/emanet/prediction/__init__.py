"""A trained network on pictures: masks, overlays, probabilities, attention maps, server submissions."""

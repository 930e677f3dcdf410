"""From a network and a picture to a mask, and to whoever looks at it."""

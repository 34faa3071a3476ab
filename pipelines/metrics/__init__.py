"""What is measured of a finished video, in one pass over its frames."""

"""Fisher vectors of local descriptors."""

"""Tasks that the project makes itself: procedural data sets in the Vision-SR1 schema, no download needed."""

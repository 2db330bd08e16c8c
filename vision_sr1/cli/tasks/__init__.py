"""Example tasks in the Vision-SR1 schema: two that the project makes itself, one of a public data set."""

"""What a run needs of machines, said before it is started."""

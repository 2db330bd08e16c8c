"""The command `vision-sr1`: what people run. It may import every other room of `vision_sr1`, and none imports it."""

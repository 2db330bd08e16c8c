"""Groups of commands: `vision-sr1 data …` and `vision-sr1 streams …`."""

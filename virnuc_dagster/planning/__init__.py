"""What a file will cost: its frames, counted or estimated, and what this machine needs for each of them."""

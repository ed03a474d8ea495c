"""What bench/index.py measures with, and how bench/run and it put results into a document."""

"""Fine-tuning of a potential by machines that keep their frames, with one byte for each pair of evaluations."""
